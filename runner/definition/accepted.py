"""What the schema accepts at the key of a statement, for words about a statement that is no TOML."""

from __future__ import annotations

from runner.definition.compose import Schema
from runner.definition.findings import Path
from runner.definition.schema import resolved, whole_schema
from runner.definition.source import Source
from runner.definition.statements import OPEN_HEADER
from runner.typed import Any, Iterator, NamedTuple


class Accepted(NamedTuple):
    """The words that may stand there, and which types; ``types`` is empty for a key that is not ours."""

    words: tuple[str, ...]
    types: frozenset[str]


def accepted(source: Source, line: int, key: str) -> Accepted:
    """For ``key`` (as TOML writes it) in a statement of this line, below the header that is above it."""
    header = next((one for one in reversed(source.lines[: line - 1]) if OPEN_HEADER.match(one)), "")
    root = whole_schema()
    found = list(_parts(root, root, _path(f"{header}\n{key} = 0")))
    words = [word for part in found for word in part.get("enum", [part.get("const")])]
    texts = tuple(dict.fromkeys(word for word in words if isinstance(word, str)))
    return Accepted(texts, frozenset(part.get("type", "enum") for part in found))


def _path(text: str) -> Path:
    """The only place that a small document says; nothing when it is none."""
    import tomllib

    try:
        found: Any = tomllib.loads(text)
    except ValueError:
        return ("",)
    path: list[str] = []
    while isinstance(found, dict | list) and found:
        if isinstance(found, dict):
            path.append(next(iter(found)))
        found = found[-1] if isinstance(found, list) else found[path[-1]]
    return tuple(path)


def _parts(root: Schema, schema: Schema, path: Path) -> Iterator[Schema]:
    """Every form that the schema has for a place."""
    schema = resolved(root, schema)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _parts(root, branch, path)
    if not path:
        yield schema
        return
    if schema.get("type") == "array" and "items" in schema:
        yield from _parts(root, schema["items"], path)
    extra = schema.get("additionalProperties")
    below = schema.get("properties", {}).get(path[0], extra if isinstance(extra, dict) else None)
    if below is not None:
        yield from _parts(root, below, path[1:])
