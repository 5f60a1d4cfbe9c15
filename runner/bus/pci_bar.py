"""Base address registers: sizing, decoding, and moves that are checked before they happen.

PCI 3.0 §6.2.5.  A BAR's register is what the guest wrote; its *mapping* is where the
machine decodes it.  With decoding on, a write is a move: it is checked against the
windows of the root bus and every other mapping, announced to the engine, and undone as a
whole when either refuses (device-bugs 11).  With decoding off the register takes
anything, and the check comes when the command register switches decoding on.
"""

from __future__ import annotations

from runner.bus.pci_config import ConfigSpace
from runner.devices.ports import RegisterDevice
from runner.typed import Callable, Iterable, NamedTuple, Protocol
from runner.wire import pci

ROM = 6  # the expansion ROM's number among the BARs


class BarRefused(Exception):
    """A BAR cannot go where the guest put it; the text names both parties."""


class Window(NamedTuple):
    """Addresses in which BARs may live; ``space`` is "io" or "mem"."""

    space: str
    start: int
    size: int


class Mapping(NamedTuple):
    """Where one BAR is decoded now."""

    owner: str
    bar: int
    space: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"BAR {self.bar} of `{self.owner}` ({self.start:#x}–{self.start + self.size - 1:#x})"


class Bar:
    """One BAR: its size, its registers and what answers behind it.

    ``kind`` is "io", "mem32" or "mem64"; ``device`` is None where the engine maps memory
    itself (a passed-through function).
    """

    def __init__(
        self,
        index: int,
        size: int,
        kind: str,
        device: RegisterDevice | None = None,
        *,
        prefetchable: bool = False,
    ) -> None:
        smallest = {"io": 4, "mem32": 16, "mem64": 16}[kind]
        if size < smallest or size & (size - 1):
            raise ValueError(f"BAR {index}: {size:#x} is no power of two from {smallest}")
        self.index = index
        self.size = size
        self.kind = kind
        self.device = device
        self.prefetchable = prefetchable
        self.offset = pci.ROM_BASE if index == ROM else pci.BAR0 + 4 * index
        self.width = 8 if kind == "mem64" else 4
        self.mapped: int | None = None
        self.half_written: int | None = None  # which half of a 64-bit register awaits its other

    @property
    def space(self) -> str:
        """The address space it lives in: "io" or "mem"."""
        return "io" if self.kind == "io" else "mem"

    @property
    def _address_bits(self) -> int:
        return (1 << 8 * self.width) - self.size

    def install(self, config: ConfigSpace, address: int) -> None:
        """Put the register into the configuration space, pointing at ``address``."""
        flags = {"io": pci.BAR_IO, "mem32": 0, "mem64": pci.BAR_MEM64}[self.kind]
        flags |= pci.BAR_PREFETCHABLE if self.prefetchable else 0
        rom = pci.ROM_ENABLE if self.index == ROM else 0
        config.put(self.offset, self.width, address | flags, writable=self._address_bits | rom)

    def address(self, config: ConfigSpace) -> int:
        """The address that the register says."""
        return config.get(self.offset, self.width) & self._address_bits

    def sizing(self, config: ConfigSpace) -> bool:
        """Whether the register looks as after a write of all ones, which asks for the size.

        A BAR can have such an address in earnest, so it is not refused for that: while it is
        decoded it stays where it is, and when decoding is switched on the address is tried.
        """
        low = self._address_bits & 0xFFFFFFFF
        if not low:  # 4 GiB and more: only the high half has address bits
            return self.address(config) == self._address_bits
        return config.get(self.offset, 4) & low == low

    def decoded(self, config: ConfigSpace) -> int | None:
        """Where the registers ask it to be decoded; None: nowhere (off, or never assigned)."""
        command = config.get(pci.COMMAND, 2)
        if not command & (pci.COMMAND_IO if self.kind == "io" else pci.COMMAND_MEMORY):
            return None
        if self.index == ROM and not config.get(self.offset, 1) & pci.ROM_ENABLE:
            return None
        return self.address(config) or None


class BarOwner(Protocol):
    """What the address space and the engine need to know of a function."""

    @property
    def name(self) -> str:
        """The node's name, for messages and for finding its backends."""

    @property
    def config(self) -> ConfigSpace: ...

    @property
    def bars(self) -> dict[int, Bar]: ...

    def reached(self, bar: Bar, start: int) -> bool:
        """Whether the bridges above let accesses to ``bar`` pass when it is at ``start``."""


class BarMapper(Protocol):
    """The engine's side of a move: dispatch, ioeventfds, memory slots of the host's kernel."""

    def map(self, function: BarOwner, bar: int, old: int | None, new: int | None) -> None:
        """Decode ``function.bars[bar]`` at ``new`` and no longer at ``old``; None is nowhere.

        All or nothing: when it raises BarRefused or OSError, everything is as it was.
        """


