"""PCI functions and the buses they sit on.

A :class:`Function` is configuration space, BARs and a way to reset; :class:`PciBus` finds
it by bus, device and function number, which is all that the two access mechanisms of
:mod:`runner.bus.pci_access` need.
"""

from __future__ import annotations

from runner.bus.pci_bar import AddressSpace, Bar, follow_bar, follow_command
from runner.bus.pci_config import ConfigSpace
from runner.devices.ports import IrqLine, RegisterDevice
from runner.graph.model import PciClaim
from runner.typed import Callable, Iterator, Mapping
from runner.wire import pci


class IntxPin:
    """The wired interrupt of a function: level, status bit and disable bit (PCI 3.0 §6.2.2–6.2.3)."""

    def __init__(self, config: ConfigSpace, line: IrqLine) -> None:
        self._config = config
        self._line = line
        self._asserted = False
        config.watch(pci.COMMAND, 2, self._command_written)

    def set(self, asserted: bool) -> None:
        """The device wants (no longer) attention; the line follows unless the guest disabled it."""
        self._asserted = asserted
        status = self._config.data[pci.STATUS] & ~pci.STATUS_INTERRUPT
        self._config.data[pci.STATUS] = status | (pci.STATUS_INTERRUPT if asserted else 0)
        self._drive()

    def _command_written(self, offset: int, old: bytes) -> None:
        self._drive()

    def _drive(self) -> None:
        disabled = self._config.get(pci.COMMAND, 2) & pci.COMMAND_INTX_DISABLE
        self._line.set(self._asserted and not disabled)


class Function:
    """One PCI function, built from its claim; ``parts`` answer behind its BARs.

    ``on_reset`` is called when the bus is reset, after the configuration space has its
    first values again and nothing is decoded.  ``below`` is the bus behind a bridge, ``above``
    the bridge in front of the bus that the function sits on.
    """

    below: PciBus | None = None
    above: Function | None = None

    def __init__(
        self,
        name: str,
        claim: PciClaim,
        parts: Mapping[int, RegisterDevice],
        *,
        on_reset: Callable[[], None] = lambda: None,
        config: ConfigSpace | None = None,
    ) -> None:
        self.name = name
        self.config = ConfigSpace() if config is None else config
        self.bars = {
            bar.bar: Bar(bar.bar, bar.size, bar.kind, parts.get(bar.bar), prefetchable=bar.prefetchable)
            for bar in claim.bars
        }
        self.on_reset = on_reset
        self._space: AddressSpace | None = None
        self.is_bridge = claim.bridge
        _header(self.config, claim)
        for bar in claim.bars:
            self.bars[bar.bar].install(self.config, bar.at or 0)

    def read_config(self, offset: int, size: int) -> int:
        """Configuration read, 1, 2 or 4 bytes."""
        return self.config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Configuration write, 1, 2 or 4 bytes."""
        self.config.write(offset, size, value)

    def join(self, space: AddressSpace) -> None:
        """Become part of a machine: from now on decoding and moves have effect."""
        self._space = space
        self.config.watch(pci.COMMAND, 2, lambda _offset, old: follow_command(space, self, old))
        for bar in self.bars.values():
            self._watch_bar(space, bar)
        self.config.seal()

    def reached(self, bar: Bar, start: int) -> bool:
        """Whether the bridges above let accesses to ``bar`` pass when it is at ``start``."""
        return self.above is None or self.above.forwards(bar, start)

    def forwards(self, bar: Bar, start: int) -> bool:
        """Whether accesses to a ``bar`` at ``start`` get to the bus below; a bridge decides it."""
        return True

    def _watch_bar(self, space: AddressSpace, bar: Bar) -> None:
        def written(offset: int, old: bytes) -> None:
            follow_bar(space, self, bar, offset, old)

        self.config.watch(bar.offset, bar.width, written)

    def reset(self) -> None:
        """As after power-on: nothing decoded, registers as sealed, then ``on_reset``."""
        if self._space is not None:
            for bar in self.bars.values():
                bar.half_written = None
                self._space.move(self, bar, None)
        self.config.reset()
        self.on_reset()


def _header(config: ConfigSpace, claim: PciClaim) -> None:
    """What both header types share, and type 0's rest (§6.1); command starts with everything off."""
    config.put(pci.VENDOR_ID, 2, claim.vendor)
    config.put(pci.DEVICE_ID, 2, claim.device)
    config.put(pci.REVISION_ID, 1, claim.revision)
    config.put(pci.CLASS_CODE, 3, claim.class_code)
    if not claim.bridge:
        config.put(pci.SUBSYSTEM_VENDOR_ID, 2, claim.subsystem_vendor)
        config.put(pci.SUBSYSTEM_ID, 2, claim.subsystem_device)
    config.put(pci.INTERRUPT_PIN, 1, claim.intx_pin)
    commands = pci.COMMAND_MASTER | pci.COMMAND_INTX_DISABLE | pci.COMMAND_PARITY | pci.COMMAND_SERR
    if claim.bridge:
        commands |= pci.COMMAND_IO | pci.COMMAND_MEMORY  # what it forwards
    for bar in claim.bars:
        commands |= pci.COMMAND_IO if bar.kind == "io" else pci.COMMAND_MEMORY
    config.put(pci.COMMAND, 2, 0, writable=commands)
    config.put(pci.CACHE_LINE_SIZE, 1, 0, writable=0xFF)
    config.put(pci.LATENCY_TIMER, 1, 0, writable=0xFF)
    config.put(pci.INTERRUPT_LINE, 1, 0, writable=0xFF)
    config.clearable[pci.STATUS : pci.STATUS + 2] = pci.STATUS_CLEARABLE.to_bytes(2, "little")


