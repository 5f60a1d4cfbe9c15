"""Frozen values as plain tuples and back, fast: for the remembered plan and for the VM process.

``marshal`` knows tuples but no classes; here a NamedTuple becomes ``("module:Class", fields)`` and
comes back only if it is one of this project's value modules.  (JSON, which people and other programs
read, is :mod:`runner.graph.encode`'s.)
"""

from __future__ import annotations

from runner.light import import_module
from runner.typed import Any

MODULES = ("runner.definition.model", "runner.graph.model", "runner.hostfacts",
           "runner.definition.findings")  # fmt: skip
_classes: dict[str, Any] = {}


def plain(value: Any) -> Any:
    """The value without classes."""
    if isinstance(value, tuple):
        items = tuple([plain(item) for item in value])
        fields = hasattr(value, "_fields")
        return (f"{type(value).__module__}:{type(value).__name__}", items) if fields else ("", items)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def revive(value: Any) -> Any:
    """The inverse of :func:`plain`.  Raises ValueError for what it has not made."""
    if isinstance(value, tuple):
        name, items = value
        made = [revive(item) for item in items]
        return _class(name)(*made) if name else tuple(made)
    if isinstance(value, dict):
        return {key: revive(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revive(item) for item in value]
    return value


def _class(name: str) -> Any:
    found = _classes.get(name)
    if found is None:
        module, _, attribute = name.partition(":")
        if module not in MODULES:
            raise ValueError(f"{name} is no value of this project")
        found = _classes[name] = getattr(import_module(module), attribute)
    return found
