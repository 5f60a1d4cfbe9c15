"""Which device answers an access: ranges of ports or of guest-physical addresses.

Ranges never overlap, so a lookup is one bisection.  The exception is a narrow range wholly
inside a wider one (the reset register 0xcf9 in the PCI configuration ports): it lies in a
layer above and gets the accesses that fit wholly into it, as the chipset decodes them.
An access that starts in a range but leaves it, or starts in none, is answered as the empty
bus does: all ones, and writes lost.
"""

from __future__ import annotations

from bisect import bisect_right

from runner.devices.ports import Effect, RegisterDevice
from runner.typed import NamedTuple


class Range(NamedTuple):
    """``size`` addresses from ``start`` that ``device`` answers; ``owner`` is for messages."""

    start: int
    size: int
    device: RegisterDevice
    owner: str


class OverlapError(ValueError):
    """Two devices claim one address."""


class Dispatch:
    """One address space (ports, or MMIO)."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._starts: list[int] = []
        self._ranges: list[Range] = []
        self._above: Dispatch | None = None

    def add(self, start: int, size: int, device: RegisterDevice, owner: str) -> None:
        """Give a range to a device.  Raises OverlapError, and then nothing has changed."""
        at = bisect_right(self._starts, start)
        new = Range(start, size, device, owner)
        for other in self._ranges[max(at - 1, 0) : at + 1]:
            if other.start <= start and start + size <= other.start + other.size and size < other.size:
                self._above = self._above or Dispatch(self.what)
                self._above.add(start, size, device, owner)
                return
            if start < other.start + other.size and other.start < start + size:
                raise OverlapError(f"{self.what}: {_said(new)} overlaps {_said(other)}")
        self._starts.insert(at, start)
        self._ranges.insert(at, new)

    def remove(self, start: int) -> None:
        """Take back the range that starts exactly here."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or self._starts[at] != start:
            if self._above is not None:
                self._above.remove(start)
                return
            raise KeyError(f"{self.what}: no range starts at {start:#x}")
        del self._starts[at], self._ranges[at]

    def find(self, address: int, size: int) -> Range | None:
        """The range that holds all of the access, or None."""
        if self._above is not None and (inner := self._above.find(address, size)) is not None:
            return inner
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        found = self._ranges[at]
        return found if address + size <= found.start + found.size else None

    def read(self, address: int, size: int) -> int:
        """What the guest reads: ``size`` bytes, little-endian."""
        found = self.find(address, size)
        ones = (1 << (8 * size)) - 1
        if found is None:
            return ones
        return found.device.read(address - found.start, size) & ones

    def write(self, address: int, size: int, value: int) -> Effect | None:
        """The guest's write, and what should happen now."""
        found = self.find(address, size)
        if found is None:
            return None
        return found.device.write(address - found.start, size, value)

    def ranges(self) -> tuple[Range, ...]:
        """All ranges, sorted by start."""
        above = self._above.ranges() if self._above is not None else ()
        return tuple(sorted((*self._ranges, *above), key=_start))


def _start(range_: Range) -> int:
    return range_.start


def _said(range_: Range) -> str:
    return f"`{range_.owner}` ({range_.start:#x}–{range_.start + range_.size - 1:#x})"
