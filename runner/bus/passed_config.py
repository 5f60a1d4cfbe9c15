"""Configuration space of a passed-through function: what is ours, what is the host's, what is hidden.

Ours are the header, the BARs, the links of the capability lists, MSI and MSI-X.  All else is read
from the host's function as it is at that moment; a write reaches the host only where PASSED says so
(reference/vfio.md, engine 5).  PCI 3.0 §6.7 and §6.8, PCI Express 3.0 §7.8 and §7.9.
"""

from __future__ import annotations

from runner.bus.passed_ports import HostFunction
from runner.bus.pci_config import ConfigSpace
from runner.typed import Callable, Final, Iterator, NamedTuple
from runner.wire import pci

CAP_POWER: Final = 0x01
CAP_VPD: Final = 0x03
CAP_ADVANCED_FEATURES: Final = 0x13
CAP_ENHANCED_ALLOCATION: Final = 0x14
EXTENDED_START: Final = 0x100

# Fixed addresses that would contradict the BARs.
HIDDEN: Final = (CAP_ENHANCED_ALLOCATION,)

# Extended capabilities that would let the guest make functions, resize BARs or use the IOMMU
# itself: (name, bytes), the bytes at most (PCI Express 5.0 §7.8 and §9.3.3, ATS 1.1 §5.1 and §10.5.2).
HIDDEN_EXTENDED: Final = {
    0x0E: ("ARI", 8),
    0x0F: ("ATS", 8),
    0x10: ("SR-IOV", 0x40),
    0x11: ("MR-IOV", 0x44),
    0x13: ("PRI", 0x10),
    0x15: ("resizable BAR", 0x34),
    0x1B: ("PASID", 8),
    0x24: ("resizable BARs of virtual functions", 0x34),
}

POWER_SIZE, VPD_SIZE, EXPRESS_SIZE, EXPRESS_2_SIZE, ADVANCED_FEATURES_SIZE = 8, 8, 0x14, 0x3C, 6

# What of a capability, (its size, first, bytes), the guest may write on the host: power state,
# device control with its FLR bit, the address and data of VPD, the AF reset.
PASSED: Final = {
    CAP_POWER: (POWER_SIZE, 4, 2),
    CAP_VPD: (VPD_SIZE, 2, 6),
    pci.CAP_EXPRESS: (EXPRESS_SIZE, 8, 2),
    CAP_ADVANCED_FEATURES: (ADVANCED_FEATURES_SIZE, 4, 1),
}
DEVICE_CONTROL_2: Final = (0x28, 2)  # version 2 of the PCI Express capability has it
COMMAND_PASSED: Final = (
    pci.COMMAND_IO | pci.COMMAND_MEMORY | pci.COMMAND_MASTER | pci.COMMAND_PARITY | pci.COMMAND_SERR
    | pci.COMMAND_INTX_DISABLE
)  # fmt: skip

EXPRESS_ENDPOINTS: Final = (0, 1)  # device/port type: endpoint, legacy endpoint
EXPRESS_INTEGRATED: Final = 9
EXPRESS_LINK, EXPRESS_LINK_2 = (0x0C, 8), (0x2C, 8)  # capabilities, control, status of the link


class Capability(NamedTuple):
    """One entry of a capability list of the host's function."""

    identifier: int
    offset: int


def capabilities(config: bytes) -> tuple[Capability, ...]:
    """The list at 0x34, in order.  A link that loops, points into the header or past the end stops it."""
    if not config[pci.STATUS] & pci.STATUS_CAPABILITIES:
        return ()
    found: list[Capability] = []
    seen: set[int] = set()
    at = config[pci.CAPABILITIES] & 0xFC
    while at >= pci.FIRST_CAPABILITY and at not in seen:
        seen.add(at)
        found.append(Capability(config[at], at))
        at = config[at + 1] & 0xFC
    return tuple(found)


def extended_capabilities(config: bytes) -> tuple[Capability, ...]:
    """The list at 0x100 of a 4096-byte space; it stops at the first link that makes no sense."""
    found: list[Capability] = []
    seen: set[int] = set()
    at = EXTENDED_START if len(config) > EXTENDED_START else 0
    while EXTENDED_START <= at <= len(config) - 4 and at not in seen:
        seen.add(at)
        header = int.from_bytes(config[at : at + 4], "little")
        if header in (0, 0xFFFFFFFF):
            break
        found.append(Capability(header & 0xFFFF, at))
        at = header >> 20 & 0xFFC
    return tuple(found)


