"""A host function without a host: registers in bytearrays, and a diary of what was asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.bus.passed_function import PassedFunction
from runner.bus.pci import PciBus
from runner.bus.pci_bar import AddressSpace, BarOwner, BarRefused, Window
from runner.devices.ports import Effect, IrqLine, MsiSink
from runner.errors import HostError
from runner.graph.model import BarClaim, PciClaim
from runner.wire import pci
from tests.unit.wired import Line

WINDOWS = (
    Window("mem", 0xC0000000, 0x10000000),
    Window("mem", 1 << 32, 1 << 36),
    Window("io", 0x1000, 0x1000),
)
SLOT = "00:18.0"


def config_space(
    *parts: tuple[int, bytes], size: int = 256, extended: tuple[tuple[int, int, bytes], ...] = ()
) -> bytearray:
    """A space whose list holds ``parts``, (id, body after the two first bytes), from 0x40 on, each on
    a multiple of 16; ``extended`` are (id, version, body) from 0x100 on.
    """
    space = bytearray(size)
    space[0:4] = bytes.fromhex("ec105a52")
    space[pci.HEADER_TYPE] = pci.HEADER_MULTIFUNCTION
    link, at = pci.CAPABILITIES, 0x40
    for identifier, body in parts:
        space[pci.STATUS] |= pci.STATUS_CAPABILITIES
        space[link] = at
        space[at : at + 2 + len(body)] = bytes((identifier, 0)) + body
        link, at = at + 1, (at + 2 + len(body) + 15) & ~15
    at = 0x100
    for number, (identifier, version, body) in enumerate(extended):
        following = (at + 4 + len(body) + 15) & ~15
        last = number + 1 == len(extended)
        header = identifier | version << 16 | (0 if last else following) << 20
        space[at : at + 4 + len(body)] = header.to_bytes(4, "little") + body
        at = following
    return space


def msix(vectors: int, table: int, pba: int) -> tuple[int, bytes]:
    """An MSI-X capability; table and PBA as the registers say them: offset | BAR."""
    body = (vectors - 1).to_bytes(2, "little") + table.to_bytes(4, "little") + pba.to_bytes(4, "little")
    return pci.CAP_MSIX, body


def msi(multiple: int = 0, *, wide: bool = True, masks: bool = False) -> tuple[int, bytes]:
    """An MSI capability that offers 2^multiple vectors."""
    control = multiple << 1 | wide << 7 | masks << 8
    return pci.CAP_MSI, control.to_bytes(2, "little") + bytes(6 + 4 * wide + 10 * masks)


def express(kind: int = 0, *, version: int = 2, flr: bool = True) -> tuple[int, bytes]:
    """A PCI Express capability of an endpoint, its link registers full of ones."""
    body = bytearray(0x3A)
    body[0:2] = (version | kind << 4).to_bytes(2, "little")
    body[2:6] = (flr << 28).to_bytes(4, "little")
    body[0x0A:0x12] = body[0x2A:0x32] = b"\xff" * 8
    return pci.CAP_EXPRESS, bytes(body)


POWER = (0x01, bytes(6))
VPD = (0x03, bytes(6))
ADVANCED = (0x13, bytes((6, 3, 0, 0)))


class FakeHost:
    """``HostFunction``; ``diary`` says what was asked, in order."""

    def __init__(self, space: bytearray, memory: dict[int, bytearray] | None = None) -> None:
        self.space = space
        self.memory = memory or {}
        self.diary: list[tuple[Any, ...]] = []
        self.wires = True
        self.refuses: Callable[[str], bool] = lambda _what: False

    def config(self) -> bytes:
        return bytes(self.space)

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.space[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.diary.append(("config", offset, size, value))

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        data = self.memory[bar][offset : offset + size]
        assert len(data) == size, f"access past the end of BAR {bar}: {offset:#x}+{size}"
        return int.from_bytes(data, "little")

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        assert offset + size <= len(self.memory[bar]), f"access past the end of BAR {bar}"
        self.memory[bar][offset : offset + size] = value.to_bytes(size, "little")
        self.diary.append(("bar", bar, offset, size, value))

    def place_bar(self, bar: int, start: int | None) -> None:
        if start is not None and self.refuses("place"):
            raise OSError(28, "No space left on device")
        self.diary.append(("place", bar, start))

    def has_wire(self) -> bool:
        return self.wires

    def use_wire(self, line: IrqLine | None) -> None:
        if line is not None and self.refuses("wire"):
            raise HostError("no wire")
        self.diary.append(("wire", line is not None))

    def use_messages(self, kind: str, sink: MsiSink, count: int) -> None:
        if count and self.refuses(kind):
            raise HostError("no vectors")
        self.diary.append((kind, count))

    def reset(self) -> None:
        self.diary.append(("reset",))

    def taken(self, *kinds: str) -> list[tuple[Any, ...]]:
        """The entries of these kinds since the last look; all of them are forgotten."""
        found = [entry for entry in self.diary if not kinds or entry[0] in kinds]
        self.diary.clear()
        return found


class Owed:
    """``OwedMessages``: what is told goes into the host's diary too, so that the order can be seen."""

    def __init__(self, diary: list[tuple[Any, ...]], count: int) -> None:
        self._diary, self._count = diary, count
        self.live: dict[int, tuple[int, int]] = {}  # vector: address, data, while unmasked
        self.owed: set[int] = set()

    def configure(self, vector: int, address: int, data: int, masked: bool) -> None:
        assert 0 <= vector < self._count, f"vector {vector} of {self._count}"
        self._diary.append(("message", vector, None if masked else (address, data)))
        if masked:
            self.live.pop(vector, None)
        else:
            self.live[vector] = (address, data)
            self.owed.discard(vector)

    def fire(self, vector: int) -> None:
        raise AssertionError("the function signals its vectors itself")

    def signal(self, vector: int) -> None:
        """The function does."""
        if vector not in self.live:
            self.owed.add(vector)

    def pending(self, vector: int) -> bool:
        return vector in self.owed

    def forget(self) -> None:
        self.owed.clear()


