"""The schema as a value: read once from the package, and looked into by the checker."""

from __future__ import annotations

from runner.definition.compose import Schema, compose
from runner.typed import Any


def schema_folder() -> str:
    """Where the schemas are: inside the package (a link to ``schemas/`` in a checkout)."""
    import os

    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "schemas")


def schema_text() -> bytes:
    """The composed schema as it is in the file; what a cache of checked definitions hashes."""
    with open(f"{schema_folder()}/vm.schema.json", "rb") as file:
        return file.read()


def whole_schema() -> Schema:
    """The composed, self-contained schema."""
    import json

    found: Schema = json.loads(schema_text())
    return found


def compose_from(folder: str) -> Schema:
    """Compose ``machine.schema.json`` and ``devices/*.schema.json`` of a folder."""
    import json
    import os

    def read(name: str) -> Schema:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            part: Schema = json.load(file)
            return part

    suffix = ".schema.json"
    kinds = sorted(
        name.removesuffix(suffix) for name in os.listdir(f"{folder}/devices") if name.endswith(suffix)
    )
    return compose(read(f"machine{suffix}"), {kind: read(f"devices/{kind}{suffix}") for kind in kinds})


def printed(schema: Schema) -> str:
    """The schema as text, the same for the same parts."""
    import json

    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def resolved(root: Schema, schema: Any) -> Schema:
    """Follow ``$ref`` (only into ``definitions``, as the composed schema has it)."""
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    found: Schema = schema
    return found
