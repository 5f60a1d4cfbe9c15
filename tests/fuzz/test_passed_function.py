"""A few thousand inputs of the fuzz target in every run of the tests."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.passed_function import one_input


@pytest.mark.parametrize("seed", range(8))
def test_no_guest_and_no_function_breaks_a_rule(seed: int) -> None:
    """Programs from a fixed seed, on functions that are well-formed and on ones that are not."""
    dice = random.Random(seed)
    for _ in range(60):
        one_input(dice.randbytes(dice.randrange(500)))
