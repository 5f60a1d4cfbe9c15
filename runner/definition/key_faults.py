"""The sentences about keys: unknown, missing, misplaced, or excluding one another."""

from __future__ import annotations

from runner.definition import formats, words
from runner.definition.compose import Schema
from runner.definition.describe import any_of, expected, found, key_name, quoted
from runner.definition.findings import Complaint, Path
from runner.definition.odd_characters import imitation
from runner.definition.schema import resolved
from runner.typed import Any, Mapping


def unknown_key(
    root: Schema, schema: Schema, name: str, value: Any, path: Path, table: Mapping[str, Any]
) -> Complaint:
    """A key that the schema has not here: misspelt, another tool's, or in the wrong table."""
    here = list(schema.get("properties", {}))
    if path[:1] == ("params",):  # no tool's word is meant beside a parameter's value
        suggestion, hint = words.closest(name, here), ""
    else:
        suggestion, hint = words.meant(name, here, lambda targets: _elsewhere(root, targets, path))
    if name in ("path", "file") and not suggestion and (plain := _plain_path(root, path)):
        hint = f"a path is written without a table: {plain} = {quoted(value)}"
    if suggestion in table:
        already = f"`{suggestion}` is there already"
        suggestion, hint = "", f"{hint}; {already}" if hint else already
    if not suggestion and not hint:
        hint = _misplaced(root, name, path)
    if suggestion and not hint:
        hint = imitation(name)
    where = f" in {key_name(path)}" if path else ""
    return Complaint(
        (*path, name),
        "key",
        "unknown-key",
        f"unknown key `{name}`{where}",
        _one_of(here),
        found=f"`{name}`",
        suggestion=suggestion,
        hint=hint,
    )


def _plain_path(root: Schema, path: Path) -> str:
    """The key of the machine that may be a path instead of this table; "" where it may not."""
    if len(path) != 1:
        return ""
    branches = resolved(root, root["properties"].get(path[0], {})).get("anyOf", ())
    paths = [part for part in branches if resolved(root, part).get("format") in formats.PATH_FORMATS]
    return str(path[0]) if paths else ""


def _one_of(names: list[str]) -> str:
    return f"one of {', '.join(names)}" if len(names) > 1 else f"only `{names[0]}`" if names else "no keys"


def _misplaced(root: Schema, name: str, path: Path) -> str:
    """Where a key would be right, when it is not here."""
    if path and name in root["properties"]:
        return (
            f"`{name}` belongs to the top level; here it is part of {key_name(path)}: "
            "move it above the first [table]"
        )
    if path and f"[{path[0]}]" in _homes(root, name):
        return f"`{name}` is another form of {key_name(path)}, and excludes this one"
    here = (f"[{path[0]}.NAME]",) if path else ()
    homes = [home for home in _homes(root, name) if home not in here]
    return f"`{name}` belongs to {any_of(homes[:3])}" if homes else ""


def _elsewhere(root: Schema, targets: list[str], path: Path) -> str:
    """Keys of ours by their place: those of the machine itself, else each with the tables that have it."""
    top = [name for name in targets if name in root["properties"]]
    if top:
        return f"{words.keys(top)} at the top level" if path else f"{words.keys(top)} here"
    homes = {name: _homes(root, name)[:2] for name in targets}
    return " and ".join(f"`{name}` in {any_of(homes[name])}" for name in targets if homes[name])


def _homes(root: Schema, name: str) -> list[str]:
    """Sections whose devices, or tables, have this key."""
    homes: dict[str, None] = {}
    for key, part in root["properties"].items():
        below = resolved(root, part)
        extra = below.get("additionalProperties")
        for branch in below.get("anyOf", [below]):
            if name in resolved(root, branch).get("properties", {}):
                homes[f"[{key}]"] = None
        if isinstance(extra, dict):
            for branch in extra.get("oneOf", [extra]):
                if name in resolved(root, branch).get("properties", {}):
                    homes[f"[{key}.NAME]"] = None
    return list(homes)


def bad_name(names: Schema, name: str, path: Path) -> Complaint:
    """A name of a table that cannot be one."""
    return Complaint(
        (*path, name),
        "key",
        "name",
        f"{quoted(name)} cannot be a name in {key_name(path)}",
        formats.WORDS.get(names.get("format", ""), "name"),
        quoted(name),
    )


def missing_key(root: Schema, schema: Schema, name: str, path: Path) -> Complaint:
    """A required key that is not there."""
    part = resolved(root, schema["properties"][name])
    where = f" in {key_name(path)}" if path else ""
    hint = str(part.get("description", "")).rstrip(".")
    examples = part.get("examples", ())
    suggestion = (
        f"{name} = {quoted(examples[0])}" if examples and not isinstance(examples[0], dict | list) else ""
    )
    return Complaint(
        path,
        "table",
        "missing-key",
        f"missing key `{name}`{where}",
        expected(root, part),
        "nothing",
        suggestion=suggestion,
        hint=hint,
    )