class AddressSpace:
    """All mappings of one machine's PCI buses, and the rules for a new one."""

    def __init__(
        self,
        windows: Iterable[Window],
        mapper: BarMapper,
        report: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._windows = tuple(windows)
        self._mapper = mapper
        self._mappings: dict[tuple[int, int], Mapping] = {}
        self.report = report

    def check(self, function: BarOwner, bar: Bar, start: int) -> Mapping:
        """The mapping it would be; raises BarRefused when it may not."""
        new = Mapping(function.name, bar.index, bar.space, start, bar.size)
        if not any(_inside(new, window) for window in self._windows):
            raise BarRefused(f"{new} is outside every {bar.space} window of the root bus")
        for key, other in self._mappings.items():
            if key != (id(function), bar.index) and _overlap(new, other):
                raise BarRefused(f"{new} overlaps {other}")
        return new

    def move(self, function: BarOwner, bar: Bar, new: int | None) -> None:
        """Decode ``bar`` at ``new``.  Raises BarRefused, and then nothing has changed."""
        if new == bar.mapped:
            return
        mapping = None if new is None else self.check(function, bar, new)
        try:
            self._mapper.map(function, bar.index, bar.mapped, new)
        except OSError as error:
            raise BarRefused(f"{mapping or bar.index}: {error.strerror}") from error
        bar.mapped = new
        key = (id(function), bar.index)
        if mapping is None:
            del self._mappings[key]
        else:
            self._mappings[key] = mapping

    def _wanted(self, function: BarOwner, bar: Bar) -> int | None:
        """Where the registers say and the bridges above lead; one left with its size in it goes nowhere."""
        wanted = bar.decoded(function.config)
        if wanted is not None and not function.reached(bar, wanted):
            return None
        if wanted is not None and bar.sizing(function.config):
            try:
                self.check(function, bar, wanted)
            except BarRefused:
                return None
        return wanted

    def move_all(self, function: BarOwner) -> None:
        """Decode each BAR where the registers say; all of them, or none and BarRefused."""
        done: list[tuple[Bar, int | None]] = []
        try:
            for bar in function.bars.values():
                before = bar.mapped
                self.move(function, bar, self._wanted(function, bar))
                done.append((bar, before))
        except BarRefused:
            for bar, before in reversed(done):
                self.move(function, bar, before)
            raise


def _inside(mapping: Mapping, window: Window) -> bool:
    return (
        mapping.space == window.space
        and window.start <= mapping.start
        and mapping.start + mapping.size <= window.start + window.size
    )


def _overlap(one: Mapping, other: Mapping) -> bool:
    return (
        one.space == other.space
        and one.start < other.start + other.size
        and other.start < one.start + one.size
    )


def follow_command(space: AddressSpace, function: BarOwner, old: bytes) -> None:
    """The command register was written: decode what it asks for, or put its bits back."""
    config = function.config
    decode = pci.COMMAND_IO | pci.COMMAND_MEMORY
    before = int.from_bytes(old[pci.COMMAND : pci.COMMAND + 2], "little")
    if not (before ^ config.get(pci.COMMAND, 2)) & decode:
        return
    for bar in function.bars.values():
        bar.half_written = None
    try:
        space.move_all(function)
    except BarRefused as refusal:
        command = config.get(pci.COMMAND, 2) & ~decode | before & decode
        config.put(pci.COMMAND, 2, command)
        space.report(f"decoding stays as it was: {refusal}")


def follow_bar(space: AddressSpace, function: BarOwner, bar: Bar, offset: int, old: bytes) -> None:
    """A BAR's register was written: move it, or put the register back.

    The halves of a 64-bit BAR arrive one by one, so a refusal after the first of them
    only waits for the other.
    """
    config = function.config
    before = int.from_bytes(old[bar.offset : bar.offset + bar.width], "little")
    if not _decoding(config, bar) or bar.sizing(config):
        return
    try:
        target = _target(config, bar)
        space.move(function, bar, target if target is not None and function.reached(bar, target) else None)
        bar.half_written = None
    except BarRefused as refusal:
        half = (offset - bar.offset) // 4
        if bar.kind == "mem64" and bar.half_written in (None, half):
            bar.half_written = half
            return
        bar.half_written = None
        config.put(bar.offset, bar.width, before if bar.mapped is None else bar.mapped | before & 0xF)
        space.report(f"a BAR stays where it was: {refusal}")


def _decoding(config: ConfigSpace, bar: Bar) -> bool:
    wanted = pci.COMMAND_IO if bar.kind == "io" else pci.COMMAND_MEMORY
    return bool(config.get(pci.COMMAND, 2) & wanted)


def _target(config: ConfigSpace, bar: Bar) -> int | None:
    if bar.index == ROM and not config.get(bar.offset, 1) & pci.ROM_ENABLE:
        return None
    return bar.address(config)
