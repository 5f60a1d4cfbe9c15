"""A character backend in the VM process: one end of a socketpair, the supervisor has the other.

Writing never blocks (device-bugs 16): what the socket does not take is returned to the device,
whose ring of fixed size decides.  Reading stops while the device has no room.
"""

from __future__ import annotations

import os

from runner.devices.ports import EventLoop
from runner.typed import Callable, Protocol

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
        self._fd, self._loop = fd, loop
        self._device: Fed | None = None
        self._waiting = b""

    def write(self, data: bytes) -> int:
        """Send what the socket takes now; returns how many bytes that were."""
        sent = 0
        try:
            while sent < len(data):
                sent += os.write(self._fd, data[sent:])
        except BlockingIOError:
            pass
        except OSError:  # the supervisor has gone: nobody listens, and we end with it
            return len(data)
        return sent

    def connect(self, device: Fed) -> None:
        """Feed ``device`` from the socket from now on."""
        self._device = device
        device.on_room = self._offer
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            return
        self._waiting += data
        self._offer()

    def _offer(self) -> None:
        if self._device is None:
            return
        taken = self._device.feed(self._waiting) if self._waiting else 0
        self._waiting = self._waiting[taken:]
        if self._waiting:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._readable)
