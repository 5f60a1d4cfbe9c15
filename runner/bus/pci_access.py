"""The two ways software reaches configuration space: ports 0xcf8–0xcff, and ECAM.

PCI 3.0 §3.2.2.3.2 (mechanism #1) and PCI Express 3.0 §7.2.2.
"""

from __future__ import annotations

from runner.bus.pci import PciBus
from runner.devices.ports import Effect
from runner.typed import Final

_ENABLE: Final = 1 << 31


class ConfigPorts:
    """CONFIG_ADDRESS at 0xcf8 (dwords only), CONFIG_DATA at 0xcfc–0xcff."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus
        self._address = 0

    def read(self, offset: int, size: int) -> int:
        """Offset from 0xcf8."""
        if offset == 0 and size == 4:
            return self._address
        target = self._target(offset, size)
        if target is None:
            return (1 << 8 * size) - 1
        return self._bus.read_config(*target, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Offset from 0xcf8."""
        if offset == 0 and size == 4:
            self._address = value & 0x80FFFFFC
        else:
            target = self._target(offset, size)
            if target is not None:
                self._bus.write_config(*target, size, value)
        return None

    def _target(self, offset: int, size: int) -> tuple[int, int, int] | None:
        """Bus, devfn and register of a data access; None when there is none."""
        if offset < 4 or offset + size > 8 or not self._address & _ENABLE:
            return None
        register = self._address & 0xFC | offset & 3
        return self._address >> 16 & 0xFF, self._address >> 8 & 0xFF, register


class Ecam:
    """The memory-mapped configuration space: one MiB a bus, 4 KiB a function."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    def read(self, offset: int, size: int) -> int:
        """Aligned accesses of 1, 2 and 4 bytes; anything else reads as ones."""
        if size > 4 or offset & (size - 1):
            return (1 << 8 * size) - 1
        return self._bus.read_config(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """As :meth:`read`; anything else is dropped."""
        if size <= 4 and not offset & (size - 1):
            self._bus.write_config(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size, value)
        return None
