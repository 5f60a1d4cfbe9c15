"""Intervals of an address space: what is taken, by whom, and where something still fits.

One :class:`Space` each for guest-physical addresses, I/O ports and windows inside them.
Every refusal names both parties and speaks hex.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from runner.errors import DefinitionError
from runner.typed import NamedTuple


class Taken(NamedTuple):
    """Addresses ``start`` to ``end`` - 1 belong to ``what`` ("BAR 0 of `reader`")."""

    start: int
    end: int
    what: str

    def __str__(self) -> str:
        """``BAR 0 of `reader` (0xc0000000–0xc0000fff)``."""
        return f"{self.what} ({self.start:#x}–{self.end - 1:#x})"


class Space:
    """Addresses ``start`` to ``end`` - 1, called ``name`` in messages."""

    def __init__(self, name: str, start: int, end: int) -> None:
        self.name, self.start, self.end = name, start, end
        self._taken: list[Taken] = []

    @property
    def taken(self) -> tuple[Taken, ...]:
        """All intervals, by address; they never overlap."""
        return tuple(self._taken)

    def take(self, start: int, size: int, what: str) -> None:
        """Take fixed addresses.  Raises DefinitionError when they are another's or outside."""
        wanted = Taken(start, start + size, what)
        if size <= 0 or start < self.start or wanted.end > self.end:
            raise DefinitionError(f"{wanted} lies outside {self.name} ({self.start:#x}–{self.end - 1:#x})")
        other = self._first_beyond(start)
        if other is not None and other.start < wanted.end:
            raise DefinitionError(f"{wanted} overlaps {other}")
        insort(self._taken, wanted)

    def place(self, size: int, align: int, what: str) -> int:
        """Take the lowest free addresses with this alignment; returns the first of them."""
        at = _aligned(self.start, align)
        for other in self._taken:
            if at + size <= other.start:
                break
            at = max(at, _aligned(other.end, align))
        if at + size > self.end:
            raise DefinitionError(self._full(size, what), hint="use fewer or smaller devices")
        insort(self._taken, Taken(at, at + size, what))
        return at

    def _first_beyond(self, address: int) -> Taken | None:
        """The lowest interval that ends after ``address``."""
        index = bisect_right(self._taken, address, key=lambda taken: taken.end)
        return self._taken[index] if index < len(self._taken) else None

    def _full(self, size: int, what: str) -> str:
        room = f"{self.name} ({self.start:#x}–{self.end - 1:#x})"
        used = ", ".join(str(taken) for taken in self._taken) or "nothing"
        return f"{what} needs {size:#x} bytes, aligned, and {room} has no such room left; it holds {used}"


class Lines:
    """Interrupt lines by number: edge-triggered ones have one owner, level-triggered ones can share."""

    def __init__(self, free: tuple[int, ...]) -> None:
        self._free = free  # what :meth:`place` may give, in order of preference
        self._owners: dict[int, list[tuple[str, str]]] = {}

    def take(self, line: int, trigger: str, what: str) -> None:
        """Take a fixed line.  Raises DefinitionError when it cannot be shared."""
        for other, other_trigger in self._owners.get(line, []):
            if trigger == "edge" or other_trigger == "edge":
                raise DefinitionError(
                    f"{what} wants interrupt line {line} ({trigger}), which {other} has ({other_trigger})"
                )
        self._owners.setdefault(line, []).append((what, trigger))

    def place(self, trigger: str, what: str) -> int:
        """Take the first line that nobody has; a level-triggered one may then be shared."""
        for line in self._free:
            if line not in self._owners:
                self.take(line, trigger, what)
                return line
        lines = ", ".join(str(line) for line in self._free)
        raise DefinitionError(f"{what} wants an interrupt line, and none of {lines} is free")


def _aligned(address: int, align: int) -> int:
    return -(-address // align) * align
