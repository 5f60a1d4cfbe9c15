"""PCI-to-PCI bridges: root ports with a bus behind them (PCI-to-PCI Bridge 1.2, type 1 header).

The bus numbers and windows are the guest's to program: the numbers route configuration
accesses, and a BAR behind the port is decoded while the port forwards accesses to it, which
takes its command register's enable bit and a window around the BAR (decision 0082).
"""

from __future__ import annotations

from runner.bus.pci import Function
from runner.bus.pci_bar import AddressSpace, Bar, BarRefused
from runner.devices.ports import RegisterDevice
from runner.graph.model import PciClaim, Region
from runner.typed import Mapping
from runner.wire import pci

WINDOWS = (
    (pci.BRIDGE_IO_BASE, 2), (pci.BRIDGE_MEMORY_BASE, 4), (pci.BRIDGE_PREFETCHABLE_BASE, 4),
    (pci.BRIDGE_PREFETCHABLE_UPPER, 8),
)  # fmt: skip


class RootPort(Function):
    """A root port; ``below`` is set when it joins a bus."""

    def __init__(self, name: str, claim: PciClaim, parts: Mapping[int, RegisterDevice]) -> None:
        super().__init__(name, claim, parts)
        self.config.put(pci.HEADER_TYPE, 1, pci.HEADER_BRIDGE)
        for register in (pci.BRIDGE_PRIMARY_BUS, pci.BRIDGE_SECONDARY_BUS, pci.BRIDGE_SUBORDINATE_BUS):
            self.config.put(register, 1, 0, writable=0xFF)
        self._put_windows({region.kind: region for region in claim.windows})
        status = pci.STATUS_CLEARABLE.to_bytes(2, "little")
        self.config.clearable[pci.BRIDGE_SECONDARY_STATUS : pci.BRIDGE_SECONDARY_STATUS + 2] = status
        self.config.put(pci.BRIDGE_CONTROL, 2, 0, writable=pci.BRIDGE_CONTROL_WRITABLE)
        self.config.watch(pci.BRIDGE_CONTROL, 2, self._control_written)
        number = pci.slot_number(claim.slot or "00:00.0")
        self.config.add_capability(pci.CAP_EXPRESS, *pci.express_root_port_capability(number))

    def join(self, space: AddressSpace) -> None:
        """See :class:`Function`.

        What the port itself decodes is settled before what it forwards: a command that its own BARs
        refuse is put back, and then it forwards what that says.
        """
        super().join(space)
        for register, size in ((pci.COMMAND, 2), *WINDOWS):
            self.config.watch(register, size, lambda _offset, old: self._forwarding_written(space, old))

    def forwards(self, bar: Bar, start: int) -> bool:
        """§3.2.5.2, §4.2–4.4: the space is enabled, and one window holds all of the BAR."""
        io = bar.space == "io"
        command = self.config.get(pci.COMMAND, 2)
        if not command & (pci.COMMAND_IO if io else pci.COMMAND_MEMORY):
            return False
        windows = (self._io_window(),) if io else (self._memory_window(), self._prefetchable_window())
        inside = any(first <= start and start + bar.size - 1 <= last for first, last in windows)
        return inside and self.reached(bar, start)

    def _io_window(self) -> tuple[int, int]:
        """First and last port; 4 KiB steps."""
        base, limit = (self.config.get(pci.BRIDGE_IO_BASE + at, 1) & 0xF0 for at in (0, 1))
        return base << 8, limit << 8 | 0xFFF

    def _memory_window(self) -> tuple[int, int]:
        """First and last address below 4 GiB; 1 MiB steps."""
        base, limit = (self.config.get(pci.BRIDGE_MEMORY_BASE + at, 2) & 0xFFF0 for at in (0, 2))
        return base << 16, limit << 16 | 0xFFFFF

    def _prefetchable_window(self) -> tuple[int, int]:
        """The same with 32 bits more."""
        base, limit = (self.config.get(pci.BRIDGE_PREFETCHABLE_BASE + at, 2) & 0xFFF0 for at in (0, 2))
        high_base, high_limit = (self.config.get(pci.BRIDGE_PREFETCHABLE_UPPER + at, 4) for at in (0, 4))
        return high_base << 32 | base << 16, high_limit << 32 | limit << 16 | 0xFFFFF

    def _forwarding_written(self, space: AddressSpace, old: bytes) -> None:
        """What is below is decoded as far as it is reached; a refusal undoes the write (device-bugs 11)."""
        if self.below is None:
            return
        try:
            self.below.decode_again()
        except BarRefused as refusal:
            for register, size in ((pci.COMMAND, 2), *WINDOWS):
                self.config.data[register : register + size] = old[register : register + size]
            self.below.decode_again()
            space.move_all(self)  # the command is what it was for its own BARs too
            space.report(f"a bridge forwards what it did: {refusal}")

    def _put_windows(self, windows: Mapping[str, Region]) -> None:
        """Bases and limits (§3.2.5.6–3.2.5.10); a window that is not there has its base above its limit."""
        config = self.config
        first, last = _ends(windows.get("io"), 0xF000, 0x0FFF)
        config.put(pci.BRIDGE_IO_BASE, 2, first >> 8 | last & 0xF000, writable=0xF0F0)
        first, last = _ends(windows.get("mem32"), 0xFFF00000, 0x000FFFFF)
        config.put(pci.BRIDGE_MEMORY_BASE, 4, first >> 16 | last & 0xFFF00000, writable=0xFFF0FFF0)
        first, last = _ends(windows.get("mem64"), 0xFFF00000, 0x000FFFFF)
        low = first >> 16 & 0xFFF0 | last & 0xFFF00000 | pci.BRIDGE_WINDOW_64 << 16 | pci.BRIDGE_WINDOW_64
        config.put(pci.BRIDGE_PREFETCHABLE_BASE, 4, low, writable=0xFFF0FFF0)
        high = first >> 32 | last >> 32 << 32
        config.put(pci.BRIDGE_PREFETCHABLE_UPPER, 8, high, writable=0xFFFFFFFF_FFFFFFFF)

    def _control_written(self, offset: int, old: bytes) -> None:
        """The rising edge of the secondary bus reset resets what sits below (§3.2.5.17)."""
        before = int.from_bytes(old[pci.BRIDGE_CONTROL : pci.BRIDGE_CONTROL + 2], "little")
        if self.config.get(pci.BRIDGE_CONTROL, 2) & ~before & pci.BRIDGE_SECONDARY_RESET:
            self._reset_below()

    def reset(self) -> None:
        """With the port goes what sits below it."""
        super().reset()
        self._reset_below()

    def _reset_below(self) -> None:
        if self.below is not None:
            self.below.reset()


def _ends(window: Region | None, closed_base: int, closed_limit: int) -> tuple[int, int]:
    """First and last address of a window."""
    if window is None:
        return closed_base, closed_limit
    return window.start, window.start + window.size - 1
