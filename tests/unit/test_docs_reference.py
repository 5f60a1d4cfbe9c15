"""docs/reference/definition.md has every key of the schema, with type, default, words and forms."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.definition.compose import Schema
from runner.definition.schema import resolved, whole_schema
from tools import reference

TOP = Path(__file__).resolve().parents[2]
ROOT = whole_schema()
PAGE = (TOP / "docs" / "reference" / "definition.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def cells(line: str) -> list[str]:
    """The columns of a row, without the bars that are part of a text."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def keys(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema, Schema]]:
    """Every key that may be written below a table, by its dotted name, with the table it is a key of."""
    for keyword in ("anyOf", "oneOf"):
        for branch in schema.get(keyword, ()):
            yield from keys(resolved(ROOT, branch), prefix)
    if isinstance(schema.get("additionalProperties"), dict) and "properties" not in schema:
        yield from keys(resolved(ROOT, schema["additionalProperties"]), prefix)
    for name, raw in schema.get("properties", {}).items():
        part = resolved(ROOT, raw)
        yield prefix + name, part, schema
        inner, mark = (part["items"], "[].") if "items" in part else (part, ".")
        if not part.get("anyOf"):
            yield from keys(resolved(ROOT, inner), f"{prefix}{name}{mark}")


def value(shown: str) -> Any:
    """What a cell shows, read as TOML."""
    return tomllib.loads(f"x = {shown.strip('`')}")["x"]


@pytest.mark.parametrize("name", list(reference.pages()))
def test_the_reference_is_what_the_schema_says(name: str) -> None:
    """The file in git is what its tool makes of the schema today."""
    written = (TOP / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "python -m tools.reference"


@pytest.mark.parametrize("section", list(ROOT["properties"]))
def test_every_key_has_a_row_with_type_words_and_default(section: str) -> None:
    """Keys within keys included; a default of the schema stands in its column."""
    rows = [cells(line) for line in SECTIONS[section].splitlines() if line.startswith("| `")]
    for name, part, table in keys(resolved(ROOT, ROOT["properties"][section])):
        mine = [row for row in rows if row[0] == f"`{name}`"]
        assert mine, f"{section}: no row for {name}"
        assert all(row[1] and row[2] for row in mine), f"{section}: {name} has no type or no words"
        if "default" in part:
            assert part["default"] in [value(row[3]) for row in mine if row[3].startswith("`")], (
                f"{section}: default of {name}"
            )
        elif name.rpartition(".")[2] in table.get("required", ()):
            assert any(row[3].startswith("required") for row in mine), f"{section}: {name} is required"


@pytest.mark.parametrize("section", list(ROOT["properties"]))
def test_every_choice_of_words_is_told(section: str) -> None:
    """Each word of an enum stands in the section of its key."""
    for name, part, _ in keys({"properties": {section: ROOT["properties"][section]}}):
        for word in part.get("enum", ()):
            assert f'"{word}"' in SECTIONS[section], f"{section}: {name} = {word}"


@pytest.mark.parametrize("section", list(ROOT["properties"]))
def test_every_form_has_a_row_with_its_title(section: str) -> None:
    """`serial = "pty"` beside `serial = { file = … }`: no form is left out, none is without a name."""
    part = resolved(ROOT, ROOT["properties"][section])
    rows = [cells(line) for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    for branch in (resolved(ROOT, one) for one in part.get("anyOf", ())):
        mine = [row for row in rows if row[0] == branch["title"]]
        assert mine, f"{section}: no row for the form {branch['title']}"
        assert all(mine[0]), f"{section}: {branch['title']} says too little"
        for word in branch.get("enum", ()):
            assert f'"{word}"' in mine[0][1], f"{section} = {word}"
        if branch.get("properties"):
            assert f"### `{section}`: {branch['title']}\n" in SECTIONS[section]


def test_the_keys_of_the_top_level_stand_in_one_table_with_their_defaults() -> None:
    """What holds when a file says nothing is seen at one glance."""
    head = PAGE.partition("\n## ")[0]
    rows = {row[0]: row[2] for row in map(cells, re.findall(r"^\| \[.*$", head, re.M))}
    for name, raw in ROOT["properties"].items():
        part = resolved(ROOT, raw)
        shown = rows[f"[`{name}`](#{name})"]
        if "default" in part:
            assert value(shown) == part["default"]
        else:
            assert shown == ("required" if name in ROOT["required"] else "")


def test_what_sizes_are_is_said_once() -> None:
    """Two sentences that say the same soon say different things."""
    assert PAGE.count("binary unit (") == 1
