"""The text of a definition, and the way from offsets to lines and columns.

Lines end at LF or CRLF, as TOML has it, and at nothing else: str.splitlines would also
break at form feeds and Unicode separators, and every later position would be off.
"""

from __future__ import annotations

from runner.typed import NamedTuple


class Spot(NamedTuple):
    """A stretch of one line: line and columns from 1, in characters; ``end`` is past the last."""

    line: int
    column: int
    end: int


class Source:
    """One document with LF line ends; offsets are characters into ``text``."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.lines = self.text.split("\n")
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def line(self, number: int) -> str:
        """The text of a line (from 1)."""
        return self.lines[number - 1]

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column (both from 1)."""
        return self._starts[line - 1] + column - 1

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column (from 1) of an offset; past the end it is the end."""
        from bisect import bisect_right

        offset = max(0, min(offset, len(self.text)))
        line = min(bisect_right(self._starts, offset), len(self.lines))
        return line, offset - self._starts[line - 1] + 1

    def spot(self, start: int, end: int) -> Spot:
        """The stretch from ``start`` to ``end``, or to the end of its first line; never empty."""
        line, column = self.place(start)
        width = len(self.line(line))
        last = min(end, self._starts[line - 1] + width) - self._starts[line - 1] + 1
        return Spot(line, column, max(last, column + 1))
