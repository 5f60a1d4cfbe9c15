"""The PCI root bridge in AML: windows, interrupt routing, and what the guest may control.

Which I/O APIC input a slot's INTA-INTD reach is the graph's to say (``x86.intx_gsi``); a
_PRT without link devices means level triggered, active low (ACPI 6.4, 6.2.13), and KVM's
I/O APIC does not look at the polarity (decision 0012).
"""

from __future__ import annotations

from runner.graph.model import Graph, Node, PciClaim, Region
from runner.typed import Iterable
from runner.wire import aml, resources
from runner.wire.aml import Term

_PINS = 4
_CONFIG_PORTS = (0xCF8, 8)
_OSC_PCI = "33DB4D5B-1FF7-401C-9657-7441C03DD766"
_GRANTED = 0x1C  # PME, AER and capability structure; no hot-plug of either kind
_BAD_UUID, _BAD_REVISION, _MASKED = 0x04, 0x08, 0x10
_LAST_BUS = 255


def ecam(graph: Graph) -> Region | None:
    """The memory-mapped configuration space, where the graph has PCI."""
    return next((region for region in graph.regions if region.kind == "ecam"), None)


def last_bus(graph: Graph) -> int:
    """The highest bus number that a function has, or that the ports need when the guest numbers them.

    No more than that is announced: Linux searches each bus from 0 to MCFG's last one for
    devices (``pcibios_fixup_peer_bridges``), 32 reads and twice as many exits a bus.
    """
    functions = [node.claim.pci for node in graph.nodes if node.claim.pci]
    buses = [_place(function)[0] for function in functions]
    return min(max([0, *buses, sum(function.bridge for function in functions)]), _LAST_BUS)


def root_bridge(graph: Graph, window: Region) -> tuple[Term, ...]:
    """Device PCI0 and the reservation of its ECAM, to stand in ``\\_SB``."""
    slots = sorted({_place(node.claim.pci)[1] for node in graph.nodes if _routes(node)})
    bridge = aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", 0),
        aml.name("_SEG", 0),
        aml.name("_BBN", 0),
        aml.name("_CRS", resources.template(*_windows(graph))),
        aml.name("_PRT", aml.package(*_routing(slots))),
        _osc(),
    )
    return bridge, _reservation(window)


def _windows(graph: Graph) -> Iterable[resources.Descriptor]:
    """What the engine lets BARs move in, and no more (``runner.engine.kvm.pci.windows``).

    No window is prefetchable: a guest puts BARs of both kinds into one that is not.
    """
    from runner.graph.x86 import PORT_WINDOW

    yield resources.word_bus(0, last_bus(graph))
    yield resources.io(*_CONFIG_PORTS)
    yield resources.word_io(PORT_WINDOW[0], PORT_WINDOW[1] - 1)
    for region in graph.regions:
        last = region.start + region.size - 1
        if region.kind == "mmio32":
            yield resources.dword_memory(region.start, last)
        elif region.kind == "mmio64":
            yield resources.qword_memory(region.start, last)


def _place(claim: PciClaim | None) -> tuple[int, int]:
    """Bus and device number."""
    assert claim is not None
    assert claim.slot is not None
    bus, _, rest = claim.slot.partition(":")
    return int(bus, 16), int(rest.partition(".")[0], 16)


def _routes(node: Node) -> bool:
    """Functions of the root bus with an interrupt pin, and ports, which pass on those behind them."""
    pci = node.claim.pci
    return pci is not None and not pci.bus and (pci.intx_pin != 0 or pci.bridge)


def _routing(slots: Iterable[int]) -> Iterable[Term]:
    """_PRT entries (6.2.13): all functions of a slot, pin from 0, no link device, GSI."""
    from runner.graph.x86 import intx_gsi

    for slot in slots:
        for pin in range(_PINS):
            yield aml.package(slot << 16 | 0xFFFF, pin, 0, intx_gsi(slot, pin + 1))


def _osc() -> Term:
    """_OSC (PCI Firmware 3.3, 4.5): the guest gets native control of what is in _GRANTED."""
    status, control = aml.path("CDW1"), aml.path("CDW3")
    return aml.method(
        "_OSC",
        aml.create_dword_field(aml.arg(3), 0, "CDW1"),
        aml.when(
            aml.equal(aml.arg(0), aml.uuid(_OSC_PCI)),
            aml.create_dword_field(aml.arg(3), 8, "CDW3"),
            aml.bit_and(control, _GRANTED, aml.local(0)),
            aml.when(aml.not_equal(aml.arg(1), 1), aml.bit_or(status, _BAD_REVISION, status)),
            aml.when(aml.not_equal(aml.local(0), control), aml.bit_or(status, _MASKED, status)),
            aml.store(aml.local(0), control),
        ),
        aml.otherwise(aml.bit_or(status, _BAD_UUID, status)),
        aml.give_back(aml.arg(3)),
        args=4,
        serialized=True,
    )


def _reservation(window: Region) -> Term:
    """Linux uses ECAM only where e820 or a motherboard device reserves it."""
    return aml.device(
        "MRES",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", 0),
        aml.name("_CRS", resources.template(resources.memory32_fixed(window.start, window.size))),
    )
