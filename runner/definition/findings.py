"""What is wrong with a definition: first by key, then by line and column.

A :class:`Complaint` is what a check knows: which key or value of the document it means.
A :class:`Finding` is what a reader sees: the same with file, line and columns.  Between
the two stands :mod:`runner.definition.positions`, which is loaded only when there is
something to report.
"""

from __future__ import annotations

from runner.typed import Iterable, NamedTuple

MOST = 100
"""Findings of one file, at most: somebody mends the first ones, and looks again."""

Path = tuple[str | int, ...]
"""Where a value stands in the document: ``("disks", "root", "path")``; integers count in arrays."""


class Complaint(NamedTuple):
    """One fault, told by its place in the document.

    ``where`` is what the caret goes under: "key", "value", or "table" (the key or header of
    a table that lacks something).  ``suggestion`` is text that could stand there instead.
    """

    path: Path
    where: str
    code: str
    message: str
    expected: str = ""
    found: str = ""
    suggestion: str = ""
    hint: str = ""
    severity: str = "error"  # error | warning


class Finding(NamedTuple):
    """One fault, told by line and column (both from 1, in characters; ``end`` is past the last).

    ``source`` is the line itself, so that a finding can be shown without the file.
    """

    file: str
    line: int
    column: int
    end: int
    severity: str
    code: str
    message: str
    expected: str = ""
    found: str = ""
    suggestion: str = ""
    hint: str = ""
    source: str = ""


def order(finding: Finding) -> tuple[int, int, str, str]:
    """The order in which findings of one file are shown: by position."""
    return (finding.line, finding.column, finding.code, finding.message)


def sorted_for(path: str, findings: Iterable[Finding]) -> list[Finding]:
    """By position: of the file itself first, then of the others it consists of."""
    return sorted(findings, key=lambda one: (one.file != path, one.file, *order(one)))


def has_errors(findings: tuple[Finding, ...] | list[Finding]) -> bool:
    """Whether any of them makes the definition unusable (warnings do not)."""
    return any(finding.severity == "error" for finding in findings)