class PassedConfig(ConfigSpace):
    """Bytes of ours over a live function of the host's.

    ``on_passed(offset, size, old)`` is called after a write has reached the host, and
    ``before_passed(offset, size, new)`` before it does; ``integrated``: the function sits on the
    root bus, where an endpoint has no link.
    """

    def __init__(self, host: HostFunction, *, integrated: bool = False) -> None:
        snapshot = host.config()
        super().__init__(len(snapshot))
        self.host = host
        self.ours = bytearray(len(snapshot))  # 1: the byte is ours, 0: the host's is read
        self.passed = bytearray(len(snapshot))  # 1: a write of it reaches the host
        self.before_passed: Callable[[int, bytes], None] = lambda _offset, _new: None
        self.after_passed: Callable[[int, bytes], None] = lambda _offset, _new: None
        self.own(0, pci.FIRST_CAPABILITY)
        self.capabilities = tuple(c for c in capabilities(snapshot) if c.identifier not in HIDDEN)
        self._link()
        self._link_extended(snapshot)
        for identifier, (whole, first, size) in PASSED.items():
            at = self.find(identifier, whole)
            if at is not None:
                self._pass(at + first, size)
        express = self.find(pci.CAP_EXPRESS, EXPRESS_SIZE)
        if express is not None:
            self._take_express(express, snapshot, integrated)
        self.refresh(pci.STATUS, 2, self._read_status)

    def own(self, start: int, size: int) -> None:
        """These bytes are answered from here."""
        self.ours[start : start + size] = b"\x01" * len(self.ours[start : start + size])
        self.passed[start : start + size] = bytes(len(self.passed[start : start + size]))

    def _pass(self, start: int, size: int) -> None:
        """Writes of these bytes reach the host, unless they are ours."""
        for at in range(start, min(start + size, pci.CONFIG_SIZE)):
            self.passed[at] = not self.ours[at]

    def find(self, identifier: int, size: int) -> int | None:
        """Offset of a capability of ``size`` bytes; None when the function has none that fits."""
        for capability in self.capabilities:
            if capability.identifier == identifier and self.fits(capability.offset, size):
                return capability.offset
        return None

    def fits(self, at: int, size: int) -> bool:
        """Whether so many bytes lie inside the space and under no other capability."""
        return at + size <= pci.CONFIG_SIZE and not any(at < c.offset < at + size for c in self.capabilities)

    def _link(self) -> None:
        """The same list at the same places, made anew so that it surely ends."""
        before = pci.CAPABILITIES
        for capability in self.capabilities:
            self.data[before] = capability.offset
            self.data[capability.offset] = capability.identifier
            self.data[capability.offset + 1] = 0
            self.own(capability.offset, 2)
            before = capability.offset + 1
        if self.capabilities:
            self.data[pci.STATUS] |= pci.STATUS_CAPABILITIES

    def hide(self, identifier: int) -> None:
        """Take a capability out of the list: a guest must not use what nobody serves."""
        for capability in self.capabilities:
            if capability.identifier == identifier:
                self.put(capability.offset, 2, 0)
        self.capabilities = tuple(c for c in self.capabilities if c.identifier != identifier)
        self.data[pci.CAPABILITIES] = 0
        self.data[pci.STATUS] &= ~pci.STATUS_CAPABILITIES & 0xFF
        self._link()

    def _link_extended(self, snapshot: bytes) -> None:
        """Hidden ones leave the list; the first cannot, so it becomes a null capability (id 0)."""
        found = extended_capabilities(snapshot)
        shown = [c for c in found if c.identifier not in HIDDEN_EXTENDED or c.offset == EXTENDED_START]
        for number, capability in enumerate(shown):
            following = shown[number + 1].offset if number + 1 < len(shown) else 0
            header = int.from_bytes(snapshot[capability.offset : capability.offset + 4], "little")
            hidden = capability.identifier in HIDDEN_EXTENDED
            self.put(capability.offset, 4, (0 if hidden else header & 0xFFFFF) | following << 20)
            self.own(capability.offset, 4)
        for capability in found:
            if capability.identifier in HIDDEN_EXTENDED:
                self._blank(capability, found)

    def _blank(self, capability: Capability, found: tuple[Capability, ...]) -> None:
        """What a hidden capability says is not to be read by an offset learnt elsewhere either."""
        end = capability.offset + HIDDEN_EXTENDED[capability.identifier][1]
        after = [c.offset for c in found if c.offset > capability.offset]
        start = capability.offset + (4 if capability.offset == EXTENDED_START else 0)
        self.own(start, min([end, *after]) - start)

    def _take_express(self, at: int, snapshot: bytes, integrated: bool) -> None:
        """An endpoint without a port above it is an integrated one, and has no link (§7.8.2, §7.8.6)."""
        flags = int.from_bytes(snapshot[at + 2 : at + 4], "little")
        second = flags & 0xF >= 2 and self.fits(at, EXPRESS_2_SIZE)
        if second:
            self._pass(at + DEVICE_CONTROL_2[0], DEVICE_CONTROL_2[1])
        if not integrated or flags >> 4 & 0xF not in EXPRESS_ENDPOINTS:
            return
        self.put(at + 2, 2, flags & ~0xF0 | EXPRESS_INTEGRATED << 4)
        self.own(at + 2, 2)
        self.own(at + EXPRESS_LINK[0], EXPRESS_LINK[1])
        if second:
            self.own(at + EXPRESS_LINK_2[0], EXPRESS_LINK_2[1])

    def _read_status(self) -> None:
        """The interrupt bit is the function's own: a guest that shares the line looks at it (§6.2.3)."""
        live = self.host.read_config(pci.STATUS, 1) & pci.STATUS_INTERRUPT
        self.data[pci.STATUS] = self.data[pci.STATUS] & ~pci.STATUS_INTERRUPT | live

    def read(self, offset: int, size: int) -> int:
        """Ours where we own, the host's elsewhere."""
        end = offset + size
        if end > len(self.data) or all(self.ours[offset:end]):
            return super().read(offset, size)
        value = self.host.read_config(offset, size).to_bytes(size, "little")
        own = super().read(offset, size).to_bytes(size, "little")
        mixed = bytes(o if mine else h for o, h, mine in zip(own, value, self.ours[offset:end], strict=True))
        return int.from_bytes(mixed, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Ours by its masks; what is passed goes to the host, a register (not a byte) at a time."""
        end = offset + size
        if end > len(self.data):
            return
        if offset < pci.COMMAND + 2 and end > pci.COMMAND:
            self._write_command(offset, size, value)
            return
        super().write(offset, size, value)
        new = value.to_bytes(size, "little")
        for start, length in _runs(self.passed, offset, size):
            part = new[start - offset : start - offset + length]
            self.before_passed(start, part)
            self.host.write_config(start, length, int.from_bytes(part, "little"))
            self.after_passed(start, part)

    def _write_command(self, offset: int, size: int, value: int) -> None:
        """The host's command register says what the guest's does: VFIO refuses accesses to a BAR, and
        unmaps it, while the function does not decode.  So decoding comes on before anybody sees the
        BAR, and goes off after the last has lost sight of it.
        """
        before = self.get(pci.COMMAND, 2)
        new = bytearray(self.data[pci.COMMAND : pci.COMMAND + 2])
        for at, byte in enumerate(value.to_bytes(size, "little"), offset - pci.COMMAND):
            if 0 <= at < 2:
                new[at] = byte
        coming = int.from_bytes(new, "little") & (pci.COMMAND_IO | pci.COMMAND_MEMORY)
        if coming & ~before:
            self._tell_command(before | coming)
        super().write(offset, size, value)
        self._tell_command(self.get(pci.COMMAND, 2))

    def _tell_command(self, value: int) -> None:
        self.host.write_config(pci.COMMAND, 2, value & COMMAND_PASSED)

    def start_over(self) -> None:
        """The guest's registers are as after a reset; the host's command register follows."""
        self._tell_command(self.get(pci.COMMAND, 2))


def _runs(passed: bytearray, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the naturally aligned pieces of a write that reach the host, largest first."""
    if all(passed[offset : offset + size]):
        yield offset, size
    elif size > 1:
        yield from _runs(passed, offset, size // 2)
        yield from _runs(passed, offset + size // 2, size - size // 2)
