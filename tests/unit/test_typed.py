"""runner.typed's NamedTuple is typing's, as far as anybody can see."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import typed


def pair(base: type) -> type:
    """The same class with either base."""

    class Place(base):  # type: ignore[misc, valid-type]
        """Where something lies."""

        start: int
        size: int = 16
        name: str = "ram"

        @property
        def end(self) -> int:
            return self.start + self.size  # type: ignore[no-any-return, attr-defined]

        def moved(self, by: int) -> object:
            return self._replace(start=self.start + by)  # type: ignore[attr-defined]

    return Place


class Kept(typed.NamedTuple):
    """At the top of a module, where pickle finds it."""

    at: int
    text: str = ""


OURS, THEIRS = pair(typed.NamedTuple), pair(typing.NamedTuple)
WAYS: tuple[Callable[[typing.Any], object], ...] = (
    repr, hash, tuple, len,
    lambda one: one._asdict(),
    lambda one: one._replace(size=3, name="x"),
    lambda one: one.moved(5),
    lambda one: one.end,
    lambda one: one.start,
    lambda one: (one == tuple(one), one != tuple(one), one < (10**9,)),
    lambda one: one.__getnewargs__(),
    copy.copy, copy.deepcopy,
)  # fmt: skip
values = st.lists(st.integers(), max_size=5)
named = st.dictionaries(st.sampled_from(["start", "size", "name", "other"]), st.integers(), max_size=4)


def made(kind: type, given_values: list[int], given_names: dict[str, int]) -> object:
    try:
        return kind(*given_values, **given_names)
    except TypeError:
        return TypeError


@given(values, named)
def test_what_one_takes_the_other_takes_and_they_are_equal(given_values, given_names):
    ours, theirs = made(OURS, given_values, given_names), made(THEIRS, given_values, given_names)
    assert ours == theirs
    if ours is not TypeError:
        assert [way(ours) for way in WAYS] == [way(theirs) for way in WAYS]


@given(values)
def test_made_of_a_sequence_or_refused(items):
    results = []
    for kind in (OURS, THEIRS):
        try:
            results.append(tuple(kind._make(items)))
        except TypeError:
            results.append(None)
    assert results[0] == results[1]


def test_a_field_that_there_is_not_cannot_be_replaced():
    for kind in (OURS, THEIRS):
        with pytest.raises(ValueError, match="other"):
            kind(1)._replace(other=2)


def test_classes_look_alike():
    for name in ("_fields", "_field_defaults", "__match_args__", "__doc__", "__name__", "__module__"):
        assert getattr(OURS, name) == getattr(THEIRS, name), name
    assert typing.get_type_hints(OURS) == typing.get_type_hints(THEIRS)
    assert issubclass(OURS, tuple)


def test_a_value_cannot_be_changed_and_has_no_room_for_more():
    for name in ("start", "other"):
        with pytest.raises(AttributeError):
            setattr(OURS(1), name, 2)


def test_a_value_can_be_pickled_and_matched():
    assert pickle.loads(pickle.dumps(Kept(3, "x"))) == Kept(3, "x")
    match Kept(3, "x"):
        case Kept(at, text):
            assert (at, text) == (3, "x")
