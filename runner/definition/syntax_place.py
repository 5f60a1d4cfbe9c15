"""Where a statement broke, and what every explanation of it needs."""

from __future__ import annotations

import re

from runner.definition.source import Source, Spot
from runner.typed import NamedTuple

WORD = re.compile(r"[^\s,\]}#]+")


class Explained(NamedTuple):
    """A syntax error as a finding's words and place."""

    spot: Spot
    message: str
    expected: str = ""
    found: str = ""
    suggestion: str = ""
    hint: str = ""
    code: str = "syntax"


class Place(NamedTuple):
    """Where tomllib stopped: offsets into the text; ``start`` and ``stop`` are the statement's."""

    source: Source
    at: int
    start: int
    stop: int
    message: str

    @property
    def rest(self) -> str:
        """From there to the end of the line."""
        return self.source.text[self.at : self.stop].split("\n", 1)[0]

    @property
    def word(self) -> str:
        """The word that stands there."""
        match = WORD.match(self.rest.lstrip(" \t"))
        return match[0] if match else ""

    def spot(self, start: int | None = None, length: int = 1) -> Spot:
        start = self.at if start is None else start
        return self.source.spot(start, start + length)


def innermost(text: str, start: int, at: int, opening: str) -> int:
    """The last bracket of this kind that is open at ``at``."""
    closing = {"[": "]", "{": "}"}[opening]
    depth = 0
    for position in range(min(at, len(text)) - 1, start - 1, -1):
        if text[position] == closing:
            depth += 1
        elif text[position] == opening:
            if depth == 0:
                return position
            depth -= 1
    return start


def broken_inline(place: Place) -> Explained:
    """An inline table over several lines."""
    start = innermost(place.source.text, place.start, place.at, "{")
    return Explained(
        place.spot(start),
        "an inline table stays on one line",
        "`}` on the same line",
        "the end of the line",
        hint="use a [table] header for a longer one",
    )


PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
LAST_KEY = re.compile(rf"{PART}(?:[ \t]*\.[ \t]*{PART})*$")


def key_before(place: Place) -> str:
    """The key that ends here, or whose value was to begin here, for a sentence."""
    before = place.source.text[place.start : place.at].rstrip().removesuffix("=").rstrip()
    match = LAST_KEY.search(before)
    return f"`{short(match[0])}`" if match else "the key"


def key_spot(place: Place) -> Spot:
    """The first line of the statement, without its indentation."""
    line = place.source.text[place.start : place.stop].split("\n", 1)[0]
    indent = len(line) - len(line.lstrip(" \t"))
    return place.spot(place.start + indent, max(len(line.strip()), 1))


def short(text: str) -> str:
    """At most 30 characters of a text."""
    return text if len(text) <= 30 else text[:29] + "…"
