"""Memory that the guest gives back reads as zeros; what is a file of the user's stays."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runner.host.memory
from runner.backends.memory import GivenBack
from runner.devices.ports import GuestMemoryFault
from runner.host.memory import Ram

MIB = 1 << 20
PMEM = 1 << 30


def given_back(ram: Ram) -> tuple[GivenBack, Any]:
    timers: list[Any] = []
    told: list[Any] = []
    loop = SimpleNamespace(call_at=lambda _at, callback: timers.append(callback))
    machine: Any = SimpleNamespace(loop=loop, timers=timers, told=told)
    machine.tell = lambda *words: told.append(words)
    return GivenBack(ram, machine), machine


@pytest.mark.parametrize("shared", [False, True])
def test_whole_pages_inside_the_range_are_given_back(shared: bool) -> None:
    """Private memory and memory that others map alike; a page that is named in part stays."""
    ram = Ram(((0, 2 * MIB),), shared=shared)
    ram.write(0, b"\xaa" * 5 * 4096)
    advisor, _ = given_back(ram)
    advisor.discard(4000, 4096 * 2 + 1000)
    kept = [bool(any(ram.read(page * 4096, 4096))) for page in range(5)]
    assert kept == [True, False, False, True, True]
    ram.close()


def test_persistent_memory_is_never_given_back(tmp_path: Path) -> None:
    """A driver may name any page; those of the user's file keep what they have."""
    (tmp_path / "kept").write_bytes(b"\xbb" * 2 * MIB)
    fd = os.open(tmp_path / "kept", os.O_RDWR)
    ram = Ram(((0, 2 * MIB),), shared=True)
    ram.map_file(fd, PMEM, 2 * MIB, private=False)
    advisor, _ = given_back(ram)
    advisor.discard(PMEM, 2 * MIB)
    ram.close()
    os.close(fd)
    assert (tmp_path / "kept").read_bytes() == b"\xbb" * 2 * MIB


def test_what_is_no_memory_is_a_fault() -> None:
    ram = Ram(((0, 2 * MIB),))
    advisor, _ = given_back(ram)
    with pytest.raises(GuestMemoryFault):
        advisor.discard(2 * MIB - 4096, 8192)
    ram.close()


def test_a_driver_that_says_its_size_without_end_is_heard_a_few_times_a_second() -> None:
    advisor, machine = given_back(Ram(((0, 2 * MIB),)))
    for size in range(1000):
        advisor.given_back(size)
    assert len(machine.timers) == 1
    machine.timers.pop()()
    assert machine.told == [("balloon", {"bytes": 999})]
    advisor.given_back(5)
    assert len(machine.timers) == 1


@pytest.mark.parametrize(("answer", "merges"), [(0, True), (-22, False)])
def test_advice_to_merge_that_a_kernel_does_not_take_is_known(
    answer: int, merges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without KSM answers EINVAL."""
    ram = Ram(((0, 2 * MIB), (4 * MIB, 2 * MIB)))
    asked: list[int] = []
    last = ram.regions[-1].pointer

    def advise(pointer: Any, size: int, advice: int) -> int:
        asked.append(advice)
        return answer if pointer == last else 0

    compiled = runner.host.memory.lib
    native = SimpleNamespace(vmrun_advise=advise, MADV_MERGEABLE=12, vmrun_unmap=compiled.vmrun_unmap)
    monkeypatch.setattr(runner.host.memory, "lib", native)
    assert ram.merge() == merges
    assert asked == [12, 12]
    ram.close()
