"""The supervisor's event loop: ``poll(2)``, timers, and nothing else.

``poll`` and not ``epoll``: standard input and output may be regular files or
``/dev/null``, which epoll refuses with EPERM, and a supervisor has a dozen descriptors.
Without a timer that is due the loop sleeps; there is no tick.
"""

from __future__ import annotations

from select import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, poll
from time import monotonic_ns

from runner.light import heappop, heappush
from runner.typed import Callable

Callback = Callable[[], None]

LONGEST_POLL = (1 << 31) - 1  # milliseconds: poll(2) takes an int, and a deadline may lie further away


class _Watch:
    """What is awaited of one descriptor."""

    __slots__ = ("hangup", "read", "write")

    def __init__(self) -> None:
        self.read: Callback | None = None
        self.write: Callback | None = None
        self.hangup: Callback | None = None

    def mask(self) -> int:
        return (POLLIN if self.read else 0) | (POLLOUT if self.write else 0)

    def idle(self) -> bool:
        return self.read is None and self.write is None and self.hangup is None


class Timer:
    """A callback that is due at a point of CLOCK_MONOTONIC."""

    __slots__ = ("callback", "due_ns")

    def __init__(self, due_ns: int, callback: Callback) -> None:
        self.due_ns = due_ns
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Never call it; harmless when it has been called already."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.due_ns < other.due_ns


class Loop:
    """Descriptors and timers; callbacks run one at a time and must not block."""

    def __init__(self) -> None:
        self._poll = poll()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[Timer] = []

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call when ``fd`` has something to read or its other end is gone; None: no more."""
        watch = self._watches.get(fd) or _Watch()
        watch.read = callback
        self._register(fd, watch)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call when ``fd`` takes bytes or fails; None: no more."""
        watch = self._watches.get(fd) or _Watch()
        watch.write = callback
        self._register(fd, watch)

    def on_hangup(self, fd: int, callback: Callback | None) -> None:
        """Call when nobody is left at the other end, also while nothing is to be written."""
        watch = self._watches.get(fd) or _Watch()
        watch.hangup = callback
        self._register(fd, watch)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; call it before closing the descriptor."""
        if self._watches.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call once, ``seconds`` from now."""
        timer = Timer(monotonic_ns() + int(seconds * 1e9), callback)
        heappush(self._timers, timer)
        return timer

    def turn(self) -> None:
        """Sleep until something happens, and let it be met."""
        for fd, events in self._poll.poll(self._patience()):
            self._dispatch(fd, events)
        now = monotonic_ns()
        while self._timers and self._timers[0].due_ns <= now:
            callback = heappop(self._timers).callback
            if callback is not None:
                callback()

    def _register(self, fd: int, watch: _Watch) -> None:
        if watch.idle():
            self.forget(fd)
        else:
            self._watches[fd] = watch
            self._poll.register(fd, watch.mask())

    def _patience(self) -> float | None:
        """Milliseconds until the next timer, rounded up, as far as poll(2) counts; None: for ever."""
        while self._timers and self._timers[0].callback is None:
            heappop(self._timers)
        if not self._timers:
            return None
        return min(max(0, (self._timers[0].due_ns - monotonic_ns()) // 1_000_000 + 1), LONGEST_POLL)

    def _dispatch(self, fd: int, events: int) -> None:
        watch = self._watches.get(fd)
        if watch is None:  # an earlier callback of this turn has given it up
            return
        if events & POLLNVAL:
            self.forget(fd)
            return
        gone = events & (POLLERR | POLLHUP)
        if watch.read and (events & POLLIN or gone):
            watch.read()
        if watch.write and (events & POLLOUT or gone):
            watch.write()
        if watch.hangup and gone:
            watch.hangup()
