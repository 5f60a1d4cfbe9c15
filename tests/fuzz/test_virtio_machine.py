"""A few hundred inputs of the fuzz target in every run of the tests, and the ones that once failed."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.virtio_machine import one_input


@pytest.mark.parametrize("kind", [*range(16), 255])
def test_no_guest_program_brings_a_device_down(kind: int) -> None:
    """Programs from a fixed seed, for each device with MSI-X and with INTx."""
    dice = random.Random(kind)
    for _ in range(40):
        one_input(bytes((kind,)) + dice.randbytes(dice.randrange(600)))
