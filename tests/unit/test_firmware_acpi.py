"""The ACPI tables of whole machines: taken apart by iasl, and held by golden files.

``VMRUN_GOLDEN=write pytest tests/unit/test_firmware_acpi.py`` writes the golden files anew.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from acpi_oracle import round_trip
from hand_made_graph import GIB, function, machine, node

from runner.definition.model import NumaZone
from runner.errors import InternalError
from runner.firmware import acpi
from runner.graph.model import Graph
from runner.graph.x86 import intx_gsi
from runner.wire.acpi import SLEEP_TYPE_S5

GOLDEN = Path(__file__).parent.parent / "golden" / "acpi"
FULL = machine(
    pci=True,
    zones=(NumaZone(GIB, (0,)), NumaZone(4 * GIB, (1,))),
    more=(
        node("pvpanic"),
        function("reader", "00:03.0"),
        function("port", "00:05.0", bridge=True, pin=0),
        function("behind", "01:00.0", bus="port"),
        function("quiet", "00:07.0", pin=0),
    ),
)


def walk(graph: Graph) -> dict[str, bytes]:
    """Follow RSDP, XSDT and FADT as a guest does: table by signature."""
    image = acpi.tables(graph)

    def at(address: int) -> bytes:
        offset = address - image.address
        return image.data[offset : offset + struct.unpack_from("<I", image.data, offset + 4)[0]]

    pointer = image.data[image.rsdp_address - image.address :][:36]
    assert pointer[:8] == b"RSD PTR "
    root = at(struct.unpack_from("<Q", pointer, 24)[0])
    found = {"XSDT": root}
    for (address,) in struct.iter_unpack("<Q", root[36:]):
        found[at(address)[:4].decode()] = at(address)
    found["DSDT"] = at(struct.unpack_from("<Q", found["FACP"], 140)[0])
    found["FACS"] = at(struct.unpack_from("<I", found["FACP"], 36)[0])
    return found


@pytest.mark.parametrize("signature", ["FACP", "APIC", "MCFG", "SRAT", "DSDT", "FACS", "XSDT"])
def test_full_machine_equals_its_golden_file(signature: str, tmp_path: Path) -> None:
    """iasl reads each table as the golden file says, and makes the same bytes of that again."""
    table = walk(FULL)[signature]
    name = signature.lower()
    source, again = round_trip(table, tmp_path, name)
    assert again[36:] == table[36:]
    golden = GOLDEN / f"{name}.dsl"
    if os.environ.get("VMRUN_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(source)
    assert source == golden.read_text()


def test_small_machine_has_no_tables_for_what_it_has_not() -> None:
    """Without PCI and NUMA: no MCFG, no SRAT, no PCI0."""
    tables = walk(machine())
    assert set(tables) == {"XSDT", "FACP", "APIC", "DSDT", "FACS"}
    assert b"PCI0" not in tables["DSDT"]


def test_tables_lie_in_the_bios_area_and_facs_is_aligned() -> None:
    """RSDP at 0xe0000, everything below 1 MiB, FACS on 64 bytes (ACPI 6.4, 5.2.10)."""
    image = acpi.tables(FULL)
    assert (image.address, image.rsdp_address) == (0xE0000, 0xE0000)
    assert image.address + len(image.data) <= 0x100000
    assert struct.unpack_from("<I", walk(FULL)["FACP"], 36)[0] % 64 == 0


def test_fadt_names_what_acpi_pm_claims() -> None:
    """Ports, line and reset register are those of the node, not constants of this room."""
    moved = node("acpi_pm")
    ports = tuple(port._replace(at=(port.at or 0) + 0x1000) for port in moved.claim.ports)
    moved = moved._replace(
        claim=moved.claim._replace(ports=ports, irqs=(moved.claim.irqs[0]._replace(line=10),))
    )
    graph = machine()
    tables = walk(graph._replace(nodes=(moved, *graph.nodes[1:])))
    fadt = tables["FACP"]
    assert struct.unpack_from("<H", fadt, 46) == (10,)
    assert struct.unpack_from("<I4xI8xI", fadt, 56) == (0x1600, 0x1604, 0x1608)
    assert struct.unpack_from("<Q", fadt, 120) == (0x1CF9,)
    assert struct.pack("<BBBBIH", 2, 10, 0, 10, 10, 0xD) in tables["APIC"]


def test_sleep_type_is_the_one_that_the_device_understands() -> None:
    """_S5 offers the SLP_TYP at which acpi_pm switches off."""
    from runner.devices import acpi_pm

    assert SLEEP_TYPE_S5 == acpi_pm.SLEEP_TYPE_S5


@pytest.mark.parametrize(
    ("without", "with_line", "flags"),
    [("", False, 0x05), ("", True, 0x07), ("cmos_rtc", False, 0x25), ("uart16550", False, 0x04)],
)
def test_boot_flags_follow_the_devices(without: str, with_line: bool, flags: int) -> None:
    """Serial port, keyboard controller with a line, and clock are announced as they are there."""
    graph = machine()
    nodes = [n for n in graph.nodes if n.kind != without]
    if with_line:
        line = graph.nodes[1].claim.irqs
        nodes = [n._replace(claim=n.claim._replace(irqs=line)) if n.kind == "i8042" else n for n in nodes]
    assert struct.unpack_from("<H", walk(graph._replace(nodes=tuple(nodes)))["FACP"], 109) == (flags,)


def test_routing_is_the_graphs() -> None:
    """_PRT says of each pin the GSI that the allocator drives."""
    dsdt = walk(FULL)["DSDT"]
    for slot in (3, 5):
        for pin in range(4):
            gsi = bytes([0x0A, intx_gsi(slot, pin + 1)])
            address = struct.pack("<I", slot << 16 | 0xFFFF)
            number = bytes([pin]) if pin < 2 else bytes([0x0A, pin])
            assert b"\x04\x0c" + address + number + b"\0" + gsi in dsdt
    assert struct.pack("<I", 7 << 16 | 0xFFFF) not in dsdt


def test_only_buses_that_can_be_there_are_announced() -> None:
    """MCFG ends at the last bus in use: Linux searches every announced one, with 64 exits each."""
    alone = walk(machine(pci=True, more=(function("reader", "00:03.0"),)))
    assert alone["MCFG"][-5] == 0
    ports = tuple(function(f"port{n}", f"00:0{n}.0", bridge=True) for n in range(1, 4))
    assert walk(machine(pci=True, more=ports))["MCFG"][-5] == 3
    far = function("far", "07:00.0", bus="port1")
    assert walk(machine(pci=True, more=(*ports, far)))["MCFG"][-5] == 7


def test_zones_cover_the_memory_across_the_gap() -> None:
    """Each zone's bytes are placed one behind the other, on both sides of the gap below 4 GiB."""
    srat = walk(FULL)["SRAT"]
    zones = [struct.unpack_from("<I2xQQ", srat, at + 2) for at in range(48 + 2 * 16, len(srat), 40)]
    assert zones == [(0, 0, GIB), (1, GIB, 2 * GIB), (1, 4 * GIB, 2 * GIB)]


def test_254_processors_fit() -> None:
    """As many as xAPIC ids allow have room in the area."""
    tables = walk(machine(254))
    assert len(tables["APIC"]) > 254 * 8
    assert tables["DSDT"].count(b"ACPI0007") == 254


def test_tables_that_outgrow_their_area_are_refused() -> None:
    """What would run over 1 MiB is an error that says both sizes."""
    with pytest.raises(InternalError, match=r"0xe0000-0xfffff"):
        acpi.tables(machine(4000))


def test_machine_without_fixed_hardware_is_refused() -> None:
    """No acpi_pm: nothing to describe, and said so."""
    graph = machine()
    with pytest.raises(InternalError, match="acpi_pm"):
        acpi.tables(graph._replace(nodes=graph.nodes[1:]))
