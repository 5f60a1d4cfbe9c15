"""The schema is draft-07, whole, fresh, told in words, and the same set as the device modules."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from runner.definition.compose import compose
from runner.definition.formats import WORDS
from runner.definition.load import inspect_text
from runner.definition.schema import compose_from, printed, resolved, schema_folder, schema_text, whole_schema

SCHEMA = whole_schema()
NOT_DEVICES = {"__init__", "ports"}
WALKED = {
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "default", "dependencies", "enum", "format",
    "if", "items", "maximum", "maxLength", "minimum", "minItems", "minLength", "minProperties", "oneOf",
    "pattern", "properties", "propertyNames", "required", "then", "type", "uniqueItems", "x-vmrun",
}  # fmt: skip
TOLD = {"$schema", "title", "description", "examples", "definitions"}


def fragments() -> dict[str, dict[str, Any]]:
    folder = f"{schema_folder()}/devices"
    return {
        name.removesuffix(".schema.json"): json.loads(read(f"{folder}/{name}")) for name in os.listdir(folder)
    }


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def subschemas(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its place; not what stands in examples and defaults."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for keyword in ("properties", "definitions"):
        for name, part in schema.get(keyword, {}).items():
            yield from subschemas(part, f"{place}/{keyword}/{name}")
    for keyword in ("items", "additionalProperties", "propertyNames", "if", "then"):
        yield from subschemas(schema.get(keyword), f"{place}/{keyword}")
    for keyword in ("anyOf", "oneOf", "allOf"):
        for index, part in enumerate(schema.get(keyword, ())):
            yield from subschemas(part, f"{place}/{keyword}/{index}")


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a definition may write."""
    for place, part in subschemas(schema):
        if "/if/" not in f"{place}/" and "/then/" not in f"{place}/":
            for name, below in part.get("properties", {}).items():
                yield f"{place}/{name}", below


def test_the_schema_is_valid_draft_07() -> None:
    """jsonschema's own metaschema accepts it, and it says which draft it is."""
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_the_composed_schema_is_fresh() -> None:
    """schemas/vm.schema.json is what its parts compose to."""
    command = "vmrun schema --compose schemas > new && mv new schemas/vm.schema.json"
    assert schema_text().decode() == printed(compose_from(schema_folder())), f"stale: run `{command}`"


def test_the_schema_is_self_contained() -> None:
    """An editor that has only this file finds every reference in it."""
    for place, part in subschemas(SCHEMA):
        if "$ref" in part:
            assert part.keys() == {"$ref"}, f"{place}: draft-07 ignores what stands beside $ref"
            assert part["$ref"].startswith("#/definitions/"), place
            assert resolved(SCHEMA, part)


def test_fragments_and_device_modules_are_the_same_set() -> None:
    """A device is one file and one fragment: neither without the other."""
    folder = os.path.join(os.path.dirname(schema_folder()), "devices")
    modules = {name.removesuffix(".py") for name in os.listdir(folder) if name.endswith(".py")} - NOT_DEVICES
    assert sorted(set(fragments()) - modules) == [], "fragments whose module does not exist"
    assert sorted(modules - set(fragments())) == [], "modules without a fragment"


@pytest.mark.parametrize("kind", sorted(fragments()))
def test_a_fragment_says_where_it_plugs_in(kind: str) -> None:
    """x-vmrun names a section (and a discriminating key, or single), or says platform."""
    plug = fragments()[kind]["x-vmrun"]
    assert plug.keys() <= {"section", "key", "value", "single", "platform"}
    assert plug.get("platform") or plug["section"] in SCHEMA["properties"]
    if "key" in plug:
        assert fragments()[kind]["properties"][plug["key"]]["const"] == plug["value"]


def test_every_key_is_told_in_words() -> None:
    """Title, description and examples on every key; a default on every key that can be left out."""
    for place, part in keys(SCHEMA):
        below = resolved(SCHEMA, part)
        for word in ("title", "description", "examples"):
            assert below.get(word), f"{place} has no {word}"


