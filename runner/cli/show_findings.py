"""Findings for people: place, sentence, the line, a caret under the text, and what would be right."""

from __future__ import annotations

from runner.cli import narrator
from runner.definition.findings import Finding
from runner.typed import IO, Iterable

MOST_COLUMNS = 110  # of a source line; a longer one is shown around the caret
TAB = "    "
COLOURS = {"error": "1;31", "warning": "1;33", "place": "1", "margin": "34", "better": "32"}


def wants_colour(stream: IO[str]) -> bool:
    """Whether ``stream`` is a terminal that shows colours, and its user wants them."""
    return narrator.wants_colour(terminal=stream.isatty())


def show_all(findings: Iterable[object], stream: IO[str]) -> str:
    """All findings as text for ``stream``, a blank line between them."""
    colour = wants_colour(stream)
    shown = [show(finding, colour) for finding in findings if isinstance(finding, Finding)]
    return "\n".join(shown)


def show(finding: Finding, colour: bool = False) -> str:
    """One finding: two lines about it, the source line, the caret, and what helps."""
    paint = _painter(colour)
    place = paint("place", f"{printable(finding.file)}:{finding.line}:{finding.column}:")
    lines = [f"{place} {paint(finding.severity, finding.severity + ':')} {printable(finding.message)}"]
    number = str(finding.line)
    margin = " " * len(number)
    before, marked, after = window(finding.source, finding.column - 1, finding.end - 1)
    carets = "^" * max(width(marked), 1)
    lines.append(f"  {paint('margin', number + ' |')} {before}{marked}{after}".rstrip())
    lines.append(f"  {paint('margin', margin + ' |')} {' ' * width(before)}{paint(finding.severity, carets)}")
    for label, words in helpful(finding):
        text = printable(words)
        shown = paint("better", text) if label == "did you mean" else text
        end = "?" if label == "did you mean" else ""
        colon = " " if end else ": "
        lines.append(f"  {margin} {paint('margin', '=')} {label}{colon}{shown}{end}")
    return "\n".join(lines) + "\n"


def helpful(finding: Finding) -> list[tuple[str, str]]:
    """What was expected and found, and what to write instead; what says nothing new is left out."""
    rows = []
    about_a_key = finding.code in ("unknown-key", "missing-key")
    if finding.expected and not (finding.code == "unknown-key" and finding.suggestion):
        rows.append(("expected", finding.expected))
    if finding.found and not about_a_key:
        rows.append(("found", finding.found))
    if finding.suggestion and finding.code == "missing-key":
        rows.append(("for example", finding.suggestion))
    elif finding.suggestion:
        quoted = finding.suggestion if '"' in finding.suggestion else f"`{finding.suggestion}`"
        rows.append(("did you mean", quoted))
    if finding.hint:
        rows.append(("hint", finding.hint))
    return rows


def _painter(colour: bool):  # type: ignore[no-untyped-def]
    def paint(name: str, text: str) -> str:
        return f"\x1b[{COLOURS[name]}m{text}\x1b[0m" if colour else text

    return paint


def window(line: str, start: int, end: int) -> tuple[str, str, str]:
    """The line in three parts (before, marked, after) as it can be shown on a terminal.

    Tabs become blanks and control characters a visible sign, so that the caret stands where
    the text is; a long line is cut on both sides of the mark.
    """
    before, marked, after = (printable(part) for part in (line[:start], line[start:end], line[end:]))
    if width(before + marked + after) <= MOST_COLUMNS:
        return before, marked, after
    if width(marked) > MOST_COLUMNS - 20:
        marked = marked[: MOST_COLUMNS - 21] + "…"
    room = MOST_COLUMNS - width(marked)
    if width(before) > room // 2:
        before = "…" + before[len(before) - max(room // 2 - 1, 0) :]
    room = MOST_COLUMNS - width(marked) - width(before)
    if width(after) > room:
        after = after[: max(room - 1, 0)] + "…"
    return before, marked, after


def printable(text: str) -> str:
    """Text without anything that would move the cursor or change the terminal."""
    import unicodedata

    def shown(char: str) -> str:
        if char == "\t":
            return TAB
        return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char)[0] == "C" else char

    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))


def width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none (UAX 11)."""
    import unicodedata

    if text.isascii():
        return len(text)
    columns = 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me"):
            continue
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns
