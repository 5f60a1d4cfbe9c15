"""Medians, quartiles and paired ratios of the bench."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.spread import paired_ratio, spread

VALUES = st.lists(st.floats(0.001, 1e6), min_size=2, max_size=30)


def test_one_value_is_its_own_median_and_quartiles() -> None:
    assert spread([3.0]) == (3.0, 3.0, 3.0, 1)


def test_quartiles_lie_inside_the_sample() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0]) == (2.5, 1.75, 3.25, 4)


@given(VALUES)
def test_the_median_is_between_the_quartiles_and_they_within_the_values(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.median == pytest.approx(statistics.median(values))


def test_ratios_are_taken_within_a_round_and_not_between_medians() -> None:
    """A machine that is ten times slower in one round does not change the ratio."""
    found = paired_ratio({1: 2.0, 2: 20.0, 3: 2.0}, {1: 4.0, 2: 40.0, 3: 4.0})
    assert found is not None
    assert found == (0.5, 0.5, 0.5, 3)


def test_a_round_that_only_one_has_makes_no_ratio() -> None:
    found = paired_ratio({1: 2.0, 2: 6.0}, {2: 3.0, 3: 1.0})
    assert found is not None
    assert (found.median, found.runs) == (2.0, 1)


def test_without_a_common_round_there_is_no_ratio() -> None:
    assert paired_ratio({1: 2.0}, {2: 3.0}) is None
    assert paired_ratio({1: 2.0}, {1: 0.0}) is None