def test_every_example_and_default_is_valid() -> None:
    """What the schema shows as right is right."""
    for place, part in subschemas(SCHEMA):
        validator = jsonschema.Draft7Validator({**part, "definitions": SCHEMA["definitions"]})
        for value in [*part.get("examples", ()), *([part["default"]] if "default" in part else ())]:
            assert list(validator.iter_errors(value)) == [], f"{place}: {value!r}"


def test_a_key_that_can_be_left_out_says_what_holds_then() -> None:
    """A default in the schema, or a description that says what happens without it."""
    for place, part in subschemas(SCHEMA):
        if "/if" in place or "/then" in place:
            continue
        needed = set(part.get("required", ()))
        needed |= {key for choice in part.get("oneOf", ()) for key in choice.get("required", ())}
        for name, below in part.get("properties", {}).items():
            told = resolved(SCHEMA, below)
            says = "default" in told or "Without it" in told["description"] or told.get("type") == "object"
            partner = name in part.get("dependencies", {})
            narrowing = place.endswith("/match")
            assert name in needed or says or partner or narrowing, f"{place}/{name}"


def test_the_checker_knows_every_keyword_that_the_schema_uses() -> None:
    """No keyword of the schema is passed over by runner.definition.conform."""
    for place, part in subschemas(SCHEMA):
        assert part.keys() <= WALKED | TOLD, f"{place}: {part.keys() - WALKED - TOLD}"


def test_every_format_has_words() -> None:
    """Each format is told as words, and no words are told of a format that is gone."""
    used = {part["format"] for _, part in subschemas(SCHEMA) if "format" in part}
    assert used == set(WORDS)


def test_every_pattern_has_a_format_that_explains_it() -> None:
    """A pattern is never shown to people, so there is a format whose words stand for it."""
    for place, part in subschemas(SCHEMA):
        assert "pattern" not in part or "format" in part, place


def test_no_section_accepts_anything() -> None:
    """A table is closed, or its names lead to a closed one: an unknown key is always an error."""
    for place, part in subschemas(SCHEMA):
        if part.get("type") == "object":
            assert part.get("additionalProperties", True) is not True, place


def test_a_section_without_devices_is_left_out() -> None:
    """A section into which no device plugs would accept anything, so it is not in the whole."""
    machine = json.loads(read(f"{schema_folder()}/machine.schema.json"))
    assert "pmem" not in compose(machine, {})["properties"]


def test_kinds_of_one_section_share_their_key() -> None:
    """Two kinds that could not be told apart are refused when the schema is composed."""
    machine = {"properties": {"disks": {"propertyNames": {}}}}
    one = {"x-vmrun": {"section": "disks", "key": "bus", "value": "a"}}
    with pytest.raises(ValueError, match="share one discriminating key"):
        compose(machine, {"a": one, "b": {"x-vmrun": {"section": "disks"}}})


def test_the_package_carries_the_schemas() -> None:
    """The wheel's pattern covers every schema file, those of outputs included."""
    import tomllib

    root = os.path.dirname(os.path.realpath(schema_folder()))
    with open(f"{root}/pyproject.toml", "rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["runner"]
    for folder in ("", "devices/", "output/"):
        assert f"schemas/{folder}*.json" in patterns


def test_the_schema_says_what_the_checker_says() -> None:
    """A wrong definition is wrong for a general validator too, and a right one right."""
    validator = jsonschema.Draft7Validator(SCHEMA)
    right = {"kernel": "k", "cpus": {"count": 2}, "disks": {"a": {"path": "x", "format": "raw"}}}
    assert list(validator.iter_errors(right)) == []
    for wrong in ({}, {"kernel": "k", "cpus": 0}, {"kernel": "k", "disks": {"a": {"path": "x"}}}):
        assert list(validator.iter_errors(wrong)) != []


def test_git_and_package_hold_the_same_schemas() -> None:
    """runner/schemas leads to schemas/: there is one copy."""
    assert os.path.realpath(schema_folder()).endswith("/schemas")
    assert not os.path.realpath(schema_folder()).endswith("runner/schemas")


def test_unknown_sections_are_refused() -> None:
    """A section of a device that does not exist is an unknown key."""
    found = inspect_text('kernel = "k"\nserial = "off"\n[tpm.a]\n', "x.toml").findings
    assert [one.code for one in found] == ["unknown-key"]
