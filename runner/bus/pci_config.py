"""One function's configuration space: bytes, write masks, and who is told of a write.

PCI 3.0 §6.2.  Reads and writes never fail: read-only bits keep their value, and what
lies past the end of the space reads as ones.
"""

from __future__ import annotations

from runner.typed import Callable
from runner.wire import pci

AfterWrite = Callable[[int, bytes], None]
"""``(offset, old)``: bytes from ``offset`` on were written; ``old`` is the whole space as it was."""
BeforeRead = Callable[[], None]
"""The bytes are about to be read; bring them up to date."""


class ConfigSpace:
    """``size`` bytes, 256 or 4096; all read-only until made otherwise."""

    def __init__(self, size: int = pci.CONFIG_SIZE) -> None:
        self.data = bytearray(size)
        self.writable = bytearray(size)  # bits that a write stores
        self.clearable = bytearray(size)  # bits that a written 1 clears
        self._watchers: list[tuple[int, int, AfterWrite]] = []
        self._readers: list[tuple[int, int, BeforeRead]] = []
        self._last_capability = pci.CAPABILITIES
        self._free = pci.FIRST_CAPABILITY
        self._initial: bytes | None = None

    def get(self, offset: int, size: int) -> int:
        """The bytes themselves as a number, without any side effect."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def put(self, offset: int, size: int, value: int, *, writable: int = 0) -> None:
        """Set a register, whatever its mask; ``writable`` becomes the bits the guest may store."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")
        if writable:
            self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def read(self, offset: int, size: int) -> int:
        """What the guest reads."""
        if offset + size > len(self.data):
            return (1 << 8 * size) - 1
        for start, end, before in self._readers:
            if offset < end and start < offset + size:
                before()
        return self.get(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """What the guest writes: masked, then told to the watchers of these bytes."""
        if offset + size > len(self.data):
            return
        old = bytes(self.data)
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            mask = self.writable[at]
            self.data[at] = self.data[at] & ~mask & ~(byte & self.clearable[at]) | byte & mask
        for start, end, after in self._watchers:
            if offset < end and start < offset + size:
                after(offset, old)

    def watch(self, offset: int, length: int, after: AfterWrite) -> None:
        """Call ``after`` when a write has touched these bytes."""
        self._watchers.append((offset, offset + length, after))

    def refresh(self, offset: int, length: int, before: BeforeRead) -> None:
        """Call ``before`` when these bytes are about to be read."""
        self._readers.append((offset, offset + length, before))

    def add_capability(self, identifier: int, body: bytes, writable: bytes = b"") -> int:
        """Link a capability into the list (§6.7); returns its offset.

        ``body`` follows the id and next bytes; ``writable`` is its write mask.
        """
        at = self._free
        if at + 2 + len(body) > pci.CONFIG_SIZE:
            raise ValueError(f"no room for PCI capability {identifier:#x} at {at:#x}: {len(body) + 2} bytes")
        self.data[at : at + 2 + len(body)] = bytes((identifier, 0)) + body
        self.writable[at + 2 : at + 2 + len(writable)] = writable
        self.data[self._last_capability] = at
        self._last_capability = at + 1
        self._free = (at + 2 + len(body) + 3) & ~3
        self.data[pci.STATUS] |= pci.STATUS_CAPABILITIES
        return at

    def seal(self) -> None:
        """Remember the values as they are: what :meth:`reset` returns to."""
        self._initial = bytes(self.data)

    def reset(self) -> None:
        """Back to the sealed values; nobody is told."""
        if self._initial is not None:
            self.data[:] = self._initial
