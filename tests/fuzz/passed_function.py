"""Fuzz target: any guest against a passed-through function, whose host function says anything.

    python -m tests.fuzz.passed_function [SECONDS]      with atheris if it is installed

The input is the configuration space of a function, well-formed or not, and a little program of
a hostile guest: configuration writes and reads, accesses around the MSI-X table, signals of the
function, a host that refuses, resets.  The host function is strict: it knows what VFIO and KVM
would not forgive.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from runner.bus.passed_config import CAP_POWER, HIDDEN_EXTENDED
from runner.devices.ports import IrqLine, MsiSink
from runner.graph.model import BarClaim
from runner.wire import pci
from tests.fuzz.virtio_machine import Input, main
from tests.unit.passed_host import (
    ADVANCED,
    POWER,
    VPD,
    WINDOWS,
    FakeHost,
    Machine,
    claim_of,
    config_space,
    express,
    msi,
    msix,
)

BARS = (
    BarClaim(0, 0x8000, "mem32", at=0xC0000000),
    BarClaim(2, 0x10000, "mem64", prefetchable=True, at=1 << 32),
    BarClaim(4, 0x20, "io", at=0x1000),
    BarClaim(6, 0x1000, "mem32", at=0xC0010000),
)
SIZES = {bar.bar: bar.size for bar in BARS} | {6: 0x800}
TABLE, PBA, VECTORS = 0x2000, 0x3000, 5
PARTS = (
    POWER,
    VPD,
    ADVANCED,
    express(),
    express(9, version=1),
    msix(VECTORS, TABLE, PBA),
    msi(2),
    msi(5, masks=True),
)
DECODES = {"io": pci.COMMAND_IO, "mem32": pci.COMMAND_MEMORY, "mem64": pci.COMMAND_MEMORY}


class StrictHost(FakeHost):
    """Refuses what would end a real run: it keeps what VFIO and KVM know."""

    def __init__(self, space: bytearray) -> None:
        super().__init__(space, {bar: bytearray(b"\xa5" * size) for bar, size in SIZES.items()})
        self.command, self.asleep = 0, False
        self.placed: dict[int, int] = {}
        self.starts_reset: Callable[[int, bytes], bool] = lambda _offset, _new: False
        self.wired, self.messages = False, ""

    def write_config(self, offset: int, size: int, value: int) -> None:
        assert offset == pci.COMMAND or offset >= pci.FIRST_CAPABILITY, (
            f"a write of the header at {offset:#x}"
        )
        assert offset + size <= pci.CONFIG_SIZE, f"a write of an extended capability at {offset:#x}"
        if offset == pci.COMMAND:
            self.command = value
        if self.starts_reset(offset, value.to_bytes(size, "little")):
            self.asleep = False  # a reset ends in D0 (PCI Express 3.0 §6.6.2)
        else:
            self._sleeps(offset, size, value)
        self.check()

    def _sleeps(self, offset: int, size: int, value: int) -> None:
        """A function is asleep for VFIO by the first power management capability of its list."""
        at = self.space[pci.CAPABILITIES] & 0xFC
        listed = self.space[pci.STATUS] & pci.STATUS_CAPABILITIES and at >= pci.FIRST_CAPABILITY
        power = listed and self.space[at] == CAP_POWER and at + 8 <= pci.CONFIG_SIZE
        if power and offset <= at + 4 < offset + size:
            self.asleep = bool(value >> 8 * (at + 4 - offset) & 3)

    def place_bar(self, bar: int, start: int | None) -> None:
        if start is not None and self.refuses("place"):
            raise OSError(28, "No space left on device")
        self.placed.pop(bar, None)
        if start is not None:
            self.placed[bar] = start
        self.check()

    def use_wire(self, line: IrqLine | None) -> None:
        assert line is None or not self.messages, "INTx and messages at once"
        super().use_wire(line)
        self.wired = line is not None

    def use_messages(self, kind: str, sink: MsiSink, count: int) -> None:
        assert not (count and self.wired), "messages and INTx at once"
        super().use_messages(kind, sink, count)
        if count:
            self.messages = kind
        elif self.messages == kind:
            self.messages = ""

    def reset(self) -> None:
        self.asleep = False

    def check(self) -> None:
        """Nothing is mapped that the function does not decode."""
        for bar in BARS:
            if bar.bar in self.placed and bar.bar != 6:
                assert self.command & DECODES[bar.kind], f"BAR {bar.bar} is mapped and not decoded"
                assert not self.asleep, f"BAR {bar.bar} of a sleeping function is mapped"


class Passed:
    """A function, its machine, and the guest's next step."""

    def __init__(self, data: Input) -> None:
        parts = [data.choose(list(PARTS)) for _ in range(data.number(1) % 4)]
        hidden = [(data.choose([*HIDDEN_EXTENDED, 1, 3]), 1, bytes(12)) for _ in range(data.number(1) & 3)]
        space = config_space(*parts, size=4096 if hidden else 256, extended=tuple(hidden))
        for _ in range(data.number(1) & 7):  # a function that says something else
            space[data.number(2) % len(space)] = data.number(1)
        self.host = StrictHost(space)
        claim = claim_of(*BARS, intx_pin=1, msix_vectors=VECTORS, msi_vectors=4)
        self.machine = Machine(self.host, claim, SIZES)
        self.host.starts_reset = self.machine.passed.starts_reset
        self.size = len(space)
        self.steps: list[Any] = [
            self.configure, self.configure, self.configure, self.access, self.table, self.signal, self.refuse,
            self.command, self.place,
        ]  # fmt: skip

    def step(self, data: Input) -> None:
        if data.number(1) == 0xFF:
            self.machine.bus.reset()
        else:
            data.choose(self.steps)(data)
        self.host.diary.clear()
        self.check()

    def configure(self, data: Input) -> None:
        size = data.choose([1, 2, 4])
        at = data.number(2) % 4096 if data.number(1) & 1 else data.number(1)
        self.machine.write(at, size, data.number(size))
        self.machine.read(at, size)

    def command(self, data: Input) -> None:
        self.machine.write(pci.COMMAND, 2, data.number(2))

    def place(self, data: Input) -> None:
        window = data.choose(list(WINDOWS))
        address = window.start + data.number(3) * 16
        at = pci.BAR0 + 4 * (data.number(1) % 6)
        self.machine.write(at, 4, address & 0xFFFFFFFF)
        if data.number(1) & 1:
            self.machine.write(at + 4, 4, address >> 32)

    def access(self, data: Input) -> None:
        bar = data.choose(list(BARS))
        size = data.choose([1, 2, 4, 8])
        at = data.number(2) % bar.size
        self.machine.write_bar(bar.bar, at, size, data.number(size))
        self.machine.read_bar(bar.bar, at, size)

    def table(self, data: Input) -> None:
        size = data.choose([1, 2, 4, 8])
        at = data.choose([TABLE, PBA]) - 16 + data.number(1) % 128
        self.machine.write_bar(0, at, size, data.number(size))
        self.machine.read_bar(0, at, size)

    def signal(self, data: Input) -> None:
        if self.host.messages:
            self.machine.sink.signal(data.number(1) % VECTORS)

    def refuse(self, data: Input) -> None:
        what = data.choose(["", "place", "wire", "msi", "msix"])
        self.host.refuses = lambda asked: asked == what

    def check(self) -> None:
        machine, host = self.machine, self.host
        assert len(machine.passed.config.data) == self.size
        assert machine.read(0, 4) == 0x525A10EC
        host.check()
        msix_part = machine.passed.msix
        if msix_part is not None and msix_part.table.bar == 0:
            start, size = msix_part.table.offset, msix_part.table.size
            memory = host.memory[0][start : start + size]
            assert memory == b"\xa5" * len(memory), "the real MSI-X table was written"
        spans = sorted(
            (machine.mapper.mapped[bar.bar], bar.size, bar.kind)
            for bar in BARS
            if bar.bar in machine.mapper.mapped
        )
        for start, size, kind in spans:
            space = "io" if kind == "io" else "mem"
            inside = [
                w
                for w in WINDOWS
                if w.space == space and w.start <= start and start + size <= w.start + w.size
            ]
            assert inside, f"{start:#x} is outside every window"
        memories = [span for span in spans if span[2] != "io"]
        for (start, size, _), (following, _, _) in pairwise(memories):
            assert start + size <= following, "two BARs at one place"


def one_input(data: bytes) -> None:
    """Run one function and one guest."""
    program = Input(data)
    passed = Passed(program)
    while not program.over:
        passed.step(program)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60, one_input)
