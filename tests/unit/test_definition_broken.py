"""Every fault of a broken definition is told, at its place and in words."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from broken_definitions import BROKEN, Case

from runner.definition.findings import Finding
from runner.definition.load import inspect_text


class Mark(NamedTuple):
    line: int
    column: int
    end: int


def unmarked(text: str) -> tuple[str, list[Mark]]:
    """The text without its marks, and where they were; a mark over a line end stops there.

    A byte order mark counts in no column.
    """
    first = "\ufeff" if text.startswith("\ufeff") else ""
    marks, lines = [], []
    for number, marked in enumerate(text.removeprefix(first).split("\n"), 1):
        line = marked
        while "«" in line:
            start = line.index("«")
            line = line[:start] + line[start + 1 :]
            stop = line.index("»") if "»" in line else len(line)
            line = line[:stop] + line[stop + 1 :]
            marks.append(Mark(number, start + 1, max(stop, start + 1) + 1))
        lines.append(line)
    return first + "\n".join(lines), marks


def words(findings: tuple[Finding, ...]) -> str:
    said = []
    for one in findings:
        better = f"did you mean `{one.suggestion}`" if one.suggestion else ""
        said.append(" ".join((one.message, one.expected, one.found, better, one.hint)))
    return "\n".join(said)


@pytest.mark.parametrize("case", BROKEN, ids=[case.name.replace(" ", "-") for case in BROKEN])
def test_every_fault_is_told_where_it_is(case: Case) -> None:
    """Each finding's caret stands exactly under the marked text, and there is no other finding."""
    text, marks = unmarked(case.text)
    findings = inspect_text(text, "x.toml").findings
    expected = [Mark(1, 1, 2)] * case.at_start + [mark for mark in marks for _ in range(case.times)]
    assert [Mark(one.line, one.column, one.end) for one in findings] == expected, words(findings)
    assert [one.code for one in findings] == case.codes.split(), words(findings)


@pytest.mark.parametrize("case", BROKEN, ids=[case.name.replace(" ", "-") for case in BROKEN])
def test_every_fault_is_told_in_words(case: Case) -> None:
    """The words say what is wrong and what to write, and never the schema's own jargon."""
    said = words(inspect_text(unmarked(case.text)[0], "x.toml").findings)
    for part in case.says:
        assert part in said, said
    for jargon in ("valid under", "schema", "jsonschema", "anyOf", "None", "TomlDecode", *case.unsaid):
        assert jargon not in said, said
