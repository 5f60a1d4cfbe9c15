"""A level-triggered line that several functions drive is asserted while any of them asserts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runner.engine.kvm.interrupts import SharedLines
from runner.graph.x86 import intx_gsi


class Vm:
    """KVM_IRQ_LINE, as a level a line and a count of calls."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.calls = 0

    def irq_line(self, gsi: int, asserted: bool) -> None:
        self.levels[gsi] = asserted
        self.calls += 1


def test_slots_eight_apart_share_a_line_and_their_neighbours_do_not() -> None:
    assert intx_gsi(8, 1) == intx_gsi(16, 1) == intx_gsi(24, 1)
    assert len({intx_gsi(device, 1) for device in range(8, 16)}) == 8


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_the_line_is_what_its_ends_together_say(changes: list[tuple[int, bool]]) -> None:
    """For any order of asserting and stopping; the kernel is asked only when the line changes."""
    vm: Any = Vm()
    lines = SharedLines(vm)
    ends, said, level, calls = [lines.wire(16) for _ in range(3)], [False] * 3, False, 0
    other = lines.wire(17)
    for number, asserted in changes:
        ends[number].set(asserted)
        said[number] = asserted
        calls += any(said) != level
        level = any(said)
        assert vm.levels.get(16, False) == level
        assert vm.calls == calls
    other.set(True)
    assert vm.levels.get(16, False) == level
    assert vm.levels[17]
