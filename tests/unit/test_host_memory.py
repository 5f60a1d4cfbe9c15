"""Guest memory that this host has not is told before the guest runs."""

from __future__ import annotations

import pytest

from runner.errors import HostError
from runner.host.memory import Ram

TIB = 1 << 40


@pytest.mark.parametrize("shared", [False, True])
def test_huge_pages_that_are_not_there_are_a_fault_and_not_a_signal_at_their_first_use(shared: bool) -> None:
    with pytest.raises(HostError, match="1048576 MiB of 2M huge pages") as caught:
        Ram(((0, TIB),), shared=shared, hugepages="2M")
    assert caught.value.hint == "echo 524288 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def test_small_pages_are_not_reserved() -> None:
    """A guest with more memory than it will ever touch starts all the same."""
    ram = Ram(((0, TIB),))
    ram.write(TIB // 2, b"here")
    assert ram.read(TIB // 2, 4) == b"here"
    ram.close()
