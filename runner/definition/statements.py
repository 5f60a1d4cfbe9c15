"""A document cut into statements: one header, or one key with its value, each with its lines.

The cut has to be right for broken text as well.  So it looks at brackets and quotes only as
far as it must, and a line that plainly begins something new ends whatever was left open.
"""

from __future__ import annotations

import re

from runner.definition.source import Source
from runner.definition.toml_fault import toml_fault
from runner.typed import Iterator, NamedTuple

KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
NEW_PAIR = re.compile(rf"\s*{KEY}(?:\s*\.\s*{KEY})*\s*=(?!=)")
NEW_HEADER = re.compile(rf"\s*\[\[?\s*{KEY}(?:\s*\.\s*{KEY})*\s*\]\]?\s*(?:#.*)?$")
OPEN_HEADER = re.compile(r"\s*\[")


class Statement(NamedTuple):
    """Lines ``first`` to ``last`` (from 1, inclusive); ``header`` for ``[table]`` and ``[[table]]``."""

    first: int
    last: int
    header: bool


def statements(source: Source) -> Iterator[Statement]:
    """The statements of a document, in order; blank lines and comments belong to none.

    A comment that TOML refuses (for a control character) is one, so that it can be told.
    """
    number = 1
    while number <= len(source.lines):
        text = source.line(number).strip(" \t")
        if not text or (text.startswith("#") and (text.isprintable() or toml_fault(text) is None)):
            number += 1
            continue
        header = OPEN_HEADER.match(source.line(number)) is not None
        last = number if header else _last_line(source, number)
        yield Statement(number, last, header)
        number = last + 1


def _last_line(source: Source, first: int) -> int:
    """The line where the value that begins in line ``first`` ends, or is given up."""
    faithful = _closing_line(source, first, wary=False)
    if faithful == first or toml_fault("\n".join(source.lines[first - 1 : faithful])) is None:
        return faithful
    return _closing_line(source, first, wary=True)


def _closing_line(source: Source, first: int, *, wary: bool) -> int:
    """Where all that is opened is closed; ``wary`` ends at a line that begins something new."""
    scan = Scan()
    number = first
    while number <= len(source.lines):
        new = wary and number > first and not scan.quote
        if new and begins_statement(source.line(number), scan.brackets):
            return number - 1
        scan.feed(source.line(number))
        if not scan.open:
            return number
        number += 1
    # Never closed.  An open string swallows the file, so it is given up at once.
    return _given_up(source, first) if scan.quote else len(source.lines)


def _given_up(source: Source, first: int) -> int:
    """The line before the next one that begins something, for a string that is never closed."""
    number = first + 1
    while number <= len(source.lines) and not begins_statement(source.line(number), ()):
        number += 1
    return number - 1


def begins_statement(line: str, brackets: tuple[str, ...] | list[str]) -> bool:
    """Whether a line plainly begins a statement although something before it is open.

    Inside ``[`` a line ``[x]`` may be an element, and inside ``{`` (of later TOML) a line
    ``key =`` may be a member; each is only taken for a new statement where it cannot be one.
    """
    if "{" in brackets:
        return NEW_HEADER.match(line) is not None and not line.startswith((" ", "\t"))
    return NEW_PAIR.match(line) is not None or (
        NEW_HEADER.match(line) is not None and not line.startswith((" ", "\t"))
    )


class Scan:
    """What is open after the lines read so far: brackets, and a multi-line string."""

    def __init__(self) -> None:
        self.brackets: list[str] = []
        self.quote = ""

    @property
    def open(self) -> bool:
        """Whether the statement goes on in the next line."""
        return bool(self.quote or self.brackets)

    def feed(self, line: str) -> None:
        """Read one more line."""
        at = 0
        while at < len(line):
            at = self._in_string(line, at) if self.quote else self._outside(line, at)

    def _in_string(self, line: str, at: int) -> int:
        end = line.find(self.quote, at)
        while self.quote == '"""' and end > at and _escaped(line, end):
            end = line.find(self.quote, end + 1)
        if end < 0:
            return len(line)
        length = len(self.quote)
        while end + length < len(line) and line[end + length] == self.quote[0]:
            end += 1  # up to two quotes may stand before the closing three
        self.quote = ""
        return end + length

    def _outside(self, line: str, at: int) -> int:
        char = line[at]
        if char == "#":
            return len(line)
        if line.startswith(('"""', "'''"), at):
            self.quote = line[at : at + 3]
            return at + 3
        if char in "\"'":
            return _string_end(line, at)
        if char in "[{":
            self.brackets.append(char)
        elif char in "]}" and self.brackets:
            self.brackets.pop()
        return at + 1


def _string_end(line: str, at: int) -> int:
    """Past the end of a one-line string; an unclosed one ends with the line."""
    end = line.find(line[at], at + 1)
    while end > 0 and line[at] == '"' and _escaped(line, end):
        end = line.find('"', end + 1)
    return end + 1 if end > 0 else len(line)


def _escaped(line: str, at: int) -> bool:
    """Whether an odd number of backslashes stands before ``at``."""
    count = 0
    while at - count > 0 and line[at - count - 1] == "\\":
        count += 1
    return count % 2 == 1