class PciBus:
    """The root bus and, through its bridges, every bus below."""

    def __init__(self, space: AddressSpace, above: Function | None = None) -> None:
        self._space = space
        self._above = above
        self._functions: dict[int, Function] = {}

    def __iter__(self) -> Iterator[Function]:
        for function in self._functions.values():
            yield function
            if function.below is not None:
                yield from function.below

    def behind(self, name: str) -> PciBus:
        """The bus below the bridge of this name.  Raises KeyError."""
        for function in self:
            if function.name == name and function.below is not None:
                return function.below
        raise KeyError(f"no bridge is called `{name}`")

    def add(self, slot: str, function: Function) -> None:
        """Plug ``function`` in at "00:05.0"; of a slot behind a bridge the bus number means nothing."""
        devfn = pci.slot_number(slot)
        if devfn in self._functions:
            raise ValueError(f"slot {slot} holds `{self._functions[devfn].name}`, not also `{function.name}`")
        self._functions[devfn] = function
        function.above = self._above
        if function.is_bridge:
            function.below = PciBus(self._space, function)
        if any(devfn & ~7 == other & ~7 and devfn != other for other in self._functions):
            for other, member in self._functions.items():
                if other & ~7 == devfn & ~7:
                    member.config.data[pci.HEADER_TYPE] |= pci.HEADER_MULTIFUNCTION
                    member.config.seal()
        function.join(self._space)

    def find(self, bus: int, devfn: int) -> Function | None:
        """The function that answers to these numbers, as the guest has numbered the buses."""
        if bus == 0:
            return self._functions.get(devfn)
        for bridge in self._functions.values():
            numbers = bridge.config.data
            secondary = numbers[pci.BRIDGE_SECONDARY_BUS]
            if bridge.below and secondary and secondary <= bus <= numbers[pci.BRIDGE_SUBORDINATE_BUS]:
                return bridge.below.find_behind(bus, secondary, devfn)
        return None

    def find_behind(self, bus: int, number: int, devfn: int) -> Function | None:
        """As :meth:`find`, on a bus that the guest has given ``number``."""
        if bus == number:
            return self._functions.get(devfn)
        return self.find(bus, devfn)

    def read_config(self, bus: int, devfn: int, offset: int, size: int) -> int:
        """A configuration read; nobody there reads as ones (§3.2.2.3.4, master abort)."""
        function = self.find(bus, devfn)
        return (1 << 8 * size) - 1 if function is None else function.read_config(offset, size)

    def write_config(self, bus: int, devfn: int, offset: int, size: int, value: int) -> None:
        """A configuration write; with nobody there it is lost."""
        function = self.find(bus, devfn)
        if function is not None:
            function.write_config(offset, size, value)

    def decode_again(self) -> None:
        """What the bridge in front forwards has changed: decode what is reached now, and only that.

        Raises BarRefused for a BAR that is reached now and is where none may be.
        """
        for function in self:
            self._space.move_all(function)

    def reset(self) -> None:
        """A reset of the machine: each function as after power-on."""
        for function in self:
            function.reset()
