"""Configuration space of a passed-through function: what is ours, what is the host's, what is hidden.

Ours are the header, the BARs, the links of the capability lists, MSI and MSI-X.  All else is read
from the host's function as it is at that moment; a write reaches the host only where PASSED says so
(reference/vfio.md, engine 5).  PCI 3.0 §6.7 and §6.8, PCI Express 3.0 §7.8 and §7.9.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from runner.bus.pci_config import ConfigSpace
from runner.devices.ports import HostFunction
from runner.wire import pci

CAP_POWER: Final = 0x01
CAP_VPD: Final = 0x03
CAP_ADVANCED_FEATURES: Final = 0x13
EXTENDED_START: Final = 0x100

# Extended capabilities that would let the guest make functions, resize BARs or use the IOMMU itself.
HIDDEN_EXTENDED: Final = {
    0x0E: "ARI",
    0x0F: "ATS",
    0x10: "SR-IOV",
    0x13: "PRI",
    0x15: "resizable BAR",
    0x1B: "PASID",
}

# (first, size) behind a capability's start that the guest may write on the host: power state,
# device control with its FLR bit and device control 2, the address and data of VPD, the AF reset.
PASSED: Final = {
    CAP_POWER: ((4, 2),),
    CAP_VPD: ((2, 6),),
    pci.CAP_EXPRESS: ((8, 2), (0x28, 2)),
    CAP_ADVANCED_FEATURES: ((4, 1),),
}
COMMAND_PASSED: Final = (
    pci.COMMAND_IO | pci.COMMAND_MEMORY | pci.COMMAND_MASTER | pci.COMMAND_PARITY | pci.COMMAND_SERR
    | pci.COMMAND_INTX_DISABLE
)  # fmt: skip


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
    """Bytes of ours over a live function of the host's."""

    def __init__(self, host: HostFunction) -> None:
        snapshot = host.config()
        super().__init__(len(snapshot))
        self.host = host
        self.ours = bytearray(len(snapshot))  # 1: the byte is ours, 0: the host's is read
        self.passed = bytearray(len(snapshot))  # 1: a write of it reaches the host
        self.own(0, pci.FIRST_CAPABILITY)
        self.capabilities = capabilities(snapshot)
        self._link(snapshot)
        self._link_extended(snapshot)
        for capability in self.capabilities:
            for first, size in PASSED.get(capability.identifier, ()):
                start = capability.offset + first
                self.passed[start : start + size] = b"\x01" * len(self.passed[start : start + size])

    def own(self, start: int, size: int) -> None:
        """These bytes are answered from here."""
        self.ours[start : start + size] = b"\x01" * len(self.ours[start : start + size])

    def find(self, identifier: int) -> int | None:
        """Offset of a capability, None when the function has it not."""
        return next((c.offset for c in self.capabilities if c.identifier == identifier), None)

    def _link(self, snapshot: bytes) -> None:
        """The same list at the same places, made anew so that it surely ends."""
        before = pci.CAPABILITIES
        for capability in self.capabilities:
            self.data[before] = capability.offset
            self.data[capability.offset] = capability.identifier
            self.own(capability.offset, 2)
            before = capability.offset + 1
        if self.capabilities:
            self.data[pci.STATUS] |= pci.STATUS_CAPABILITIES

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
        after = [c.offset for c in found if c.offset > capability.offset]
        start = capability.offset + 4
        self.own(start, min([*after, len(self.data)]) - start)

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
        super().write(offset, size, value)
        passed = self.passed[offset:end]
        if all(passed):
            self.host.write_config(offset, size, value)
            return
        for at, byte in enumerate(value.to_bytes(size, "little")):
            if passed[at]:
                self.host.write_config(offset + at, 1, byte)

    def follow_command(self) -> None:
        """From now on the host's command register says what the guest's does: VFIO refuses BAR
        accesses and DMA while the function's own bits are off.
        """

        def written(_offset: int, _old: bytes) -> None:
            self.host.write_config(pci.COMMAND, 2, self.get(pci.COMMAND, 2) & COMMAND_PASSED)

        self.watch(pci.COMMAND, 2, written)
