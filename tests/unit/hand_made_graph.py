"""Graphs made by hand, for what reads a graph."""

from __future__ import annotations

from importlib import import_module

from runner.definition.model import Cpus, FilePath, Memory, NumaZone
from runner.graph.model import Boot, EngineChoice, Graph, Node, PciClaim, Region, Vcpu

GIB = 1 << 30


def node(kind: str, name: str = "", section: str = "") -> Node:
    """A device with the claim that its module makes."""
    claim = import_module(f"runner.devices.{kind}").claim(name or kind, {})
    return Node(kind, name or kind, section, {}, claim)


def function(name: str, slot: str, *, bus: str = "", bridge: bool = False, pin: int = 1) -> Node:
    """A PCI function whose module adds nothing to ACPI."""
    bare = node("debugcon", name, "devices")
    pci = PciClaim(0x1B36, 7, 0x80501, intx_pin=pin, slot=slot, bus=bus, bridge=bridge)
    return bare._replace(claim=bare.claim._replace(pci=pci))


def machine(
    cpus: int = 2, *, pci: bool = False, zones: tuple[NumaZone, ...] = (), more: tuple[Node, ...] = ()
) -> Graph:
    """Five gigabytes, the devices of every PC, and PCI if asked for."""
    regions = [
        Region(0, 0xA0000, "ram", "memory"),
        Region(0xA0000, 0x60000, "reserved", "legacy"),
        Region(0x100000, 3 * GIB - 0x100000, "ram", "memory"),
        Region(0xFEC00000, 0x1000, "ioapic", "I/O APIC"),
        Region(0xFEE00000, 0x1000, "lapic", "local APICs"),
        Region(4 * GIB, 2 * GIB, "ram", "memory"),
    ]
    nodes = [node("acpi_pm"), node("uart16550", "serial"), node("cmos_rtc"), node("i8042")]
    if pci:
        regions += [
            Region(0xC0000000, 0x20000000, "mmio32", "PCI"),
            Region(0xE0000000, 0x10000000, "ecam", "pci_host"),
            Region(8 * GIB, 64 * GIB, "mmio64", "PCI"),
        ]
        nodes.append(node("pci_host"))
    return Graph(
        name="by-hand",
        source=FilePath("by-hand.toml", "/by-hand.toml"),
        digest="",
        engine=EngineChoice("kvm", "kvm", ()),
        boot=Boot(None, None, ""),
        cpus=Cpus(cpus, 1, cpus, 1),
        vcpus=tuple(Vcpu(n, n, 0, n, 0) for n in range(cpus)),
        memory=Memory(5 * GIB, zones=zones),
        regions=tuple(sorted(regions)),
        nodes=(*nodes, *more),
        timeout=None,
    )
