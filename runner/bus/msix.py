"""MSI-X: the table and pending bits of one function, masks honoured.

PCI 3.0 §6.8.2–6.8.3.  Software reaches both by aligned 4- and 8-byte accesses (§6.8.2:
anything else is undefined; here it reads as zero and writes nothing, device-bugs 10).
"""

from __future__ import annotations

from struct import Struct

from runner.bus.pci_config import ConfigSpace
from runner.devices.ports import Effect, MsiSink
from runner.typed import Final
from runner.wire import pci

_ENTRY: Final = Struct("<QII")  # message address, message data, vector control


class Msix:
    """``vectors`` messages (1–2048), all masked after reset."""

    def __init__(self, vectors: int, sink: MsiSink) -> None:
        if not 1 <= vectors <= pci.MSIX_MAX_VECTORS:
            raise ValueError(f"{vectors} MSI-X vectors: 1 to {pci.MSIX_MAX_VECTORS} are possible")
        self.vectors = vectors
        self.table = bytearray(vectors * pci.MSIX_ENTRY_SIZE)
        self.enabled = False
        self._function_masked = False
        self._pending = 0  # one bit a vector
        self._sink = sink
        self._announced: dict[int, tuple[int, int, bool]] = {}
        self.reset()

    def add_capability(self, config: ConfigSpace, bar: int, table: int, pba: int) -> None:
        """Put the capability into ``config``; table and PBA lie at these offsets of ``bar``."""
        body = pci.msix_capability(self.vectors, bar, table, bar, pba)
        writable = (pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK).to_bytes(2, "little")
        at = config.add_capability(pci.CAP_MSIX, body, writable) + pci.MSIX_CONTROL

        def written(_offset: int, _old: bytes) -> None:
            self.control(config.get(at, 2))

        config.watch(at, 2, written)

    def control(self, value: int) -> None:
        """Message control was written: enable and function mask."""
        self.enabled = bool(value & pci.MSIX_ENABLE)
        self._function_masked = bool(value & pci.MSIX_FUNCTION_MASK)
        for vector in range(self.vectors):
            self._announce(vector)

    def fire(self, vector: int) -> None:
        """Send the vector's message, or remember that it is owed.  Needs :attr:`enabled`."""
        if not 0 <= vector < self.vectors or not self.enabled:
            return
        if self.masked(vector):
            self._pending |= 1 << vector
        else:
            self._sink.fire(vector)

    def masked(self, vector: int) -> bool:
        """Whether the vector's own mask, the function's, or the missing enable holds it back."""
        control = self.table[vector * pci.MSIX_ENTRY_SIZE + 12]
        return not self.enabled or self._function_masked or bool(control & pci.MSIX_ENTRY_MASKED)

    def reset(self) -> None:
        """As after power-on: disabled, every entry zero and masked, nothing pending."""
        self.enabled = self._function_masked = False
        self._pending = 0
        for vector in range(self.vectors):
            _ENTRY.pack_into(self.table, vector * pci.MSIX_ENTRY_SIZE, 0, 0, pci.MSIX_ENTRY_MASKED)
            self._announce(vector)

    def read_table(self, offset: int, size: int) -> int:
        """The table as an MMIO range; reserved bits read as zero."""
        if not _allowed(offset, size, len(self.table)):
            return 0
        return int.from_bytes(self.table[offset : offset + size], "little")

    def write_table(self, offset: int, size: int, value: int) -> Effect | None:
        """Store; an unmasked vector's message reaches the sink before it can fire."""
        if not _allowed(offset, size, len(self.table)):
            return None
        self.table[offset : offset + size] = value.to_bytes(size, "little")
        vector = offset // pci.MSIX_ENTRY_SIZE
        control = vector * pci.MSIX_ENTRY_SIZE + 12
        self.table[control : control + 4] = bytes((self.table[control] & pci.MSIX_ENTRY_MASKED, 0, 0, 0))
        self._announce(vector)
        return None

    def read_pba(self, offset: int, size: int) -> int:
        """The pending bit array as an MMIO range; writes to it have no effect (§6.8.2.10)."""
        length = (self.vectors + 63) // 64 * 8
        if not _allowed(offset, size, length):
            return 0
        return self._pending >> 8 * offset & (1 << 8 * size) - 1

    def _announce(self, vector: int) -> None:
        """Tell the sink what has changed for ``vector``, and fire what was pending."""
        address, data, _ = _ENTRY.unpack_from(self.table, vector * pci.MSIX_ENTRY_SIZE)
        masked = self.masked(vector)
        known = self._announced.get(vector)
        if known is None and masked:
            return  # never in use: a message half written is nobody's business
        if masked and known is not None:
            address, data = known[0], known[1]  # while masked, only the mask is told
        if known != (address, data, masked):
            self._announced[vector] = (address, data, masked)
            self._sink.configure(vector, address, data, masked)
        if not masked and self._pending >> vector & 1:
            self._pending &= ~(1 << vector)
            self._sink.fire(vector)


def _allowed(offset: int, size: int, length: int) -> bool:
    return size in (4, 8) and offset % size == 0 and offset >= 0 and offset + size <= length


class MsixBar:
    """A BAR that holds the table at 0 and the PBA at ``pba``, and nothing else."""

    def __init__(self, msix: Msix, pba: int) -> None:
        self._msix = msix
        self._pba = pba

    def read(self, offset: int, size: int) -> int:
        """Offset in the BAR."""
        if offset < self._pba:
            return self._msix.read_table(offset, size)
        return self._msix.read_pba(offset - self._pba, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Offset in the BAR."""
        return self._msix.write_table(offset, size, value) if offset < self._pba else None


def bar_layout(vectors: int) -> tuple[int, int]:
    """``(size, pba)`` of a BAR of its own: a power of two from 4 KiB, the PBA in its upper half."""
    size = 4096
    while size < 2 * vectors * pci.MSIX_ENTRY_SIZE:
        size *= 2
    return size, size // 2
