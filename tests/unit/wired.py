"""What a platform device plugs into, as plain values that a test can look at."""

from __future__ import annotations

from collections.abc import Callable


class Line:
    """An interrupt line that remembers its level and counts its rises."""

    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def set(self, asserted: bool) -> None:
        self.rises += asserted and not self.level
        self.level = asserted


class Sink:
    """Takes ``room`` bytes in all, then nothing."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.taken = bytearray()
        self.room = room
        self.calls = 0

    def write(self, data: bytes) -> int:
        self.calls += 1
        part = data[: max(0, self.room - len(self.taken))]
        self.taken += part
        return len(part)


class Time:
    """A clock that stands still, and the event loop whose callbacks run when it is moved on."""

    def __init__(self, wall: float = 0.0) -> None:
        self.now = 0
        self.start = wall
        self.planned: list[tuple[int, Callable[[], None]]] = []
        self.ran = 0

    def monotonic_ns(self) -> int:
        return self.now

    def wall(self) -> float:
        return self.start + self.now / 1e9

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> int:
        self.planned.append((monotonic_ns, callback))
        return len(self.planned)

    def cancel(self, timer: int) -> None:
        raise AssertionError("no platform device cancels a timer")

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        raise AssertionError("no platform device reads a descriptor")

    def remove_reader(self, fd: int) -> None:
        raise AssertionError("no platform device reads a descriptor")

    def advance(self, nanoseconds: int, at_most: int = 10_000) -> None:
        """Move on, running what falls due, each at its time."""
        end = self.now + nanoseconds
        while self.planned and self.ran < at_most:
            self.planned.sort(key=lambda entry: entry[0])
            due, callback = self.planned[0]
            if due > end:
                break
            del self.planned[0]
            self.now = max(self.now, due)
            self.ran += 1
            callback()
        self.now = end
