"""Queues of a device that a vhost-user program serves: disks (qemu-storage-daemon), folders (virtiofsd)."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.backends.joined import JoinedQueues
from runner.devices.ports import OffloadedQueue
from runner.errors import HostError
from runner.host import vhost_user
from runner.host.vhost_user import VhostUser
from runner.typed import TYPE_CHECKING, Callable, Iterable, Sequence

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine
    from runner.host.helper_process import Helper

WANTED = vhost_user.PROTOCOL_MQ | vhost_user.PROTOCOL_REPLY_ACK | vhost_user.PROTOCOL_CONFIG


def serve(
    name: str,
    words: Callable[[int], Sequence[str]],
    keep: Iterable[int],
    taken: str,
    *,
    prepare: Callable[[], None] | None = None,
) -> Opened:
    """Start a back-end program for the device ``name`` and return when it answers.

    ``words(listener)`` are its arguments; ``prepare`` is what the new process does to itself
    before it becomes the program.  Raises HostError with the program's own words.
    """
    import signal

    from runner.host import helper_process, unix_socket

    try:
        listener, connection = unix_socket.rendezvous()
    except OSError as error:
        raise HostError(f"no socket for {name} can be made: {error.strerror}") from None
    try:
        helper = helper_process.start(
            name, words(listener), [listener, *keep], death=signal.SIGTERM, prepare=prepare
        )
    except BaseException:
        os.close(connection)
        raise
    finally:
        os.close(listener)

    def close() -> None:
        os.close(connection)
        helper.close()

    try:
        _await(helper, connection)
    except BaseException:
        close()
        raise
    return Opened({name: connection}, {}, taken, close, (helper,))


def _await(helper: Helper, connection: int) -> None:
    peer = VhostUser(connection, f"{helper.program} of {helper.owner}")
    try:
        peer.greet()
    except OSError as error:
        if helper.has_ended(1.0):
            raise HostError(f"{helper.owner}: {helper.how_it_ended()}") from None
        raise HostError(str(error)) from None
    finally:
        peer.detach()


class VhostUserQueues:
    """``QueueOffload``; ``config_size`` is how much of the configuration space the program answers for."""

    def __init__(self, name: str, program: str, fd: int, machine: Machine, *, config_size: int = 0) -> None:
        self._peer = VhostUser(fd, f"{program} of {name}")
        try:
            self._peer.begin(WANTED if config_size else WANTED & ~vhost_user.PROTOCOL_CONFIG)
            self.features = self._peer.features
            self.queue_count = self._peer.queue_count()
            self.config = self._peer.config(config_size) if config_size else b""
            self._peer.set_memory(machine.ram)
            self._peer.settle()
        except OSError as error:
            raise HostError(str(error)) from None
        self.on_broken: Callable[[str], None] | None = None
        self._joined = JoinedQueues(name, machine)
        self._serving: list[int] = []
        machine.loop.add_reader(fd, self._heard)

    def join(self, attachment: DeviceAttachment) -> None:
        """The device whose doorbells and vectors are used."""
        self._joined.attachment = attachment

    def configure(self, features: int) -> Iterable[tuple[int, bytes]]:
        """What has to be written into the configuration space for a driver with these features."""
        return ()

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Rings with their descriptors; a ring from before somebody listened is repeated."""
        self._peer.set_features(features)
        for offset, data in self.configure(features):
            self._peer.set_config(offset, data)
        for queue in queues:
            self._serving.append(queue.number)
            self._peer.start_queue(queue, *self._joined.take(queue))
        self._peer.settle()
        self._joined.kick_all()

    def stop(self, done: Callable[[], None]) -> None:
        """Each ring is given back by the other side; when it is dead it touches nothing any more.

        One that lives and does not give them back may write into guest memory at any time: the reset
        never ends, and the run does.
        """
        serving, self._serving = self._serving, []
        try:
            for number in serving:
                self._peer.stop_queue(number)
        except OSError as error:
            self._joined.machine.log("error", "vhost-user", reason=str(error))
            if not self._peer.hung_up:
                self._joined.machine.host_failed(str(error))
                return
        self._joined.release()
        done()

    def kick(self, number: int) -> None:
        """Ring for the guest."""
        self._joined.kick(number)

    def close(self) -> None:
        """The end of the machine."""
        if not self._peer.has_gone():
            self.stop(lambda: None)
        self._joined.machine.loop.remove_reader(self._peer.fd)
        self._peer.close()

    def _heard(self) -> None:
        """Between requests the other side has nothing to say: it has died, or it is mad."""
        if not self._peer.has_gone():
            return  # the answer to a request, which another thread has read by now
        self._joined.machine.loop.remove_reader(self._peer.fd)
        if self._serving and self.on_broken is not None:
            self.on_broken(f"{self._peer.who} has gone")
