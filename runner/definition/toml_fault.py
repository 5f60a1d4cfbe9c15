"""tomllib's verdict on a text, as a value: its words and where it stopped."""

from __future__ import annotations

from runner.typed import NamedTuple


class Fault(NamedTuple):
    """tomllib's own words, with line and column from 1 (the end of the text: its last line)."""

    message: str
    line: int
    column: int


def toml_fault(text: str) -> Fault | None:
    """The first error tomllib sees, or None."""
    import tomllib

    try:
        tomllib.loads(text)
    except RecursionError:
        return Fault("Nested too deeply", 1, 1)
    except ValueError as error:
        return _located(str(error), text)
    return None


def _located(message: str, text: str) -> Fault:
    """Split "what (at line 3, column 5)"; the form is the same in each Python since 3.11."""
    import re

    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if match:
        return Fault(match[1], int(match[2]), int(match[3]))
    lines = text.split("\n")
    return Fault(message.removesuffix(" (at end of document)"), len(lines), len(lines[-1]) + 1)