class Mapper:
    """``BarMapper`` that tells the function's followers, as the engine does."""

    def __init__(self) -> None:
        self.followers: list[Callable[[int, int | None], None]] = []
        self.mapped: dict[int, int] = {}

    def map(self, function: BarOwner, bar: int, old: int | None, new: int | None) -> None:
        try:
            for follow in self.followers:
                follow(bar, new)
        except OSError as error:
            raise BarRefused(str(error)) from error
        self.mapped.pop(bar, None)
        if new is not None:
            self.mapped[bar] = new


class Machine:
    """A bus with one passed function in it; the attachment as well."""

    def __init__(self, host: FakeHost, claim: PciClaim, sizes: dict[int, int] | None = None) -> None:
        self.host, self.line, self.mapper = host, Line(), Mapper()
        self.reports: list[str] = []
        vectors = max(claim.msix_vectors, claim.msi_vectors)
        self.sink = Owed(host.diary, vectors)
        self.bus = PciBus(AddressSpace(WINDOWS, self.mapper, self.reports.append))
        sizes = sizes or {bar.bar: bar.size for bar in claim.bars}
        wire: Any = self.line if claim.intx_pin else None
        at: Any = self
        self.passed = PassedFunction("reader", claim, sizes, host, wire, at)
        self.bus.add(claim.slot or SLOT, self.passed.function)

    # the attachment

    def msi(self) -> Owed:
        return self.sink

    def follow_bars(self, moved: Callable[[int, int | None], None]) -> None:
        self.mapper.followers.append(moved)

    def log(self, level: str, event: str, **data: int | str) -> None:
        self.reports.append(event)

    # the guest

    def read(self, offset: int, size: int) -> int:
        return self.passed.function.read_config(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.passed.function.write_config(offset, size, value)

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        part = self.passed.function.bars[bar].device
        assert part is not None
        return part.read(offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> Effect | None:
        part = self.passed.function.bars[bar].device
        assert part is not None
        return part.write(offset, size, value)


def claim_of(*bars: BarClaim, **more: Any) -> PciClaim:
    """The claim of a function that this module makes."""
    more.setdefault("slot", SLOT)
    return PciClaim(0x10EC, 0x525A, 0xFF0000, bars=bars, **more)
