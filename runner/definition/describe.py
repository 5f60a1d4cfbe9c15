"""How values and what the schema accepts are called in a sentence."""

from __future__ import annotations

from runner.definition import formats
from runner.definition.compose import Schema
from runner.definition.findings import Path
from runner.definition.schema import resolved
from runner.typed import Any, Mapping

TYPE_WORDS = {
    "object": "table",
    "array": "array",
    "string": "string",
    "integer": "integer",
    "number": "float",
    "boolean": "boolean",
    "null": "date or time",
}


def matches(pattern: str, text: str) -> bool:
    """A ``pattern`` of the schema (ECMA 262 as far as we use it) on a whole text."""
    import re

    return (
        re.search(pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern, text) is not None
    )


def type_name(value: Any) -> str:
    """The JSON type of what tomllib gives; a date or time has none and is called null."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping):
        return "object"
    return "array" if isinstance(value, list) else "null"


def quoted(value: Any) -> str:
    """A value as TOML writes it, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        short = value if len(value) <= 40 else value[:39] + "…"
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in short.replace("\\", "\\\\"))
        return '"' + text.replace('"', '\\"') + '"'
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of more than 64 bits"
    return str(value)


def found(value: Any) -> str:
    """What stands there, in words."""
    name = TYPE_WORDS[type_name(value)]
    if isinstance(value, Mapping):
        return "table"
    if isinstance(value, list):
        return f"array of {len(value)}"
    return f"{name} {quoted(value)}"


def key_name(path: Path) -> str:
    """How a place is called in a sentence: ``disks.root.path``, ``engine[1]``."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return f"`{name}`"


def expected(root: Schema, schema: Schema) -> str:
    """What a schema accepts, in words."""
    schema = resolved(root, schema)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not is_choice_of_keys(schema[keyword]):
            seen = dict.fromkeys(expected(root, part) for part in schema[keyword])
            return " or ".join(seen)
    if "const" in schema or "enum" in schema:
        return any_of([quoted(word) for word in schema.get("enum", [schema.get("const")])])
    if schema.get("type") == "integer":
        return integer_range(schema)
    if schema.get("type") == "string":
        return formats.WORDS.get(schema.get("format", ""), "string")
    if schema.get("type") == "array":
        return f"array of: {expected(root, schema['items'])}" if "items" in schema else "array"
    if schema.get("type") == "object":
        return _table_words(schema)
    return {"boolean": "true or false", "number": "float"}.get(schema.get("type", ""), "value")


def _table_words(schema: Schema) -> str:
    required: list[str] = schema.get("required", [])
    if required:
        return "table with " + " and ".join(f"`{name}`" for name in required)
    return "table"


def integer_range(schema: Schema) -> str:
    """The integers that a schema accepts, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"integer from {low} to {high}"
    return f"integer from {low}" if low is not None else "integer"


def any_of(names: list[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def is_choice_of_keys(branches: list[Schema]) -> bool:
    """Whether a oneOf only lists keys of which exactly one is wanted."""
    return all(part.keys() == {"required"} for part in branches)
