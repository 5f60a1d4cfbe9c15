"""vhost-net: the kernel moves frames between a tap and the guest's rings."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.backends.joined import JoinedQueues
from runner.backends.tap import queue_fds
from runner.devices.ports import OffloadedQueue
from runner.host.vhost import VhostDevice
from runner.typed import TYPE_CHECKING, Callable, Sequence
from runner.wire import virtio

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph

PATH = "/dev/vhost-net"


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """One handle a queue pair; a host without vhost-net (or the right to it) has none, which is told."""
    queues = next(
        (
            c.options.get("queues", 1)
            for n in graph.nodes
            for c in n.claim.backends
            if c.name == claim.options["tap"]
        ),
        1,
    )
    assert isinstance(queues, int)
    fds: dict[str, int] = {}
    try:
        for number in range(queues):
            name = claim.name if number == 0 else f"{claim.name}:{number}"
            fds[name] = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        _close(fds)
        return Opened(taken=f"{claim.options['tap']}: without vhost-net ({PATH}: {error.strerror})")
    return Opened(fds, {}, "", lambda: _close(fds))


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> VhostNet | None:
    """None where the supervisor could open none."""
    if claim.name not in resources.fds:
        return None
    taps = queue_fds(str(claim.options["tap"]), resources)
    return VhostNet(claim.name, queue_fds(claim.name, resources), taps, machine)


class VhostNet:
    """``QueueOffload``: queues 2n and 2n+1 of the card are the two of handle n."""

    config = b""

    def __init__(self, name: str, handles: list[int], taps: list[int], machine: Machine) -> None:
        self._devices = [VhostDevice(fd, machine.ram) for fd in handles]
        for device in self._devices:
            device.own()
        self._taps = taps
        self.features = self._devices[0].features & ~virtio.F_ACCESS_PLATFORM
        self.on_broken: Callable[[str], None] | None = None
        self._joined = JoinedQueues(name, machine)
        self._serving: list[int] = []

    def join(self, attachment: DeviceAttachment) -> None:
        """The card whose vectors are used."""
        self._joined.attachment = attachment

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Rings first, then the taps, so that nothing moves before all is set."""
        for device in self._devices:
            device.set_features(features)
        for queue in queues:
            pair, index = divmod(queue.number, 2)
            kick, call = self._joined.take(queue)
            self._devices[pair].set_queue(index, queue, kick, call)
            self._serving.append(queue.number)
        for queue in queues:
            pair, index = divmod(queue.number, 2)
            self._devices[pair].set_backend(index, self._taps[pair])
        self._joined.kick_all()

    def stop(self, done: Callable[[], None]) -> None:
        """Removing the backend waits for what is under way."""
        for number in self._serving:
            pair, index = divmod(number, 2)
            self._devices[pair].set_backend(index, -1)
            self._devices[pair].drop_queue(index)
        self._serving = []
        self._joined.release()
        done()

    def kick(self, number: int) -> None:
        """Ring for the guest."""
        self._joined.kick(number)

    def close(self) -> None:
        """The end of the machine."""
        self.stop(lambda: None)
