"""JSON schemas of what ``vmrun plan`` and ``vmrun diff`` print and read, made from the types.

``python -m tests.unit.output_schemas`` writes them into ``schemas/output``; a test holds
them and the types together.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from runner.cli.envelope import VERSION
from runner.graph.diff import Change
from runner.graph.encode import is_source
from runner.graph.model import Graph
from runner.hostfacts import HostFacts

FOLDER = Path(__file__).parents[2] / "schemas" / "output"
PLAIN = {int: "integer", str: "string", bool: "boolean", float: "number", type(None): "null"}


def schemas() -> dict[str, dict[str, Any]]:
    """File name and schema."""
    return {
        "plan.schema.json": whole("vmrun plan --json", Graph, _in_versions),
        "diff.schema.json": whole("vmrun diff --json", tuple[Change, ...], _in_changes),
        "host-facts.schema.json": whole("host facts (vmrun plan --host)", HostFacts),
    }


def whole(
    title: str, kind: Any, form: Callable[..., dict[str, Any]] = lambda body, _: body
) -> dict[str, Any]:
    """A draft-07 schema with every named type as a definition; ``form`` puts the value into its envelope."""
    definitions: dict[str, Any] = {}
    body = form(schema_of(kind, definitions), definitions)
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": title}
    return {**head, **body, "definitions": dict(sorted(definitions.items()))}


def _in_changes(body: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    properties = {"version": {"const": VERSION}, "changes": body}
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


def _in_versions(body: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The graph's own keys behind the version."""
    graph = definitions.pop(body["$ref"].rpartition("/")[2])
    return {
        **graph,
        "properties": {"version": {"const": VERSION}, **graph["properties"]},
        "required": ["version", *graph["required"]],
    }


def schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """What :func:`runner.graph.encode.to_json` makes of a value of this type."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(each, definitions) for each in inside]}
    if origin is tuple and inside[-1] is Ellipsis:
        return {"type": "array", "items": schema_of(inside[0], definitions)}
    if origin is tuple:
        parts = [schema_of(each, definitions) for each in inside]
        return {"type": "array", "items": parts, "minItems": len(parts), "maxItems": len(parts)}
    if hasattr(kind, "_fields"):
        return _named(kind, definitions)
    assert issubclass(origin, Mapping), kind
    return {"type": "object"}


def _named(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # a type that holds itself ends here
        properties = {"type": {"const": kind.__name__}} if is_source(kind) else {}
        properties |= {name: schema_of(hint, definitions) for name, hint in get_type_hints(kind).items()}
        definitions[kind.__name__] = {
            "description": " ".join((kind.__doc__ or "").split()),
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name not in kind._field_defaults],
            "additionalProperties": False,
        }
    return {"$ref": f"#/definitions/{kind.__name__}"}


def text(schema: dict[str, Any]) -> str:
    """As the file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, schema in schemas().items():
        (FOLDER / name).write_text(text(schema))
