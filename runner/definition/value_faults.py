"""The sentences about values: each way one can miss the schema, as a complaint for people.

No sentence says "is not valid under any of the given schemas".  Each names the key, says
what was expected and what was found, and where it can, what could stand there.
"""

from __future__ import annotations

from runner.definition import formats, words
from runner.definition.compose import Schema
from runner.definition.describe import any_of, expected, found, integer_range, key_name, quoted, type_name
from runner.definition.findings import Complaint, Path
from runner.definition.odd_characters import imitation, plain
from runner.definition.schema import resolved
from runner.typed import Any, Mapping


def wrong_type(root: Schema, schema: Schema, value: Any, path: Path) -> Complaint:
    """A value of another type than the schema has."""
    wanted = expected(root, schema)
    hint = _unit_hint(root, schema, value)
    if schema.get("type") == "boolean" and isinstance(value, Mapping) and path:
        hint = f"it has no keys: {path[-1]} = true"
    elif schema.get("propertyNames") and "anyOf" in schema.get("additionalProperties", ()):
        hint = f"a table [{path[-1]}] with a line NAME = VALUE for each"
    elif schema.get("propertyNames") and len(path) == 1:
        hint = f"give it a name: [{path[-1]}.NAME]"
    elif schema.get("propertyNames") and path:  # the guest's paths
        hint = f'a table [{".".join(map(str, path))}] with a line "/guest/path" = "host path" for each'
    elif len(path) == 2 and "anyOf" not in schema and _is_section(root, path[0]):
        hint = f"`{path[0]}` has a name for each entry: put the keys below [{path[0]}.NAME]"
    return Complaint(
        path,
        "value",
        "type",
        f"{key_name(path)} has the wrong type",
        wanted,
        found(value),
        suggestion=_other_type(root, schema, value),
        hint=hint,
    )


