"""A BAR that moves in a live machine: ranges, ports and followers, all or nothing (vfio.md, engine 9)."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hand_made_graph import machine

from runner.bus.dispatch import Dispatch
from runner.bus.pci_bar import BarRefused
from runner.engine.kvm.pci import BarDispatch, windows
from runner.errors import HostError
from runner.firmware import acpi

OLD, NEW, SIZE = 0xC0000000, 0xC0100000, 0x1000


class Register:
    def read(self, offset: int, size: int) -> int:
        return 0x5A

    def write(self, offset: int, size: int, value: int) -> None:
        return None


class Follower:
    """What the function's attachment is told; refuses to follow to ``forbidden``."""

    def __init__(self, forbidden: int = -1) -> None:
        self.told: list[int | None] = []
        self._forbidden = forbidden

    def bar_moved(self, bar: int, start: int | None) -> None:
        self.told.append(start)
        if start == self._forbidden:
            raise HostError("KVM has no slot left")


class Bars:
    """A function with a memory BAR 0 and a port BAR 1, in an empty machine."""

    def __init__(self, follower: Follower) -> None:
        self.ports, self.mmio = Dispatch("I/O ports"), Dispatch("guest memory map")
        self.claimed: set[int] = set()
        self.dispatch = BarDispatch(self.ports, self.mmio, self._claim)
        attachments: dict[str, Any] = {"reader": follower}
        self.dispatch.attachments = attachments
        self.function: Any = SimpleNamespace(
            name="reader",
            bars={
                0: SimpleNamespace(device=Register(), space="mem", size=SIZE),
                1: SimpleNamespace(device=Register(), space="io", size=8),
            },
        )

    def _claim(self, start: int, size: int, claimed: bool) -> None:
        change = set(range(start, start + size))
        self.claimed = self.claimed | change if claimed else self.claimed - change

    def move(self, bar: int, old: int | None, new: int | None) -> None:
        self.dispatch.map(self.function, bar, old, new)

    def decoded(self) -> list[int]:
        return [one.start for one in (*self.mmio.ranges(), *self.ports.ranges())]


def test_bars_may_move_where_the_root_bridge_says_and_nowhere_else() -> None:
    """A guest that finds no room at boot assigns BARs by itself, anywhere in the windows of _CRS."""
    graph = machine(pci=True)
    said = announced(acpi.tables(graph).data)
    assert said == {(window.space, window.start, window.size) for window in windows(graph)}
    assert len(said) == 3


def announced(tables: bytes) -> set[tuple[str, int, int]]:
    """The windows in the root bridge's _CRS (ACPI 6.4, 6.4.3.5), buses left out."""
    found = set()
    for head, form in ((b"\x88\x0d\0", "<5H"), (b"\x87\x17\0", "<5I"), (b"\x8a\x2b\0", "<5Q")):
        for space, kind in ((0, "mem"), (1, "io")):
            at = tables.find(head + bytes((space,)))
            while at >= 0:
                _, first, last, _, size = struct.unpack_from(form, tables, at + 6)
                assert size == last - first + 1
                found.add((kind, first, size))
                at = tables.find(head + bytes((space,)), at + 1)
    return found


def test_bar_that_moves_takes_everything_with_it() -> None:
    bars = Bars(follower := Follower())
    bars.move(0, None, OLD)
    bars.move(1, None, 0x1000)
    bars.move(0, OLD, NEW)
    bars.move(1, 0x1000, 0x2000)
    assert bars.decoded() == [NEW, 0x2000]
    assert bars.claimed == set(range(0x2000, 0x2008))
    assert follower.told == [OLD, 0x1000, NEW, 0x2000]
    bars.move(1, 0x2000, None)
    assert (bars.decoded(), bars.claimed) == ([NEW], set())


@pytest.mark.parametrize(("bar", "old", "new"), [(0, OLD, NEW), (1, 0x1000, 0x2000), (0, None, NEW)])
def test_bar_that_the_host_cannot_follow_stays(bar: int, old: int | None, new: int) -> None:
    """KVM refuses a slot or a doorbell: ranges, ports and mappings are where they were."""
    bars = Bars(follower := Follower(forbidden=new))
    if old is not None:
        bars.move(bar, None, old)
    before = (bars.decoded(), bars.claimed)
    with pytest.raises(BarRefused, match=f"BAR {bar} of `reader`: KVM has no slot left"):
        bars.move(bar, old, new)
    assert (bars.decoded(), bars.claimed) == before
    assert follower.told[-1] == old


def test_bar_that_meets_another_range_stays() -> None:
    """Nobody is told to follow."""
    bars = Bars(follower := Follower())
    bars.mmio.add(NEW, SIZE, Register(), "somebody else")
    bars.move(0, None, OLD)
    with pytest.raises(BarRefused, match="somebody else"):
        bars.move(0, OLD, NEW)
    assert bars.decoded() == [OLD, NEW]
    assert follower.told == [OLD]
