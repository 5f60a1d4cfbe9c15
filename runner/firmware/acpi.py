"""The ACPI tables of one machine, from its graph: what is not in the graph is not in them.

They lie in the BIOS area from 0xe0000 on, the RSDP first, where a kernel also finds them
by searching.  Addresses of the fixed hardware come from the claim of ``acpi_pm``, those of
PCI from the graph's regions, and each device module adds its own objects to ``\\_SB``.
"""

from __future__ import annotations

from runner.errors import InternalError
from runner.firmware import pci
from runner.firmware.entry import ACPI_AREA, ACPI_AREA_SIZE
from runner.graph.model import Graph, Node
from runner.light import import_module
from runner.typed import Iterator, NamedTuple
from runner.wire import acpi, aml
from runner.wire.acpi import FixedHardware, Processor
from runner.wire.aml import Term

TIMER_GSI = 2
"""Where the PIT's ISA line 0 arrives: pin 2 of the I/O APIC, as on every PC."""

_ALIGN = 64  # FACS wants it (5.2.10), the others gain by it
_ISA_LINES = 16
_RESET_VALUE = 6  # to 0xcf9: a hard reset


class AcpiImage(NamedTuple):
    """All tables as one blob for guest memory."""

    address: int
    data: bytes
    rsdp_address: int


class _Area:
    """Places tables one behind the other; the first 64 bytes are kept for the RSDP."""

    def __init__(self) -> None:
        self.data = bytearray(_ALIGN)

    def place(self, table: bytes) -> int:
        address = ACPI_AREA + len(self.data)
        self.data += table + bytes(-len(table) % _ALIGN)
        return address


def tables(graph: Graph) -> AcpiImage:
    """Build every table of the machine.

    Raises InternalError where the graph lacks ``acpi_pm`` or the tables outgrow their area.
    """
    area = _Area()
    facs_at = area.place(acpi.facs())
    dsdt_at = area.place(acpi.dsdt(b"".join(_namespace(graph))))
    hardware = _fixed_hardware(graph)
    processors = _processors(graph)
    listed = [area.place(acpi.fadt(hardware, facs_at=facs_at, dsdt_at=dsdt_at))]
    listed.append(area.place(_madt(graph, processors)))
    window = pci.ecam(graph)
    if window:
        listed.append(area.place(acpi.mcfg(window.start, pci.last_bus(graph))))
    if graph.memory.zones:
        listed.append(area.place(acpi.srat(processors, tuple(_zone_memory(graph)))))
    pointer = acpi.rsdp(area.place(acpi.xsdt(listed)))
    area.data[: len(pointer)] = pointer
    if len(area.data) > ACPI_AREA_SIZE:
        raise InternalError(
            f"the ACPI tables of this machine need {len(area.data):#x} bytes, "
            f"but their area {ACPI_AREA:#x}-{ACPI_AREA + ACPI_AREA_SIZE - 1:#x} has {ACPI_AREA_SIZE:#x}",
            hint="use fewer CPUs or devices",
        )
    return AcpiImage(ACPI_AREA, bytes(area.data), ACPI_AREA)


def _namespace(graph: Graph) -> Iterator[Term]:
    window = pci.ecam(graph)
    system = [*_processor_devices(graph)]
    if window:
        system += pci.root_bridge(graph, window)
    for node in graph.nodes:
        system += _own_terms(node)
    yield aml.scope("\\_SB", *system)
    yield aml.name("\\_S5", aml.package(acpi.SLEEP_TYPE_S5, acpi.SLEEP_TYPE_S5, 0, 0))


def _processor_devices(graph: Graph) -> Iterator[Term]:
    for vcpu in graph.vcpus:
        yield aml.device(f"C{vcpu.number:03X}", aml.name("_HID", "ACPI0007"), aml.name("_UID", vcpu.number))


def _own_terms(node: Node) -> tuple[Term, ...]:
    """What the device's module says in ``acpi(node)``, if it says anything."""
    build = getattr(import_module(f"runner.devices.{node.kind}"), "acpi", None)
    terms: tuple[Term, ...] = build(node) if build else ()
    return terms


def _find(graph: Graph, kind: str) -> Node | None:
    return next((node for node in graph.nodes if node.kind == kind), None)


def _fixed_hardware(graph: Graph) -> FixedHardware:
    node = _find(graph, "acpi_pm")
    if node is None:
        raise InternalError("the machine has no node acpi_pm, whose ports its ACPI tables would name")
    ports = [port.at or 0 for port in node.claim.ports]
    return FixedHardware(
        pm1_event=ports[0],
        pm1_control=ports[1],
        pm_timer=ports[2],
        reset_port=ports[3],
        reset_value=_RESET_VALUE,
        sci=node.claim.irqs[0].line or 0,
        boot_arch=_boot_arch(graph),
        century=0x32 if _find(graph, "cmos_rtc") else 0,
    )


def _boot_arch(graph: Graph) -> int:
    """IAPC_BOOT_ARCH; a keyboard controller is one that has a line, not one that only resets."""
    keyboard = _find(graph, "i8042")
    return (
        (acpi.LEGACY_DEVICES if _find(graph, "uart16550") else 0)
        | (acpi.HAS_8042 if keyboard and keyboard.claim.irqs else 0)
        | acpi.NO_VGA
        | (0 if _find(graph, "cmos_rtc") else acpi.NO_CMOS_RTC)
    )


def _madt(graph: Graph, processors: tuple[Processor, ...]) -> bytes:
    """An override for the timer and for each ISA line that is not edge-triggered, active high."""
    starts = {region.kind: region.start for region in graph.regions}
    return acpi.madt(
        processors,
        local_apic=starts["lapic"],
        io_apic=starts["ioapic"],
        overrides=((0, TIMER_GSI, acpi.HIGH_EDGE), *_level_lines(graph)),
    )


def _level_lines(graph: Graph) -> Iterator[tuple[int, int, int]]:
    lines = {irq.line: irq for node in graph.nodes for irq in node.claim.irqs}
    for line, irq in sorted((line, irq) for line, irq in lines.items() if line is not None):
        if line < _ISA_LINES and irq.trigger == "level":
            yield line, line, acpi.LOW_LEVEL if irq.polarity == "low" else acpi.HIGH_LEVEL


def _processors(graph: Graph) -> tuple[Processor, ...]:
    near = {number: zone for zone, part in enumerate(graph.memory.zones) for number in part.cpus}
    return tuple(Processor(vcpu.number, vcpu.apic_id, near.get(vcpu.number, 0)) for vcpu in graph.vcpus)


def _zone_memory(graph: Graph) -> Iterator[tuple[int, int, int]]:
    """(zone, start, size): the zones laid one behind the other over what backs guest memory."""
    from runner.graph.x86 import backing

    free = list(backing(graph.memory.size))
    for zone, part in enumerate(graph.memory.zones):
        left = part.size
        while left and free:
            start, room = free.pop(0)
            size = min(left, room)
            yield zone, start, size
            left -= size
            if size < room:
                free.insert(0, (start + size, room - size))
