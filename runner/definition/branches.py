"""Which alternative of the schema a value was meant for.

The schema has alternatives in three places only, and each can be told apart without trying:
by the type of the value (``cpus = 4`` or a table), by one key that says the kind
(``driver``), or by which keys are there (``{file = …}`` or ``{socket = …}``).
"""

from __future__ import annotations

from runner.definition.compose import Schema
from runner.definition.describe import type_name
from runner.typed import Any, Mapping


def chosen_branch(branches: list[Schema], value: Any, key: str | None) -> Schema | None:
    """The branch that is meant; None when no branch is."""
    if key is not None and isinstance(value, Mapping):
        return _by_kind(branches, value, key)
    fitting = [part for part in branches if _accepts(part, value)]
    if len(fitting) > 1 and isinstance(value, Mapping):
        return max(fitting, key=lambda part: len(value.keys() & part["properties"].keys()))
    if not fitting and isinstance(value, Mapping):
        fitting = [part for part in branches if part.get("type") == "object"]
        return fitting[0] if len(fitting) == 1 else None  # its keys are told one by one
    return fitting[0] if fitting else None


def _by_kind(branches: list[Schema], value: Mapping[str, Any], key: str) -> Schema | None:
    for part in branches:
        own = part["properties"][key]
        if value.get(key, own.get("default")) == own["const"]:
            return part
    return None


def _accepts(part: Schema, value: Any) -> bool:
    """Whether a value of this type belongs here, be it valid or not."""
    if "enum" in part:
        return value in part["enum"]
    if part.get("type") != type_name(value):
        return False
    return not isinstance(value, Mapping) or _shares_a_key(part, value)


def _shares_a_key(part: Schema, value: Mapping[str, Any]) -> bool:
    """With required keys: one of the branch's keys is there; a foreign table is met elsewhere."""
    return bool(value.keys() & part.get("properties", {}).keys()) or not part.get("required")


def holds(condition: Schema, value: Mapping[str, Any]) -> bool:
    """``if`` of the schema: each named property is absent or its ``const``, ``required`` ones are there."""
    if any(name not in value for name in condition.get("required", ())):
        return False
    return all(
        name not in value or value[name] == part["const"] for name, part in condition["properties"].items()
    )
