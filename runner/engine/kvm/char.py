"""A character backend in the VM process: one end of a socketpair, the supervisor has the other.

Writing never blocks (device-bugs 16): what the socket does not take is returned to the device,
whose ring of fixed size decides.  Reading stops while the device has no room.  A console hands its
transmit queue over, which a thread in C serves (:mod:`runner.host.console`).
"""

from __future__ import annotations

import os

from runner.devices.ports import EventLoop, OffloadedQueue
from runner.typed import TYPE_CHECKING, Callable, Protocol, Sequence
from runner.wire import virtio

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine

CHUNK = 1024


class Fed(Protocol):
    """A device that takes input."""

    on_room: Callable[[], None] | None

    def feed(self, data: bytes) -> int:
        """Take bytes; returns how many."""


class CharEnd:
    """``CharSink`` for a device, and the source that feeds it."""

    def __init__(self, fd: int, loop: EventLoop) -> None:
        os.set_blocking(fd, False)
        self.fd, self._loop = fd, loop
        self._device: Fed | None = None
        self._waiting = b""

    def write(self, data: bytes) -> int:
        """Send what the socket takes now; returns how many bytes that were."""
        sent = 0
        try:
            while sent < len(data):
                sent += os.write(self.fd, data[sent:])
        except BlockingIOError:
            pass
        except OSError:  # the supervisor has gone: nobody listens, and we end with it
            return len(data)
        return sent

    def connect(self, device: Fed) -> None:
        """Feed ``device`` from the socket from now on."""
        self._device = device
        device.on_room = self._offer
        self._loop.add_reader(self.fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self.fd)
            return
        self._waiting += data
        self._offer()

    def _offer(self) -> None:
        if self._device is None:
            return
        taken = self._device.feed(self._waiting) if self._waiting else 0
        self._waiting = self._waiting[taken:]
        if self._waiting:
            self._loop.remove_reader(self.fd)
        else:
            self._loop.add_reader(self.fd, self._readable)


class ConsoleEnd(CharEnd):
    """The same with a transmit queue (``ConsoleLine``)."""

    config = b""
    features = virtio.RING_FEATURES

    def __init__(self, name: str, fd: int, machine: Machine) -> None:
        from runner.backends.joined import JoinedQueues
        from runner.host.console import TransmitQueue

        super().__init__(fd, machine.loop)
        self.on_broken: Callable[[str], None] | None = None
        self._joined = JoinedQueues(name, machine)
        self._queue = TransmitQueue(machine.ram, fd)

    def join(self, attachment: DeviceAttachment) -> None:
        """The console is known."""
        self._joined.attachment = attachment

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Hand the queue's doorbell and interrupt to its thread."""
        from runner.host.ring import RingAddresses

        (queue,) = queues
        kick, call = self._joined.take(queue)
        self._queue.start(
            RingAddresses(queue.number, queue.size, queue.descriptors, queue.driver, queue.device),
            kick=kick,
            call=call,
            indirect=bool(features & virtio.F_INDIRECT_DESC),
            event_idx=bool(features & virtio.F_EVENT_IDX),
            on_broken=self._broken,
        )
        self._joined.kick_all()

    def stop(self, done: Callable[[], None]) -> None:
        """What has been taken from the driver stays, and goes out when it can."""
        self._queue.stop()
        self._joined.release()
        done()

    def kick(self, number: int) -> None:
        """Wake the queue's thread."""
        self._joined.kick(number)

    def write(self, data: bytes) -> int:
        """In order with what the queue has said."""
        return self._queue.say(data)

    @property
    def lost(self) -> int:
        """Bytes that the supervisor has not taken."""
        return self._queue.lost

    def flush(self) -> None:
        """The guest has halted: its last words go out."""
        self._queue.flush()

    def _broken(self, number: int) -> None:
        """From the queue's thread: the driver broke a rule of the ring."""

        def tell() -> None:
            if self.on_broken is not None:
                self.on_broken(f"the transmit queue of {self._joined.name}: {os.strerror(number)}")

        self._joined.later(tell)
