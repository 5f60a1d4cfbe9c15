"""PCI configuration space as software sees it.

PCI Local Bus 3.0 §6 (header, BARs, capabilities), PCI-to-PCI Bridge 1.2 §3.2 (type 1
header), PCI Express 3.0 §7.8 (the PCI Express capability), PCI 3.0 §6.8.2 (MSI-X).
Everything is little-endian; offsets are bytes from the start of a function's space.
"""

from __future__ import annotations

from struct import pack

from runner.typed import Final

CONFIG_SIZE: Final = 256
EXTENDED_CONFIG_SIZE: Final = 4096

VENDOR_ID: Final = 0x00
DEVICE_ID: Final = 0x02
COMMAND: Final = 0x04
STATUS: Final = 0x06
REVISION_ID: Final = 0x08
CLASS_CODE: Final = 0x09  # programming interface, subclass, class
CACHE_LINE_SIZE: Final = 0x0C
LATENCY_TIMER: Final = 0x0D
HEADER_TYPE: Final = 0x0E
BAR0: Final = 0x10
SUBSYSTEM_VENDOR_ID: Final = 0x2C
SUBSYSTEM_ID: Final = 0x2E
ROM_BASE: Final = 0x30
CAPABILITIES: Final = 0x34
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D
FIRST_CAPABILITY: Final = 0x40

COMMAND_IO: Final = 1 << 0
COMMAND_MEMORY: Final = 1 << 1
COMMAND_MASTER: Final = 1 << 2
COMMAND_PARITY: Final = 1 << 6
COMMAND_SERR: Final = 1 << 8
COMMAND_INTX_DISABLE: Final = 1 << 10

STATUS_INTERRUPT: Final = 1 << 3
STATUS_CAPABILITIES: Final = 1 << 4
STATUS_CLEARABLE: Final = 0xF900  # parity, aborts, system error: written 1 to clear (§6.2.3)

HEADER_NORMAL: Final = 0
HEADER_BRIDGE: Final = 1
HEADER_MULTIFUNCTION: Final = 0x80

BAR_IO: Final = 1
BAR_MEM64: Final = 4
BAR_PREFETCHABLE: Final = 8
ROM_ENABLE: Final = 1

# Type 1 header (PCI-to-PCI Bridge 1.2 §3.2)
BRIDGE_PRIMARY_BUS: Final = 0x18
BRIDGE_SECONDARY_BUS: Final = 0x19
BRIDGE_SUBORDINATE_BUS: Final = 0x1A
BRIDGE_IO_BASE: Final = 0x1C
BRIDGE_IO_LIMIT: Final = 0x1D
BRIDGE_SECONDARY_STATUS: Final = 0x1E
BRIDGE_MEMORY_BASE: Final = 0x20
BRIDGE_PREFETCHABLE_BASE: Final = 0x24
BRIDGE_PREFETCHABLE_UPPER: Final = 0x28
BRIDGE_IO_UPPER: Final = 0x30
BRIDGE_CONTROL: Final = 0x3E
BRIDGE_CONTROL_WRITABLE: Final = 0x005F  # parity, SERR, ISA, VGA, VGA 16-bit, secondary bus reset
BRIDGE_SECONDARY_RESET: Final = 1 << 6
BRIDGE_WINDOW_64: Final = 1  # low bits of the prefetchable base and limit

CAP_MSI: Final = 0x05
CAP_VENDOR: Final = 0x09
CAP_EXPRESS: Final = 0x10
CAP_MSIX: Final = 0x11

MSIX_CONTROL: Final = 2  # offset in the capability
MSIX_ENABLE: Final = 1 << 15
MSIX_FUNCTION_MASK: Final = 1 << 14
MSIX_ENTRY_SIZE: Final = 16
MSIX_ENTRY_MASKED: Final = 1  # bit 0 of an entry's vector control
MSIX_MAX_VECTORS: Final = 2048

EXPRESS_ROOT_PORT: Final = 4  # device/port type

VENDOR_REDHAT: Final = 0x1B36  # given to virtual devices of the field (QEMU, docs/specs/pci-ids)
HOST_BRIDGE_DEVICE: Final = 0x0008
ROOT_PORT_DEVICE: Final = 0x000C
CLASS_HOST_BRIDGE: Final = 0x060000
CLASS_PCI_BRIDGE: Final = 0x060400


def msix_capability(vectors: int, table_bar: int, table: int, pba_bar: int, pba: int) -> bytes:
    """MSI-X capability without its two first bytes (id, next): control, table and PBA places."""
    return pack("<HII", vectors - 1, table | table_bar, pba | pba_bar)


def express_root_port_capability(port: int) -> tuple[bytes, bytes]:
    """PCI Express capability of a root port without a slot, without id and next (§7.8).

    Version 2; a x1 link at 2.5 GT/s that is up, so that drivers find nothing to train.
    The second value is the write mask: device, link and root control.
    """
    kind = 2 | EXPRESS_ROOT_PORT << 4
    link_capabilities = 1 | 1 << 4 | port << 24
    link = 1 | 1 << 4
    body = pack("<HIHHIHH", kind, 1 << 15, 0, 0, link_capabilities, 0, link)  # role-based error reporting
    controls = pack("<HIHHIHHIHHH", 0, 0, 0x7FFF, 0, 0, 0x0FFB, 0, 0, 0, 0, 0x001F)
    size = 0x3C - 2
    return body + bytes(size - len(body)), controls + bytes(size - len(controls))


def slot_number(slot: str) -> int:
    """Device and function of "00:05.0" as devfn: device << 3 | function."""
    device, _, function = slot.rpartition(":")[2].partition(".")
    number, sub = int(device, 16), int(function or "0", 16)
    if number > 31 or sub > 7:
        raise ValueError(f"no PCI slot {slot!r}: devices are 00–1f, functions 0–7")
    return number << 3 | sub
