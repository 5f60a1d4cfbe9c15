"""Write docs/reference/definition.md from the schema: ``python -m tools.reference``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runner.definition.compose import Schema
from runner.definition.describe import TYPE_WORDS, any_of, expected, is_choice_of_keys
from runner.definition.schema import resolved, whole_schema
from runner.exchange.toml_text import toml
from runner.typed import Any, Iterator

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
MADE = "<!-- made by python -m tools.reference; change the schema instead -->\n"
HEAD = ["| key | type | what | default | example |", "| --- | --- | --- | --- | --- |"]
EXAMPLE_WORDS = re.compile(r', as in "[^"]*"(?:(?:,| or) "[^"]*")*')


def definition(root: Schema) -> str:
    """Every key of a definition, as one page."""
    page = [MADE, "# The keys of a definition\n", root["description"] + "\n"]
    page += ["Where no default stands, the description says what holds without the key.\n"]
    page += ["| key | type | default |", "| --- | --- | --- |"]
    for name, raw in root["properties"].items():
        part = resolved(root, raw)
        page.append(f"| [`{name}`](#{name}) | {type_words(root, part)} | {default(root, name, part)} |")
    page.append("")
    for name, raw in root["properties"].items():
        page += section(root, name, resolved(root, raw))
    return "\n".join(page)


def section(root: Schema, name: str, part: Schema) -> list[str]:
    """One key of the top level: what it is, in which forms it is written, and the keys of its tables."""
    page = [f"## `{name}`\n", cell(part["description"]) + "\n"]
    page += ["| type | default | example |", "| --- | --- | --- |"]
    page += [f"| {type_words(root, part)} | {default(root, name, part)} | {example(part)} |", ""]
    kinds = part.get("additionalProperties")
    if isinstance(kinds, dict):
        return [*page, *named(root, resolved(root, kinds))]
    branches = forms(root, part)
    if len(branches) > 1:
        page += ["| form | type | what | example |", "| --- | --- | --- | --- |"]
        page += [form_row(root, branch) for branch in branches]
        page.append("")
    tables = [branch for branch in branches if branch.get("properties")]
    for table in tables:
        if len(branches) > 1:
            page.append(f"### `{name}`: {table['title']}\n")
        page += [*HEAD, *rows(root, table), ""]
    return page


def named(root: Schema, kind: Schema) -> list[str]:
    """A section of tables with names: one table of keys for each kind of entry, told apart by its title."""
    page: list[str] = []
    for branch in forms(root, kind):
        if branch.get("properties"):
            page += [f"### {branch['title']}\n", cell(branch["description"]) + "\n"]
            page += [*HEAD, *rows(root, branch), ""]
    return page


def forms(root: Schema, part: Schema) -> list[Schema]:
    """The ways in which a key may be written; the part itself when there is one."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in part and not is_choice_of_keys(part[keyword]):
            return [resolved(root, branch) for branch in part[keyword]]
    return [part]


def form_row(root: Schema, branch: Schema) -> str:
    """One form of a key, by its title."""
    what = cell(branch["description"])
    return f"| {branch['title']} | {type_words(root, branch)} | {what} | {example(branch)} |"


def rows(root: Schema, table: Schema, prefix: str = "") -> Iterator[str]:
    """A row for each key, followed by those of the table, or of the tables of the array, that it holds."""
    for name, raw in table.get("properties", {}).items():
        part = resolved(root, raw)
        words = [prefix + name, type_words(root, part), cell(part["description"])]
        yield f"| `{words[0]}` | {words[1]} | {words[2]} | {default(table, name, part)} | {example(part)} |"
        inner, mark = (part["items"], "[].") if "items" in part else (part, ".")
        yield from rows(root, resolved(root, inner), f"{prefix}{name}{mark}")


def default(table: Schema, name: str, part: Schema) -> str:
    """What holds when the key is left out."""
    if "default" in part:
        return code(part["default"])
    if part.get("x-vmrun", {}).get("default") == "name":
        return "the table's name"
    choices = [choice["required"] for choice in table.get("oneOf", ()) if "required" in choice]
    if [name] in choices:
        return "required: one of " + any_of([f"`{choice[0]}`" for choice in choices])
    if name in table.get("required", ()):
        return "required"
    wants = table.get("dependencies", {}).get(name)
    return "only with " + any_of([f"`{one}`" for one in wants]) if wants else ""


def type_words(root: Schema, part: Schema) -> str:
    """What the schema accepts, in the words of an error message without their examples."""
    branches = forms(root, part)
    if len(branches) > 1:
        return ", or ".join(dict.fromkeys(type_words(root, branch) for branch in branches))
    if isinstance(part.get("additionalProperties"), dict) and "properties" not in part:
        entry = type_words(root, resolved(root, part["additionalProperties"]))
        return "tables with names" if entry.startswith("table") else f"table of: {entry}"
    if part.get("type") == "array" and "items" in part:
        return f"array of: {type_words(root, resolved(root, part['items']))}"
    if part.get("type") == "number":
        return TYPE_WORDS["number"]
    return cell(EXAMPLE_WORDS.sub("", expected(root, part)))


def example(part: Schema) -> str:
    """The first example of a key."""
    return code(part["examples"][0]) if part.get("examples") else ""


def code(value: Any) -> str:
    """A value in TOML's words."""
    return f"`{cell(toml({'x': [value]}).removeprefix('x = [').removesuffix(']' + chr(10)))}`"


def cell(text: str) -> str:
    """Text that stays within its column."""
    return text.replace("|", "\\|").replace("\n", " ")


def pages() -> dict[str, str]:
    """File name and text of every page."""
    return {"definition.md": definition(whole_schema())}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
