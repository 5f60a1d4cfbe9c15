"""A document as TOML text: keys of the top level first, then a table with a header for each table.

Standard Python reads TOML and does not write it; what a definition consists of is little.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.exchange.taken import Table


def toml(document: Table) -> str:
    """The text; tomllib reads the same document from it."""
    lines: list[str] = []
    tables = {key: part for key, part in document.items() if isinstance(part, dict) and len(part) != 1}
    named = {key: part for key, part in document.items() if isinstance(part, dict) and _is_section(part)}
    for key, part in document.items():
        if key not in tables and key not in named:
            lines.append(f"{_key(key)} = {_value(part)}")
    for key, table in {**tables, **named}.items():
        entries = table if key in named else {"": table}
        for name, entry in entries.items():
            header = _key(key) + (f".{_key(name)}" if key in named else "")
            lines += ["", f"[{header}]", *(f"{_key(one)} = {_value(two)}" for one, two in _items(entry))]
    return "\n".join(lines).strip("\n") + "\n"


def _is_section(table: Table) -> bool:
    """Tables with names, each of which gets a header."""
    return bool(table) and all(isinstance(part, dict) for part in table.values())


def _items(entry: Json) -> list[tuple[str, Json]]:
    return list(entry.items()) if isinstance(entry, dict) else []


def _key(name: str) -> str:
    bare = name and all(char.isascii() and (char.isalnum() or char in "-_") for char in name)
    return name if bare else _text(name)


def _value(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
