"""ACPI tables as bytes: header and checksum, RSDP, XSDT, FADT, FACS, MADT, MCFG, SRAT.

Source: ACPI 6.4, section 5.2; PCI Firmware 3.3, table 4-2 (MCFG).  Addresses are
guest-physical.  What stands in the tables is decided in :mod:`runner.firmware.acpi`.
"""

from __future__ import annotations

import struct

from runner.typed import NamedTuple, Sequence

OEM_ID, OEM_TABLE_ID, CREATOR_ID = b"VMRUN ", b"VMRUNPC ", b"VMRN"
SLEEP_TYPE_S5 = 5
"""SLP_TYP of the soft-off state, in ``_S5`` and in the PM1 control register."""

LEGACY_DEVICES, HAS_8042, NO_VGA, NO_CMOS_RTC = 1 << 0, 1 << 1, 1 << 2, 1 << 5
"""IAPC_BOOT_ARCH (5.2.9.3)."""

HIGH_EDGE, HIGH_LEVEL, LOW_LEVEL = 0x5, 0xD, 0xF
"""MPS INTI flags: polarity in bits 0-1, trigger in bits 2-3 (5.2.12.5)."""

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_WBINVD, _PROC_C1, _SLP_BUTTON, _FIX_RTC = 1 << 0, 1 << 2, 1 << 5, 1 << 6
_TMR_VAL_EXT, _RESET_REG_SUP = 1 << 8, 1 << 10
_NO_C2, _NO_C3 = 101, 1001  # latencies in µs that say the state is not there
_PCAT_COMPAT = 1
_ENABLED = 1
_X2APIC_FROM = 255


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0 modulo 256."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: header (5.2.6), body, checksum."""
    header = _HEADER.pack(
        signature, _HEADER.size + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR_ID, 1
    )
    whole = bytearray(header + body)
    whole[9] = checksum(whole)
    return bytes(whole)


def rsdp(xsdt: int) -> bytes:
    """Root System Description Pointer, revision 2: both of its checksums (5.2.5.3)."""
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 2, 0))
    first[8] = checksum(first)
    whole = first + struct.pack("<IQB3x", 36, xsdt, 0)
    whole[32] = checksum(whole)
    return bytes(whole)


def xsdt(tables: Sequence[int]) -> bytes:
    """The list of all other tables but the DSDT."""
    return table(b"XSDT", 1, struct.pack(f"<{len(tables)}Q", *tables))


def dsdt(aml: bytes) -> bytes:
    """Differentiated System Description Table; revision 2 makes AML integers 64 bits wide."""
    return table(b"DSDT", 2, aml)


def facs() -> bytes:
    """Firmware ACPI Control Structure, version 2: 64 bytes that want 64-byte alignment."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


class FixedHardware(NamedTuple):
    """What the FADT says of the fixed hardware: I/O ports, line, flags."""

    pm1_event: int
    pm1_control: int
    pm_timer: int
    reset_port: int
    reset_value: int
    sci: int
    boot_arch: int
    century: int  # CMOS offset, 0 for none


def fadt(hardware: FixedHardware, *, facs_at: int, dsdt_at: int) -> bytes:
    """Fixed ACPI Description Table, revision 6.4, 276 bytes.

    Fixed hardware has a power button, no sleep button and no RTC wake; no SMI port (ACPI mode
    is always on), no general-purpose events, no C-states below C1; the timer has 32 bits.
    """
    flags = _WBINVD | _PROC_C1 | _SLP_BUTTON | _FIX_RTC | _TMR_VAL_EXT | _RESET_REG_SUP
    event, control, timer = hardware.pm1_event, hardware.pm1_control, hardware.pm_timer
    body = struct.pack("<IIBBHIBBBB", facs_at, dsdt_at, 0, 0, hardware.sci, 0, 0, 0, 0, 0)
    body += struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0)
    body += struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0)
    body += struct.pack("<4H5B", _NO_C2, _NO_C3, 0, 0, 0, 0, 0, 0, hardware.century)
    body += struct.pack("<HBI", hardware.boot_arch, 0, flags)
    body += _io_register(hardware.reset_port, 1) + struct.pack("<BHB", hardware.reset_value, 0, 4)
    body += struct.pack("<QQ", 0, dsdt_at)  # X_FIRMWARE_CTRL stays 0: FIRMWARE_CTRL has it
    for port, size in ((event, 4), (0, 0), (control, 2), (0, 0), (0, 0), (timer, 4)):
        body += _io_register(port, size)
    body += bytes(4 * 12 + 8)  # GPE0, GPE1, sleep control and status, hypervisor vendor
    return table(b"FACP", 6, body)


def _io_register(port: int, size: int) -> bytes:
    """Generic Address Structure in system I/O space; ``size`` bytes, 0 for an absent register."""
    if not size:
        return bytes(12)
    access = {1: 1, 2: 2, 4: 3}[size]
    return struct.pack("<BBBBQ", 1, 8 * size, 0, access, port)


class Processor(NamedTuple):
    """One logical processor: the uid of its device in the DSDT, its APIC id, its NUMA zone."""

    uid: int
    apic_id: int
    zone: int = 0


def needs_x2apic(processor: Processor) -> bool:
    """Whether the 8-bit entries of MADT and SRAT cannot name it (5.2.12.12)."""
    return processor.apic_id >= _X2APIC_FROM or processor.uid > 0xFF


def madt(
    processors: Sequence[Processor],
    *,
    local_apic: int,
    io_apic: int,
    overrides: Sequence[tuple[int, int, int]],
) -> bytes:
    """Multiple APIC Description Table: local APICs, one I/O APIC at GSI 0, NMI on LINT1.

    ``overrides`` are (ISA line, GSI, MPS INTI flags).
    """
    body = struct.pack("<II", local_apic, _PCAT_COMPAT)
    for cpu in processors:
        if needs_x2apic(cpu):
            body += struct.pack("<BBHIII", 9, 16, 0, cpu.apic_id, _ENABLED, cpu.uid)
        else:
            body += struct.pack("<BBBBI", 0, 8, cpu.uid, cpu.apic_id, _ENABLED)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, io_apic, 0)
    for line, gsi, flags in overrides:
        body += struct.pack("<BBBBIH", 2, 10, 0, line, gsi, flags)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    if any(map(needs_x2apic, processors)):
        body += struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1)
    return table(b"APIC", 5, body)


def mcfg(ecam: int, last_bus: int) -> bytes:
    """Memory-mapped configuration of segment 0, buses 0 to ``last_bus``."""
    return table(b"MCFG", 1, struct.pack("<8xQHBB4x", ecam, 0, 0, last_bus))


def srat(processors: Sequence[Processor], memory: Sequence[tuple[int, int, int]]) -> bytes:
    """System Resource Affinity Table; ``memory`` is (zone, start, size) (5.2.16)."""
    body = struct.pack("<I8x", 1)
    for cpu in processors:
        if needs_x2apic(cpu):
            body += struct.pack("<BBHIIII4x", 2, 24, 0, cpu.zone, cpu.apic_id, _ENABLED, 0)
        else:
            zone = cpu.zone
            body += struct.pack(
                "<BBBBIB3sI",
                0,
                16,
                zone & 0xFF,
                cpu.apic_id,
                _ENABLED,
                0,
                (zone >> 8).to_bytes(3, "little"),
                0,
            )
    for zone, start, size in memory:
        body += struct.pack("<BBIHQQII8x", 1, 40, zone, 0, start, size, 0, _ENABLED)
    return table(b"SRAT", 3, body)
