"""Addresses, ports, lines and slots for a list of claims.

Order decides who is served first: fixed wishes of everybody before the allocator chooses
for anybody, and then in the order of the nodes, so that a refusal names the later of two.
For the engine ``qemu`` only slots are decided; ports that a device fixes are checked, and
memory-mapped addresses and lines stay open, since QEMU's firmware places them.
"""

from __future__ import annotations

from runner.definition.model import Definition
from runner.graph import slots, x86
from runner.graph.allocator import Lines, Space
from runner.graph.bars import place_bars
from runner.graph.model import Claim, IrqClaim, Node, PortClaim, Region
from runner.hostfacts import HostFacts
from runner.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runner.graph.plan import Wanted

SMALL = 1 << 20  # a region up to this size is registers, above it is memory (pmem)
MEMORY_ALIGN = 128 << 20  # Linux adds memory by sections of 128 MiB
PORT_ALIGN = 8


class Placed(NamedTuple):
    """The nodes with what they were given, the memory map, and notes for people."""

    nodes: tuple[Node, ...]
    regions: tuple[Region, ...]
    notes: tuple[str, ...]


def place(
    wanted: tuple[tuple[Wanted, Claim], ...], layout: str, definition: Definition, facts: HostFacts
) -> Placed:
    """Give every claim what it asks for.  Raises DefinitionError when two want the same."""
    nodes = [Node(item.kind, item.name, item.section, item.options, claim) for item, claim in wanted]
    nodes, notes = _slots(nodes, layout)
    if layout == "qemu":
        _ports(nodes)
        return Placed(tuple(nodes), (), notes)
    if any(node.claim.pci for node in nodes):
        nodes.insert(0, _host_bridge())
    nodes = _lines(_ports(nodes))
    nodes, regions = _memory_map(nodes, definition, facts)
    return Placed(tuple(nodes), regions, notes)


def said(node: Node) -> str:
    """How a message calls a node: `` `disks.root` ``, or the name of what every PC has."""
    return f"`{node.section}.{node.name}`" if node.section not in ("", node.name) else f"`{node.name}`"


def _host_bridge() -> Node:
    from runner.devices import pci_host

    return Node("pci_host", "pci_host", "", {}, pci_host.claim("pci_host", {}))


def _slots(nodes: list[Node], layout: str) -> tuple[list[Node], tuple[str, ...]]:
    functions = [(index, node.claim.pci) for index, node in enumerate(nodes) if node.claim.pci]
    if not functions:
        return nodes, ()
    wishes = tuple(
        slots.Wish(nodes[index].section, nodes[index].name, pci.slot, pci.bus, pci.bridge)
        for index, pci in functions
    )
    chipset = (slots.HOST_BRIDGE, slots.CHIPSET) if layout == "qemu" else (slots.HOST_BRIDGE,)
    places, notes = slots.assign(wishes, chipset)
    for (index, pci), at in zip(functions, places, strict=True):
        claim = nodes[index].claim
        nodes[index] = nodes[index]._replace(claim=claim._replace(pci=pci._replace(slot=str(at))))
    return nodes, notes


def _ports(nodes: list[Node]) -> list[Node]:
    space = Space("the I/O ports", 0, 0x1_0000)
    for node in nodes:
        for port in node.claim.ports:
            if port.at is not None and not _decoded_inside(node, port):
                space.take(port.at, port.size, f"ports of {said(node)}")
    free = Space("the free I/O ports", *x86.PLATFORM_PORTS)
    for taken in space.taken:
        if x86.PLATFORM_PORTS[0] <= taken.start < taken.end <= x86.PLATFORM_PORTS[1]:
            free.take(taken.start, taken.end - taken.start, taken.what)
    return [_with_ports(node, free) for node in nodes]


def _decoded_inside(node: Node, port: PortClaim) -> bool:
    """The reset register 0xcf9 lies in the PCI configuration ports, which take wider accesses only."""
    return node.kind == "acpi_pm" and port.size == 1


