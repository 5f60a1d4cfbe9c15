"""What every served-elsewhere queue needs of this process: its doorbell's and its interrupt's eventfd.

A native thread, vhost in the kernel and a vhost-user program all take a *kick* and a *call*
descriptor.  The kick is the doorbell's ioeventfd; the call is the MSI-X vector's irqfd, or, without
MSI-X, an eventfd that this process hears and passes on as INTx.
"""

from __future__ import annotations

import os
import time

from runner.devices.ports import OffloadedQueue
from runner.typed import TYPE_CHECKING, Any, Callable
from runner.wire import virtio

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine


class JoinedQueues:
    """The descriptors of the queues that are handed over now."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self.machine = name, machine
        self.attachment: DeviceAttachment | None = None
        self._bells: dict[int, Any] = {}
        self._heard: list[int] = []

    def take(self, queue: OffloadedQueue) -> tuple[int, int]:
        """(kick, call) of a queue; nobody listens to the kick on the device thread any more."""
        bell: Any = queue.doorbell
        bell.deaf()
        self._bells[queue.number] = bell
        return bell.fd, self._call(queue)

    def _call(self, queue: OffloadedQueue) -> int:
        assert self.attachment is not None, "join() comes before start()"
        if queue.vector != virtio.NO_VECTOR:
            return self.attachment.msi().eventfd(queue.vector)
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

        def heard() -> None:
            os.eventfd_read(fd)
            queue.signal()

        self.machine.loop.add_reader(fd, heard)
        self._heard.append(fd)
        return fd

    def kick(self, number: int) -> None:
        """Ring for the guest."""
        if number in self._bells:
            os.eventfd_write(self._bells[number].fd, 1)

    def kick_all(self) -> None:
        """A ring from before somebody listened must not be lost."""
        for number in self._bells:
            self.kick(number)

    def release(self) -> None:
        """The queues are ours again."""
        self._bells.clear()
        for fd in self._heard:
            self.machine.loop.remove_reader(fd)
            os.close(fd)
        self._heard = []

    def later(self, callback: Callable[[], None]) -> None:
        """Run on the device thread, from any thread."""
        self.machine.loop.call_at(time.monotonic_ns(), callback)