def _unit_hint(root: Schema, schema: Schema, value: Any) -> str:
    """Why a bare number is refused where a unit is wanted."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    for part in (resolved(root, part) for part in schema.get("anyOf", [schema])):
        hint = {"vm-size": BARE_SIZE, "vm-duration": BARE_DURATION}.get(part.get("format", ""))
        if hint:
            return hint
    return ""


BARE_SIZE = "a bare number means MiB in some tools and bytes in others, so the unit is written"
BARE_DURATION = "a bare number could be seconds or milliseconds, so the unit is written"


def _is_section(root: Schema, name: str | int) -> bool:
    return "propertyNames" in root["properties"].get(name, {})


def _other_type(root: Schema, schema: Schema, value: Any) -> str:
    """The same thing in the type that is wanted, as TOML writes it."""
    schema = resolved(root, schema)
    parts = schema.get("anyOf") or schema.get("oneOf") or [schema]
    for part in (resolved(root, part) for part in parts):
        kind, form = part.get("type"), part.get("format")
        if kind == "string" and form is None and type_name(value) == "null":
            return f'"{value}"'
        if kind == "integer" and isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
            return str(int(value))
        if kind == "boolean" and str(value).lower() in _SWITCHES:
            return _SWITCHES[str(value).lower()]
        if kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 1 << 50:
            return str(int(value))
        if form == "vm-duration" and isinstance(value, float) and 0.001 <= value < 1 << 20:
            return f'"{value:g}s"'
        if value is False and "off" in part.get("enum", ()):
            return '"off"'
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 50:
            if form == "vm-size":
                return f'"{_in_units(value)}"'
            if form == "vm-duration":
                return f'"{value}s"'
            if form == "vm-hex16" and value < 1 << 16:
                return f'"{value:04x}"'
        if kind == "array" and isinstance(value, str) and len(value) < 40:
            return f"[{quoted(value)}]"
    return ""


def _in_units(number: int) -> str:
    """A bare number as a size: a small one was meant in MiB, one that fills whole MiB in bytes."""
    for unit, amount in (("G", 1 << 30), ("M", 1 << 20)):
        if number >= 1 << 20 and number % amount == 0:
            return f"{number // amount}{unit}"
    return f"{number}M" if number < 1 << 20 else f"{number}B"


_SWITCHES = {
    "on": "true", "yes": "true", "true": "true", "1": "true",
    "off": "false", "no": "false", "false": "false", "0": "false",
}  # fmt: skip


def not_listed(options: list[Any], value: Any, path: Path, branches: list[Schema]) -> Complaint:
    """A value that is not one of a list; ``branches`` are the tables that would do as well."""
    names = [quoted(word) for word in options]
    texts = [word for word in options if isinstance(word, str)]
    near = words.same_as(value, texts) or words.closest(value, texts) if isinstance(value, str) else ""
    tables = [part["required"][0] for part in branches if part.get("required")]
    sign = "=" if isinstance(value, str) and "=" in value else ":"  # cloud-hypervisor's and QEMU's way
    word, _, target = value.partition(sign) if isinstance(value, str) else ("", "", "")
    if word in tables:
        return Complaint(
            path,
            "value",
            "value",
            f"{key_name(path)} needs to know which {word}",
            any_of(names) + " or a table",
            found(value),
            suggestion=f"{{ {word} = {quoted(target or 'PATH')} }}",
        )
    return Complaint(
        path,
        "value",
        "value",
        f"{key_name(path)} has a value that is not known",
        any_of([*names, *(f"{{ {name} = … }}" for name in tables)]),
        found(value),
        suggestion=quoted(near) if near else "",
        hint=imitation(value) if isinstance(value, str) and near else "",
    )


def out_of_range(schema: Schema, value: int, path: Path) -> Complaint:
    """A number that is too small or too large."""
    side = "small" if value < schema.get("minimum", value) else "large"
    return Complaint(
        path, "value", "range", f"{key_name(path)} is too {side}", integer_range(schema), quoted(value)
    )


def bad_format(form: str, value: str, fault: formats.FormatFault, path: Path) -> Complaint:
    """A string that is not of its format."""
    return Complaint(
        path,
        "value",
        "format",
        f"{key_name(path)}: {fault}",
        formats.WORDS.get(form, "string"),
        quoted(value),
        suggestion=quoted(fault.suggestion) if fault.suggestion else _in_ascii(value),
        hint=imitation(value) or fault.hint,
    )


def _in_ascii(value: str) -> str:
    return quoted(plain(value)) if imitation(value) else ""


def bad_pattern(schema: Schema, value: str, path: Path) -> Complaint:
    """A string with characters that its format does not have."""
    examples = schema.get("examples", ())
    better = quoted(f"https{value[4:]}") if value.startswith("http://") else ""
    return Complaint(
        path,
        "value",
        "format",
        f"{key_name(path)} does not have the right form",
        formats.WORDS.get(schema.get("format", ""), "string"),
        quoted(value),
        suggestion=better,
        hint=f"for example {quoted(examples[0])}" if examples and not better else "",
    )


def bad_length(schema: Schema, value: str, path: Path) -> Complaint:
    """A string that is too short (mostly empty) or too long."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    message = f"{key_name(path)} is empty" if not value else f"{key_name(path)} is too short"
    wanted = formats.WORDS.get(schema.get("format", ""), "string")
    if len(value) >= least:
        message, wanted = f"{key_name(path)} is too long", f"at most {most} characters"
    return Complaint(path, "value", "length", message, wanted, f"{len(value)} characters")


def too_few(root: Schema, schema: Schema, path: Path) -> Complaint:
    """An array with fewer entries than it needs."""
    return Complaint(
        path, "value", "length", f"{key_name(path)} is empty", expected(root, schema), "an empty array"
    )


def repeated(value: Any, first: int, path: Path) -> Complaint:
    """An entry that an array has already."""
    return Complaint(
        path,
        "value",
        "repeated",
        f"{quoted(value)} is in the list twice",
        "each entry once",
        f"the same as entry {first + 1}",
    )
