"""ACPI tables as bytes, judged by ACPICA's iasl."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from acpi_oracle import compiled, round_trip
from hypothesis import given
from hypothesis import strategies as st

from runner.wire import acpi, aml, resources
from runner.wire.acpi import Processor

HARDWARE = acpi.FixedHardware(0x600, 0x604, 0x608, 0xCF9, 6, 9, acpi.LEGACY_DEVICES | acpi.NO_VGA, 0x32)
PROCESSORS = (Processor(0, 0), Processor(1, 254, 1), Processor(2, 255, 1), Processor(300, 7, 0))

TABLES = {
    "fadt": acpi.fadt(HARDWARE, facs_at=0xE0040, dsdt_at=0xE0080),
    "facs": acpi.facs(),
    "madt": acpi.madt(
        PROCESSORS,
        local_apic=0xFEE00000,
        io_apic=0xFEC00000,
        overrides=((0, 2, acpi.HIGH_EDGE), (9, 9, acpi.HIGH_LEVEL)),
    ),
    "mcfg": acpi.mcfg(0xE0000000, 255),
    "srat": acpi.srat(PROCESSORS, ((0, 0, 1 << 30), (1, 1 << 32, 1 << 30))),
    "xsdt": acpi.xsdt((0xE0100, 0xE0200)),
}


@pytest.mark.parametrize("name", TABLES)
def test_iasl_takes_apart_and_rebuilds(name: str, tmp_path: Path) -> None:
    """The table compiler makes the same bytes of what the disassembler reads."""
    _, again = round_trip(TABLES[name], tmp_path, name)
    assert again[36:] == TABLES[name][36:]


@pytest.mark.parametrize("name", [name for name in TABLES if name != "facs"])
def test_checksum_makes_the_sum_zero(name: str) -> None:
    """All bytes of a table add up to 0 modulo 256, and the length is its own."""
    table = TABLES[name]
    assert sum(table) & 0xFF == 0
    assert struct.unpack_from("<I", table, 4) == (len(table),)


def test_rsdp_has_both_checksums() -> None:
    """The first 20 bytes add up to 0, and so do all 36 (ACPI 6.4, 5.2.5.3)."""
    pointer = acpi.rsdp(0xE1000)
    assert len(pointer) == 36
    assert sum(pointer[:20]) & 0xFF == 0
    assert sum(pointer) & 0xFF == 0
    assert struct.unpack_from("<Q", pointer, 24) == (0xE1000,)


@given(st.binary(max_size=300))
def test_checksum_of_anything(body: bytes) -> None:
    """Whatever the body, the table's sum is 0."""
    assert sum(acpi.table(b"TEST", 1, body)) & 0xFF == 0


def test_fadt_places_registers_where_the_specification_does() -> None:
    """Ports, lengths, SCI and reset register sit at their offsets of table 5.9."""
    table = TABLES["fadt"]
    assert len(table) == 276
    assert struct.unpack_from("<H", table, 46) == (9,)
    assert struct.unpack_from("<IIIIII", table, 56) == (0x600, 0, 0x604, 0, 0, 0x608)
    assert table[88:94] == bytes((4, 2, 0, 4, 0, 0))
    assert struct.unpack_from("<BBBBQB", table, 116) == (1, 8, 0, 1, 0xCF9, 6)
    assert table[108] == 0x32


def test_madt_uses_x2apic_entries_only_where_it_must() -> None:
    """Ids from 255 on and uids above 255 need type 9; everything else keeps type 0."""
    table, kinds, at = TABLES["madt"], [], 44
    while at < len(table):
        kinds.append(table[at])
        at += table[at + 1]
    assert kinds == [0, 0, 9, 9, 1, 2, 2, 4, 10]


EVERYTHING = (
    aml.scope(
        "\\_SB",
        aml.device(
            "DEV0",
            aml.name("_HID", aml.eisa_id("PNP0A08")),
            aml.name("_UID", 7),
            aml.name("TEXT", "words"),
            aml.name("BIGN", 1 << 40),
            aml.name("DATA", aml.buffer(b"\x01\x02\x03")),
            aml.name(
                "_CRS",
                resources.template(
                    resources.word_bus(0, 255),
                    resources.io(0x70, 2),
                    resources.irq(8),
                    resources.irq(9, level=True, low=True, shared=True),
                    resources.memory32_fixed(0xE0000000, 0x10000000),
                    resources.word_io(0xD00, 0xFFFF),
                    resources.dword_memory(0xC0000000, 0xDFFFFFFF),
                    resources.qword_memory(1 << 33, (1 << 34) - 1),
                ),
            ),
        ),
        aml.operation_region("REGS", aml.SYSTEM_IO, 0x500, 16),
        aml.field("REGS", aml.BYTE_ACCESS, ("FLD0", 8), ("", 100), ("FLD1", 1)),
        aml.method(
            "TEST",
            aml.create_dword_field(aml.arg(1), 4, "CDW2"),
            aml.when(
                aml.not_equal(aml.arg(0), 3),
                aml.bit_or(aml.path("CDW2"), 8, aml.path("CDW2")),
            ),
            aml.otherwise(aml.bit_and(aml.path("FLD0"), 0x1F, aml.local(0))),
            aml.store(aml.local(0), aml.path("FLD1")),
            aml.notify(aml.path("DEV0"), 0x80),
            aml.give_back(aml.package(3, "two", aml.path("\\_SB.DEV0"))),
            args=2,
            serialized=True,
        ),
    ),
)

EVERYTHING_ASL = """
Scope (\\_SB) {
  Device (DEV0) {
    Name (_HID, EisaId ("PNP0A08"))
    Name (_UID, 7)
    Name (TEXT, "words")
    Name (BIGN, 0x10000000000)
    Name (DATA, Buffer (3) {1, 2, 3})
    Name (_CRS, ResourceTemplate () {
      WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 255, 0, 256)
      IO (Decode16, 0x70, 0x70, 1, 2)
      IRQNoFlags () {8}
      IRQ (Level, ActiveLow, Shared) {9}
      Memory32Fixed (ReadWrite, 0xE0000000, 0x10000000)
      WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)
      DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
        0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
      QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
        0, 0x200000000, 0x3FFFFFFFF, 0, 0x200000000)
    })
  }
  OperationRegion (REGS, SystemIO, 0x500, 16)
  Field (REGS, ByteAcc, NoLock, Preserve) { FLD0, 8, , 100, FLD1, 1 }
  Method (TEST, 2, Serialized) {
    CreateDWordField (Arg1, 4, CDW2)
    If (LNotEqual (Arg0, 3)) { Or (CDW2, 8, CDW2) }
    Else { And (FLD0, 0x1F, Local0) }
    Store (Local0, FLD1)
    Notify (DEV0, 0x80)
    Return (Package () {3, "two", \\_SB.DEV0})
  }
}
"""


def test_every_term_is_what_iasl_makes_of_the_same_asl(tmp_path: Path) -> None:
    """Byte for byte the AML that ACPICA's compiler makes of the same source."""
    assert b"".join(EVERYTHING).hex() == compiled(EVERYTHING_ASL, tmp_path, "everything").hex()
