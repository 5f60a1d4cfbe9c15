"""A fault put into any line of a reference definition is told at exactly that place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.definition.load import inspect_text

FOLDER = Path(__file__).resolve().parents[2] / "vms"
PAIR = re.compile(r"^([A-Za-z_]+)(\s*=\s*)(.+?)\s*(#.*)?$")
HEADER = re.compile(r"^\[([a-z]+)(\.[a-z]+)?\]$")


def spoilt(lines: list[str]) -> Iterator[tuple[int, str, int, int]]:
    """Each line with one fault: its index, the new text, and the columns that are wrong (from 1)."""
    inside = False
    for index, line in enumerate(lines):
        delimiters = line.count('"""') + line.count("'''")
        if delimiters or inside:
            inside ^= delimiters % 2 == 1
            continue
        if pair := PAIR.match(line):
            key, equals, value = pair[1], pair[2], pair[3]
            yield index, f"qqq{line}", 1, 4 + len(key)
            start = len(key + equals) + 1
            if not value.endswith(("[", "{", "\\")):
                yield index, f"{key}{equals}1979-05-27", start, start + 10
                yield index, f"{key}{equals}oops", start, start + 4
        elif header := HEADER.match(line):
            yield index, f"[qqq{line[1:]}", 2, 5 + len(header[1])


@pytest.mark.parametrize("name", ["hello.toml", "cardreader.toml", "lab/disks.toml"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_can_be_wrong(name: str, end: str) -> None:
    """A key misspelt, a value of a foreign type, a bare word, a header misspelt: the caret is under it."""
    lines = (FOLDER / name).read_text().split("\n")
    missed = []
    for index, text, column, past in spoilt(lines):
        whole = end.join([*lines[:index], text, *lines[index + 1 :]])
        found = inspect_text(whole, str(FOLDER / name)).findings
        if (index + 1, column, past) not in [(one.line, one.column, one.end) for one in found]:
            missed.append((index + 1, text, found))
    assert missed == []
