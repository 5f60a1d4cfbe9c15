"""Bytes on their way out: never blocking, bounded, and what is dropped is counted.

A reader that is slower than the guest must stall neither the guest nor the supervisor
(device-bugs 16).  What does not fit into the buffer drops the *oldest* bytes, so that
the last words of a guest always arrive.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EINTR

from runner.light import deque
from runner.supervisor.loop import Loop
from runner.typed import Callable

LIMIT = 1 << 20
"""Bytes that wait for a slow reader before the oldest are dropped."""

Write = Callable[[bytes], int]
"""Take some of the bytes without blocking; 0: none now.  Raises OSError when broken."""


class Outlet:
    """A bounded queue in front of a descriptor."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        write: Write,
        on_broken: Callable[[OSError], None],
        limit: int = LIMIT,
    ) -> None:
        self.fd = fd
        self.dropped = 0
        self.lost = 0  # of those: what a reader that went away had not taken
        self.broken = False
        self._loop = loop
        self._write = write
        self._on_broken = on_broken
        self._limit = limit
        self._queue: deque[bytes] = deque()
        self._queued = 0

    @property
    def waiting(self) -> int:
        """Bytes that have not gone out yet."""
        return self._queued

    def write(self, data: bytes) -> None:
        """Send now what the descriptor takes, and keep the rest."""
        if self.broken:
            self.dropped += len(data)
            return
        if not self._queue:
            data = data[self._push(data) :]
        if data and not self.broken:
            self._keep(data)

    def close(self) -> None:
        """Give up what waits; the descriptor is its owner's to close."""
        self.broken = True
        self._loop.forget(self.fd)
        self._queue.clear()
        self._queued = 0

    def _keep(self, data: bytes) -> None:
        if not self._queue:
            self._loop.on_writable(self.fd, self._drain)
        self._queue.append(data)
        self._queued += len(data)
        while self._queued > self._limit:
            self._drop_oldest(self._queued - self._limit)

    def _drop_oldest(self, excess: int) -> None:
        head = self._queue.popleft()
        if len(head) > excess:
            self._queue.appendleft(head[excess:])
        gone = min(excess, len(head))
        self._queued -= gone
        self.dropped += gone

    def _drain(self) -> None:
        while self._queue:
            head = self._queue[0]
            taken = self._push(head)
            if self.broken:
                return
            self._queued -= taken
            if taken < len(head):
                self._queue[0] = head[taken:]
                return
            self._queue.popleft()
        self._loop.on_writable(self.fd, None)

    def _push(self, data: bytes) -> int:
        """Bytes taken; a failure that will not pass ends the outlet and is told once."""
        sent = 0
        while sent < len(data):
            try:
                taken = self._write(data[sent:] if sent else data)
            except OSError as error:
                if error.errno in (EAGAIN, EINTR):
                    break
                self.lost = len(data) - sent + self._queued
                self.dropped += self.lost
                self.close()
                self._on_broken(error)
                break
            if not taken:
                break
            sent += taken
        return sent


def nonblocking(fd: int) -> Write:
    """For a descriptor of our own that has O_NONBLOCK."""

    def write(data: bytes) -> int:
        return os.write(fd, data)

    return write