def _with_ports(node: Node, free: Space) -> Node:
    what = f"ports of {said(node)}"
    ports = tuple(
        port if port.at is not None else port._replace(at=free.place(port.size, PORT_ALIGN, what))
        for port in node.claim.ports
    )
    return node._replace(claim=node.claim._replace(ports=ports))


def _lines(nodes: list[Node]) -> list[Node]:
    lines = Lines(x86.ISA_LINES)
    nodes = [_with_intx(node, nodes) for node in nodes]
    for node in nodes:
        for irq in node.claim.irqs:
            if irq.line is not None:
                lines.take(irq.line, irq.trigger, said(node))
    return [_with_lines(node, lines) for node in nodes]


def _with_lines(node: Node, lines: Lines) -> Node:
    irqs = tuple(
        irq if irq.line is not None else irq._replace(line=lines.place(irq.trigger, said(node)))
        for irq in node.claim.irqs
    )
    return node._replace(claim=node.claim._replace(irqs=irqs))


def _with_intx(node: Node, nodes: list[Node]) -> Node:
    """A function's INTx pin as its last wired interrupt; ``_PRT`` and the guest say the same.

    Below a root port the pin is turned by the device number (PCI-to-PCI Bridge 1.2, table 9-1)
    and leaves at the port's slot.
    """
    pci = node.claim.pci
    if pci is None or not pci.intx_pin or pci.slot is None:
        return node
    device, pin = slots.parse(pci.slot).device, pci.intx_pin
    for port in nodes:
        if pci.bus and port.name == pci.bus and port.claim.pci and port.claim.pci.bridge:
            assert port.claim.pci.slot is not None
            pin = (device + pin - 1) % 4 + 1
            device = slots.parse(port.claim.pci.slot).device
    irqs = (*node.claim.irqs, IrqClaim(x86.intx_gsi(device, pin), "level", "low", "intx"))
    return node._replace(claim=node.claim._replace(irqs=irqs))


def _memory_map(
    nodes: list[Node], definition: Definition, facts: HostFacts
) -> tuple[list[Node], tuple[Region, ...]]:
    size = definition.memory.size
    space = x86.address_space(size)
    regions = list(x86.fixed_regions(size))
    has_pci = any(node.claim.pci for node in nodes)
    if has_pci:
        start, end = x86.PCI_WINDOW_32
        space.take(start, end - start, "the 32-bit PCI window")
        regions.append(Region(start, end - start, "mmio32", "PCI"))
    for node in nodes:
        for region in node.claim.regions:
            if region.start:
                space.take(region.start, region.size, f"{region.kind} of {said(node)}")
    nodes, above = _place_regions(nodes, space, x86.ram_end(size))
    regions += [region for node in nodes for region in node.claim.regions]
    if has_pci:
        nodes, window = place_bars(nodes, above, address_bits(facts))
        regions.append(window)
    return nodes, tuple(sorted(regions))


def address_bits(facts: HostFacts) -> int:
    """Width of guest-physical addresses."""
    return facts.physical_bits or x86.ASSUMED_ADDRESS_BITS


def _place_regions(nodes: list[Node], space: Space, above: int) -> tuple[list[Node], int]:
    """Regions with start 0: registers in the platform window, memory above RAM; returns the new end."""
    registers = Space("the platform's registers", *x86.PLATFORM_WINDOW)
    low, high = x86.PLATFORM_WINDOW
    for taken in space.taken:
        if low <= taken.start < taken.end <= high:
            registers.take(taken.start, taken.end - taken.start, taken.what)
    memory = Space("the addresses above RAM", above, space.end)
    for taken in space.taken:
        if taken.start >= above:
            memory.take(taken.start, taken.end - taken.start, taken.what)
    made = []
    for node in nodes:
        given = []
        for region in node.claim.regions:
            if not region.start:
                where, align = (registers, 0x1000) if region.size <= SMALL else (memory, MEMORY_ALIGN)
                region = region._replace(start=where.place(region.size, align, said(node)))  # noqa: PLW2901
            given.append(region)
        made.append(node._replace(claim=node.claim._replace(regions=tuple(given))))
    return made, max((taken.end for taken in memory.taken), default=above)
