"""Write docs/reference/definition.md from the schema: ``python -m tools.reference``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from runner.definition.schema import whole_schema

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
MADE = "<!-- made by python -m tools.reference; change the schema instead -->\n"


def definition(schema: dict[str, Any]) -> str:
    """Every key of a definition, as one page."""
    page = [MADE, "# The keys of a definition\n", schema["description"] + "\n"]
    page.append(
        'Sizes are strings with a binary unit (`"512M"`), durations have one too (`"60s"`), and a path is'
    )
    page.append("relative to the file that says it.\n")
    for name, part in schema["properties"].items():
        page += _section(name, part, schema)
    return "\n".join(page) + "\n"


def _section(name: str, part: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    part = _resolved(part, schema)
    lines = [f"## `{name}`\n", _described(part) + "\n"]
    member = part.get("additionalProperties")
    if isinstance(member, dict):
        for kind in _kinds(_resolved(member, schema), schema):
            lines += _table(kind, schema, heading=f"### {kind.get('title', name)}\n")
    else:
        for kind in _kinds(part, schema):
            lines += _table(kind, schema)
    return lines


def _kinds(part: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The table itself, or the tables that it may be (by driver, or short and long form)."""
    branches = [_resolved(one, schema) for key in ("oneOf", "anyOf") for one in part.get(key, [])]
    branches += [_resolved(one["then"], schema) for one in part.get("allOf", []) if "then" in one]
    with_keys = [one for one in branches if one.get("properties")]
    if part.get("properties"):
        return [part, *(one for one in with_keys if one.get("title"))]
    return with_keys


def _table(kind: dict[str, Any], schema: dict[str, Any], heading: str = "") -> list[str]:
    rows = [heading] if heading else []
    rows += [kind["description"] + "\n"] if heading and kind.get("description") else []
    rows += ["| key | what | default | example |", "| --- | --- | --- | --- |"]
    needed = kind.get("required", [])
    for key, raw in kind.get("properties", {}).items():
        value = _resolved(raw, schema)
        default = (
            _code(value["default"])
            if value.get("default") is not None
            else "required"
            if key in needed
            else ""
        )
        example = _code(value["examples"][0]) if value.get("examples") else ""
        rows.append(f"| `{key}` | {_cell(_described(value))} | {default} | {example} |")
    return [*rows, ""]


def _described(value: dict[str, Any]) -> str:
    words = str(value.get("description", value.get("title", "")))
    if "enum" in value:
        words += " One of " + ", ".join(_code(one) for one in value["enum"]) + "."
    return words


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref", "")
    if not reference.startswith("#/definitions/"):
        return part
    return {
        **schema["definitions"][reference.removeprefix("#/definitions/")],
        **{k: v for k, v in part.items() if k != "$ref"},
    }


def _code(value: Any) -> str:
    return f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def pages() -> dict[str, str]:
    """File name and text of every page."""
    return {"definition.md": definition(whole_schema())}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