def needs_key(name: str, other: str, path: Path) -> Complaint:
    """A key that means nothing without another one."""
    return Complaint(
        (*path, name), "key", "missing-key", f"`{name}` needs `{other}` beside it", f"`{other}`", "nothing"
    )


def not_exactly_one(names: list[str], present: list[str], path: Path) -> list[Complaint]:
    """None or several of keys that exclude each other."""
    wanted = "exactly one of " + any_of([f"`{name}`" for name in names])
    if not present:
        return [
            Complaint(path, "table", "missing-key", f"{key_name(path)} lacks a key", wanted, "none of them")
        ]
    return [
        Complaint(
            (*path, name),
            "key",
            "conflict",
            f"`{name}` and `{present[0]}` exclude each other",
            wanted,
            any_of([f"`{one}`" for one in present]).replace(" or ", " and "),
        )
        for name in present[1:]
    ]


def empty_table(schema: Schema, path: Path) -> Complaint:
    """A table that needs at least one key."""
    names = [f"`{name}`" for name in schema.get("properties", {})]
    return Complaint(
        path, "value", "length", f"{key_name(path)} is empty", "at least one of " + any_of(names), "nothing"
    )


def without_effect(name: str, condition: Schema, path: Path) -> Complaint:
    """A key that another key's value rules out."""
    key, part = next(iter(condition["properties"].items()))
    value = quoted(part["const"])
    return Complaint(
        (*path, name),
        "key",
        "conflict",
        f"`{name}` has no meaning with {key} = {value}",
        f"another {key}",
        f"{key} = {value}",
    )


def no_variant(branches: list[Schema], key: str, value: Mapping[str, Any], path: Path) -> list[Complaint]:
    """A table whose kind is missing or not known, with its keys that no kind has."""
    known = list(dict.fromkeys([key, *(name for part in branches for name in part["properties"])]))
    strange = [_of_no_kind(name, known, key, value, path) for name in value if name not in known]
    if any(one.suggestion == key for one in strange):
        return strange  # the key is there, misspelt
    return [_no_kind([part["properties"][key]["const"] for part in branches], key, value, path), *strange]


def _of_no_kind(name: str, known: list[str], key: str, value: Mapping[str, Any], path: Path) -> Complaint:
    """An unknown key of a table whose kind is not known either."""
    suggestion, hint = words.meant(name, [one for one in known if one not in value])
    near = words.closest(name, [key]) if key not in value else ""
    return Complaint(
        (*path, name), "key", "unknown-key", f"unknown key `{name}` in {key_name(path)}", _one_of(known),
        f"`{name}`", near or suggestion, "" if near else hint,
    )  # fmt: skip


def _no_kind(options: list[str], key: str, value: Mapping[str, Any], path: Path) -> Complaint:
    names = any_of([quoted(word) for word in options])
    if key not in value:
        return Complaint(
            path,
            "table",
            "missing-key",
            f"missing key `{key}` in {key_name(path)}",
            names,
            "nothing",
            hint=f"`{key}` says what {key_name(path)} is",
        )
    given = value[key]
    if not isinstance(given, str):
        return Complaint(
            (*path, key), "value", "type", f"{key_name((*path, key))} has the wrong type", names, found(given)
        )
    near = words.closest(given, options)
    return Complaint(
        (*path, key),
        "value",
        "value",
        f"{key_name((*path, key))}: no such {key}",
        names,
        quoted(given),
        suggestion=quoted(near) if near else "",
    )


def no_table(root: Schema, branches: list[Schema], value: Mapping[str, Any], path: Path) -> Complaint:
    """A table none of whose keys belongs here."""
    tables = [part for part in branches if part.get("type") == "object"]
    keys = list(dict.fromkeys(key for part in tables for key in part.get("required", ())))
    first = next(iter(value), "")
    suggestion, hint = (
        words.meant(first, keys, lambda targets: _elsewhere(root, targets, path)) if first else ("", "")
    )
    if first == "mode":
        modes = [word for part in branches for word in part.get("enum", ())]
        near = words.closest(str(value[first]), modes)
        hint = f"a mode is written without a table: {key_name(path).strip('`')} = {quoted(near or modes[0])}"
    return Complaint(
        (*path, first) if first else path,
        "key" if first else "value",
        "unknown-key" if first else "missing-key",
        f"unknown key `{first}` in {key_name(path)}" if first else f"{key_name(path)} is an empty table",
        any_of([expected(root, part) for part in branches]),
        f"`{first}`" if first else "nothing",
        suggestion=suggestion,
        hint=hint,
    )
