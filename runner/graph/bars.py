"""Base address registers and what bridges forward, placed in the PCI windows.

Every BAR is naturally aligned (PCI 3.0, section 6.2.5.1) and has its page to itself, so
that an engine can map it.  What lies below a root port is placed together, in a part that
the bridge's registers can express: 1 MiB steps for memory, 4 KiB for ports (PCI-to-PCI
Bridge 1.2, section 3.2.5).
"""

from __future__ import annotations

from runner.graph import x86
from runner.graph.allocator import Space
from runner.graph.model import BarClaim, Node, PciClaim, Region
from runner.typed import Callable

PAGE = 0x1000
STEP = {"io": 0x1000, "mem32": 0x10_0000, "mem64": 0x10_0000}


def place_bars(nodes: list[Node], above: int, address_bits: int) -> tuple[list[Node], Region]:
    """All BARs given an address; also the 64-bit window that starts somewhere above ``above``."""
    functions = {index: node.claim.pci for index, node in enumerate(nodes) if node.claim.pci}
    sizes = [_room(bar) for pci in functions.values() for bar in pci.bars if bar.kind == "mem64"]
    behind = STEP["mem64"] * sum(1 for pci in functions.values() if pci.bridge)
    window = x86.window_64(above, max(sizes, default=PAGE), sum(sizes) + behind, address_bits)
    spaces = {
        "io": Space("the ports of the PCI window", *x86.PORT_WINDOW),
        "mem32": Space("the 32-bit PCI window", *x86.PCI_WINDOW_32),
        "mem64": Space("the 64-bit PCI window", window.start, window.start + window.size),
    }
    made = list(nodes)
    for index, pci in functions.items():
        if pci.bridge:
            below = [i for i, other in functions.items() if other.bus == nodes[index].name]
            windows = _place_below(made, below, nodes[index].name, spaces)
            made[index] = _with(made[index], pci._replace(windows=windows))
        if not pci.bus:
            _place(made, [index], spaces, _window)
    return made, window


def _place_below(
    nodes: list[Node], below: list[int], port: str, spaces: dict[str, Space]
) -> tuple[Region, ...]:
    """One part of each window for a root port, and the BARs of what sits below it inside."""
    bars = [bar for index in below for bar in _bars(nodes[index])]
    parts: dict[str, Space] = {}
    for kind, step in STEP.items():
        rooms = [_room(bar) for bar in bars if _window_below(bar) == kind]
        if rooms:
            align = max(step, *rooms)
            size = -(-sum(rooms) // step) * step
            start = spaces[kind].place(size, align, f"what sits below `{port}`")
            parts[kind] = Space(f"the {kind} window of `{port}`", start, start + size)
    _place(nodes, below, parts, _window_below)
    return tuple(Region(part.start, part.end - part.start, kind, port) for kind, part in parts.items())


def _place(
    nodes: list[Node], chosen: list[int], spaces: dict[str, Space], window: Callable[[BarClaim], str]
) -> None:
    """Place the BARs of the chosen nodes, the largest first: natural alignment then wastes nothing."""
    bars = [(-bar.size, index, bar) for index in chosen for bar in _bars(nodes[index])]
    given: dict[tuple[int, int], int] = {}
    for _, index, bar in sorted(bars):
        what = f"BAR {bar.bar} of `{nodes[index].name}`"
        given[index, bar.bar] = spaces[window(bar)].place(bar.size, _room(bar), what)
    for index in chosen:
        pci = nodes[index].claim.pci
        if pci is not None:
            placed = tuple(bar._replace(at=given[index, bar.bar]) for bar in pci.bars)
            nodes[index] = _with(nodes[index], pci._replace(bars=placed))


def _window(bar: BarClaim) -> str:
    return bar.kind


def _window_below(bar: BarClaim) -> str:
    """A bridge forwards 64-bit addresses only as prefetchable memory (section 3.2.5.9)."""
    return "mem32" if bar.kind == "mem64" and not bar.prefetchable else bar.kind


def _room(bar: BarClaim) -> int:
    """Alignment, and the space that is kept: the size, and for memory at least a page."""
    return bar.size if bar.kind == "io" else max(bar.size, PAGE)


def _bars(node: Node) -> tuple[BarClaim, ...]:
    return node.claim.pci.bars if node.claim.pci else ()


def _with(node: Node, pci: PciClaim) -> Node:
    return node._replace(claim=node.claim._replace(pci=pci))
