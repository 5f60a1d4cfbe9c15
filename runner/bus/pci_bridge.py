"""PCI-to-PCI bridges: root ports with a bus behind them (PCI-to-PCI Bridge 1.2, type 1 header).

The bus numbers and windows are the guest's to program and are kept as registers; the bus
numbers route configuration accesses.  Memory and port accesses are not routed: a BAR
behind the port is decoded where it says, inside the root bus' windows (decision 0082).
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.bus.pci import Function
from runner.devices.ports import RegisterDevice
from runner.graph.model import PciClaim, Region
from runner.wire import pci


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
