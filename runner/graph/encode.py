"""Graph, host facts and definition as JSON, and back: an exact round trip.

A value becomes an object with one key per field, in the order of the fields; where a field
can be one of several values (a kernel's source) the key ``type`` says which.  The shapes
are read off the types themselves, so a new field needs nothing here.  Reading is strict:
what does not fit is a ValueError that says where, since ``vmrun plan --host FILE`` and
``vmrun diff`` read what people have stored and edited.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from runner.definition.model import Json

Reader = Callable[[Any, str], Any]
Value = TypeVar("Value")


def to_json(value: object) -> Json:
    """A frozen value (a NamedTuple, all the way down) as JSON."""
    if hasattr(value, "_fields"):
        tag: dict[str, Json] = {"type": type(value).__name__} if is_source(type(value)) else {}
        return tag | {name: to_json(part) for name, part in zip(value._fields, value, strict=True)}  # type: ignore[call-overload]
    if isinstance(value, tuple | list):
        return [to_json(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def from_json(kind: type[Value], data: Json, where: str = "") -> Value:
    """The value of type ``kind`` that :func:`to_json` made ``data`` of.

    A field that is missing takes its default.  Raises ValueError with the path of what does
    not fit (``nodes[3].claim.ports[0].at``).
    """
    made: Value = _reader(kind)(data, where or kind.__name__)
    return made


def dumps(value: object) -> str:
    """Text for people and for golden files: two spaces, one final newline, order kept."""
    import json

    return json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n"


def is_source(kind: type) -> bool:
    """Is it one of several that a field can hold (``KernelFile | KernelDeb``), told by ``type``?"""
    return kind.__name__.startswith(("Kernel", "Initramfs"))


_readers: dict[Any, Reader] = {}


def _reader(kind: Any) -> Reader:
    if kind not in _readers:
        _readers[kind] = _make_reader(kind)
    return _readers[kind]


def _make_reader(kind: Any) -> Reader:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(get_args(kind))
    if origin is tuple:
        return _tuple(get_args(kind))
    if hasattr(kind, "_fields"):
        return _named(kind)
    if kind in (int, str, bool, float, type(None)):
        return _plain(kind)
    return _mapping if origin is not None and issubclass(origin, Mapping) else _json


def _named(kind: Any) -> Reader:
    hints = get_type_hints(kind)

    def read(data: Any, where: str) -> Any:
        given = dict(_mapping(data, where))
        if is_source(kind):
            given.pop("type", None)
        for key in given:
            if key not in hints:
                raise ValueError(f"{where}: unknown key `{key}`")
        fields = {key: _reader(hints[key])(part, f"{where}.{key}") for key, part in given.items()}
        missing = [key for key in hints if key not in fields and key not in kind._field_defaults]
        if missing:
            raise ValueError(f"{where}: `{missing[0]}` is missing")
        return kind(**fields)

    return read


def _union(kinds: tuple[Any, ...]) -> Reader:
    optional = type(None) in kinds
    rest = [kind for kind in kinds if kind is not type(None)]
    by_name = {kind.__name__: kind for kind in rest if hasattr(kind, "_fields")}

    def read(data: Any, where: str) -> Any:
        if data is None and optional:
            return None
        if len(rest) == 1:
            return _reader(rest[0])(data, where)
        name = data.get("type") if isinstance(data, dict) else None
        if name not in by_name:
            raise ValueError(f"{where}.type: expected one of {', '.join(by_name)}, found {name!r}")
        return _reader(by_name[name])(data, where)

    return read


def _tuple(kinds: tuple[Any, ...]) -> Reader:
    endless = len(kinds) == 2 and kinds[1] is Ellipsis

    def read(data: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise ValueError(f"{where}: expected an array, found {_said(data)}")
        if not endless and len(data) != len(kinds):
            raise ValueError(f"{where}: expected {len(kinds)} elements, found {len(data)}")
        each = (kinds[0],) * len(data) if endless else kinds
        parts = enumerate(zip(each, data, strict=True))
        return tuple(_reader(kind)(part, f"{where}[{index}]") for index, (kind, part) in parts)

    return read


def _plain(kind: type) -> Reader:
    def read(data: Any, where: str) -> Any:
        if kind is float and type(data) is int:
            return float(data)
        if type(data) is not kind:
            raise ValueError(f"{where}: expected {_NAMES[kind]}, found {_said(data)}")
        return data

    return read


def _mapping(data: Any, where: str) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, found {_said(data)}")
    return data


def _json(data: Any, where: str) -> Json:
    if type(data) not in _NAMES:
        raise ValueError(f"{where}: {type(data).__name__} has no place in JSON")
    return data  # type: ignore[no-any-return]


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _said(data: Any) -> str:
    shown = repr(data)
    return f"{_NAMES[type(data)]} ({shown})" if len(shown) < 40 else _NAMES[type(data)]
