"""Graph, facts and definition as JSON: an exact round trip, and refusals that say where."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.definition.model import Definition
from runner.graph.encode import dumps, from_json, to_json
from runner.graph.model import Graph
from runner.hostfacts import HostFacts
from tests.unit import output_schemas
from tests.unit.plan_goldens import GOLDEN

floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=6)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
PLAIN = {int: st.integers(), str: texts, bool: st.booleans(), float: floats, type(None): st.none()}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the models."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin in (Union, types.UnionType):
        return st.one_of([values(each) for each in inside])
    if origin is tuple and inside[-1] is Ellipsis:
        return st.lists(values(inside[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(each) for each in inside))
    if hasattr(kind, "_fields"):
        return st.builds(kind, **{name: values(hint) for name, hint in get_type_hints(kind).items()})
    assert origin is not None, kind
    assert issubclass(origin, Mapping), kind
    return st.dictionaries(texts, jsons, max_size=2)


@pytest.mark.parametrize("kind", [Graph, HostFacts, Definition])
@given(data=st.data())
@settings(max_examples=30)
def test_every_value_comes_back_as_it_was(kind: Any, data: st.DataObject) -> None:
    """Through JSON text and back: equal, of the same types all the way down, and the same text again."""
    value = data.draw(values(kind))
    text = dumps(value)
    back = from_json(kind, json.loads(text))
    assert back == value
    assert repr(back) == repr(value)
    assert dumps(back) == text


@pytest.mark.parametrize("name", list(output_schemas.schemas()))
def test_schemas_of_output_say_what_the_types_say(name: str) -> None:
    """``python -m tests.unit.output_schemas`` writes them anew after a type has changed."""
    schema = output_schemas.schemas()[name]
    assert (output_schemas.FOLDER / name).read_text() == output_schemas.text(schema)


def test_golden_plans_and_hosts_obey_their_schemas() -> None:
    """What is printed is what the schema says."""
    from jsonschema import Draft7Validator

    made = output_schemas.schemas()
    for folder, name in (("plans", "plan.schema.json"), ("hosts", "host-facts.schema.json")):
        Draft7Validator.check_schema(made[name])
        validator = Draft7Validator(made[name])
        files = list((GOLDEN / folder).rglob("*.json"))
        assert files
        for file in files:
            version = {"version": 1} if folder == "plans" else {}
            validator.validate({**version, **json.loads(file.read_text())})


def test_missing_fields_take_their_defaults() -> None:
    """Facts that were stored by an older version are still facts."""
    assert from_json(HostFacts, {}) == HostFacts()
    assert from_json(HostFacts, {"kvm": {"usable": True}}).kvm.usable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "HostFacts: expected an object, found an array ([])"),
        ({"cpu": 1}, "HostFacts: unknown key `cpu`"),
        ({"cpus": "4"}, "HostFacts.cpus: expected a whole number, found a string ('4')"),
        ({"cpus": True}, "HostFacts.cpus: expected a whole number, found true or false (True)"),
        ({"pci": {}}, "HostFacts.pci: expected an array, found an object ({})"),
        ({"pci": [{"address": "0"}]}, "HostFacts.pci[0]: `vendor` is missing"),
        ({"hugepages": [[1, 2]]}, "HostFacts.hugepages[0]: expected 3 elements, found 2"),
        ({"kvm": None}, "HostFacts.kvm: expected an object, found null (None)"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(data: Any, message: str) -> None:
    """People edit these files, so a refusal says where and what was expected."""
    with pytest.raises(ValueError, match=r"HostFacts") as refused:
        from_json(HostFacts, data)
    assert str(refused.value) == message


def test_source_of_a_kernel_says_its_type() -> None:
    """A union is told by ``type``, and an unknown one by what there is."""
    hints = get_type_hints(Definition)
    assert "KernelDeb" in repr(hints["kernel"])
    boot = {"kernel": {"type": "KernelTape"}, "initramfs": None, "cmdline": ""}
    known = "expected one of KernelFile, KernelDeb, KernelUrl, found 'KernelTape'"
    with pytest.raises(ValueError, match=known):
        from_json(get_type_hints(Graph)["boot"], boot)


def test_what_is_no_json_is_refused() -> None:
    """A value that JSON cannot hold is a fault of ours, told by its type."""
    with pytest.raises(TypeError, match="bytes has no place in JSON"):
        to_json((b"",))
