"""The device thread's event loop: epoll, timers, and one way to wake it.

Every callback runs under the machine's lock, so a device model never sees two threads.
"""

from __future__ import annotations

import os
import select
import time

from runner.light import RLock, heapify, heappop, heappush
from runner.typed import Callable

MOST_CANCELLED = 64  # that wait for their turn; more are taken out, so a guest cannot pile them up
LONGEST_SECONDS = 1e6  # epoll_wait(2) counts milliseconds in 31 bits


class DeviceLoop:
    """Implements :class:`runner.devices.ports.EventLoop`."""

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._cancelled: set[int] = set()
        self._sequence = 0
        self._timing = RLock()  # a disk's thread sets a timer without the machine's lock
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self.running = True

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` whenever ``fd`` has something (level-triggered)."""
        if fd not in self._readers:
            self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        """Forget ``fd``; unknown ones are no error."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> int:
        """Call back once, at or after this CLOCK_MONOTONIC time; from any thread.  Returns its number."""
        with self._timing:
            self._sequence += 1
            timer = (monotonic_ns, self._sequence, callback)
            heappush(self._timers, timer)
            first = self._timers[0] is timer
        if first:
            self.wake()
        return timer[1]

    def cancel(self, timer: int) -> None:
        """Do not call back after all; from any thread.  One that has called is no error."""
        with self._timing:
            self._cancelled.add(timer)
            if len(self._cancelled) > MOST_CANCELLED:
                self._timers = [one for one in self._timers if one[1] not in self._cancelled]
                heapify(self._timers)
                self._cancelled.clear()

    def wake(self) -> None:
        """Let the loop look at its timers and at ``running`` again; from any thread."""
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """End :meth:`run` after the callback that is under way; from any thread."""
        self.running = False
        self.wake()

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while self.running:
            ready = self._epoll.poll(self._patience())
            with self._lock:
                for fd, _ in ready:
                    self._serve(fd)
                self._fire()

    def _serve(self, fd: int) -> None:
        if fd == self._wake:
            os.eventfd_read(self._wake)
            return
        callback = self._readers.get(fd)  # an earlier callback may have removed it
        if callback is not None:
            callback()

    def _patience(self) -> float | None:
        with self._timing:
            if not self._timers:
                return None
            return min(max(self._timers[0][0] - time.monotonic_ns(), 0) / 1e9, LONGEST_SECONDS)

    def _fire(self) -> None:
        now = time.monotonic_ns()
        while (callback := self._due(now)) is not None:
            callback()

    def _due(self, now: int) -> Callable[[], None] | None:
        with self._timing:
            while self._timers and self._timers[0][0] <= now:
                _, number, callback = heappop(self._timers)
                if number not in self._cancelled:
                    return callback
                self._cancelled.discard(number)
            return None
