"""vsock by the host's kernel: programs of the host reach the guest by AF_VSOCK and its context id."""

from __future__ import annotations

import errno
import os

from runner.backends import Opened
from runner.backends.joined import JoinedQueues
from runner.devices.ports import OffloadedQueue
from runner.errors import HostError, HostPermissionError
from runner.host.vhost import VhostDevice
from runner.typed import TYPE_CHECKING, Any, Callable, Sequence
from runner.wire import virtio

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph

PATH = "/dev/vhost-vsock"


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open the kernel's end.  QEMU opens its own, so for it this only says early what is missing."""
    alternative = 'vsock.socket = "PATH" needs nothing of the kernel'
    try:
        fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(
            f"this host has no {PATH}", hint=f"modprobe vhost_vsock as root; {alternative}"
        ) from None
    except PermissionError:
        raise HostPermissionError(
            f"{PATH} may not be opened by this user", hint=f"sudo usermod -aG kvm $USER; {alternative}"
        ) from None
    except OSError as error:
        raise HostError(f"{PATH} cannot be opened: {error.strerror}", hint=alternative) from None
    words = f"{claim.name}: context id {claim.options['cid']} of this host"
    return Opened({claim.name: fd}, {}, words, lambda: os.close(fd))


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> VhostVsock:
    """The kernel's end; the context id is taken now."""
    cid: Any = claim.options["cid"]
    return VhostVsock(claim.name, cid, resources.fds[claim.name], machine)


class VhostVsock:
    """``QueueOffload``: queues 0 and 1 of the device are the kernel's."""

    config = b""

    def __init__(self, name: str, cid: int, fd: int, machine: Machine) -> None:
        self._device = VhostDevice(fd, machine.ram)
        self._device.own()
        try:
            self._device.set_cid(cid)
        except OSError as error:
            raise _refused(cid, error) from None
        self.features = self._device.features & ~virtio.F_ACCESS_PLATFORM
        self.on_broken: Callable[[str], None] | None = None
        self._joined = JoinedQueues(name, machine)
        self._serving: list[int] = []

    def join(self, attachment: DeviceAttachment) -> None:
        """The device whose doorbells and vectors are used."""
        self._joined.attachment = attachment

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Rings, then go."""
        self._device.set_features(features)
        for queue in queues:
            kick, call = self._joined.take(queue)
            self._device.set_queue(queue.number, queue, kick, call)
            self._serving.append(queue.number)
        self._device.set_running(True)
        self._joined.kick_all()

    def stop(self, done: Callable[[], None]) -> None:
        """Stopping waits for what is under way."""
        if self._serving:
            self._device.set_running(False)
        for number in self._serving:
            self._device.drop_queue(number)
        self._serving = []
        self._joined.release()
        done()

    def kick(self, number: int) -> None:
        """Ring for the guest."""
        self._joined.kick(number)

    def close(self) -> None:
        """The end of the machine; the context id is free again with the last descriptor."""
        self.stop(lambda: None)


def _refused(cid: int, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        return HostError(
            f"the vsock context id {cid} is another guest's",
            hint="each running guest of a host has one of its own",
        )
    return HostError(f"the vsock context id {cid} cannot be taken: {error.strerror}")
