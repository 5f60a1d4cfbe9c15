"""What the VM process writes, the library reads as the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.wire.json_text import encode

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters())  # lone surrogates too: a file name may have them
values = st.recursive(
    leaves | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


@given(values)
def test_the_librarys_parser_gives_it_back(value):
    text = encode(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert "\n" not in text


def test_tuples_are_arrays():
    assert encode({"at": (1, (2.5, None))}) == '{"at":[1,[2.5,null]]}'


@pytest.mark.parametrize("value", [b"bytes", {1: 2}, {"a": {3}}, object()])
def test_what_json_has_no_form_of_is_refused(value):
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_numbers_that_a_parser_would_choke_on(value):
    with pytest.raises(ValueError, match="nan"):
        encode([value])


def test_nothing_is_imported_for_a_letter():
    """The VM process can open no file any more, also none of a codec."""
    code = "import sys; from runner.wire.json_text import encode; had = set(sys.modules); encode('é→😀\\x00')"
    code += "; sys.exit(bool(set(sys.modules) - had))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
