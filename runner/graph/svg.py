"""The graph as a picture: head, boot, processors, memory map, buses with devices, host backends.

The layout is our own (decision record 0051): columns from left to right are the address
space, the guest's buses and devices, and, beyond a dashed border, the host.
"""

from __future__ import annotations

from runner.graph import words
from runner.graph.canvas import INK, LINE, MUTED, Canvas, width_of, wrapped
from runner.graph.model import Graph, Node, PciClaim, Region
from runner.typed import NamedTuple

WIDTH, MARGIN, GAP = 1320, 32, 20
MAP_WIDTH = 320
BUS_X = MARGIN + MAP_WIDTH + 2 * GAP
DEVICE_X = BUS_X + 26
DEVICE_WIDTH = 470
HOST_X = DEVICE_X + DEVICE_WIDTH + 60
HOST_WIDTH = WIDTH - MARGIN - HOST_X
CPU_WIDTH, MEMORY_WIDTH, CPUS_A_ROW = 290, 250, 24
ADDRESS_WIDTH = 92
INDENT = 28  # of what sits below a root port
LEADING = 17

CARD, HOST_CARD = "#ffffff", "#fffbeb"
EDGE, HOST_EDGE, SLOT = "#cbd5e1", "#f59e0b", "#e0e7ff"
ENGINE = {"kvm": "#16a34a", "qemu": "#d97706", "": "#dc2626"}
KINDS = {
    "ram": "#bfdbfe",
    "reserved": "#e2e8f0",
    "mmio32": "#ddd6fe",
    "mmio64": "#ddd6fe",
    "ecam": "#fbcfe8",
    "ioapic": "#fde68a",
    "lapic": "#fde68a",
}


class Row(NamedTuple):
    """A device card: its title, a badge (the slot), lines of text, and how deep it hangs."""

    title: str
    kind: str
    badge: str
    lines: tuple[str, ...]
    backends: tuple[tuple[str, str], ...]
    depth: int = 0


def svg(graph: Graph) -> str:
    """An SVG document of its own, without scripts, fonts or links."""
    canvas = Canvas(WIDTH)
    y = _head(canvas, graph)
    y = _summary(canvas, graph, y)
    bottom = max(_memory_map(canvas, graph, y), _buses(canvas, graph, y))
    bottom = _notes(canvas, graph, bottom)
    return canvas.finish(bottom + MARGIN, f"{graph.name}: device graph")


def _head(canvas: Canvas, graph: Graph) -> float:
    y = MARGIN + 20
    canvas.text(MARGIN, y, graph.name, size=26, bold=True, room=700)
    label = words.engine(graph.engine)
    width = width_of(label, 14, bold=True) + 32
    right = WIDTH - MARGIN
    canvas.box(right - width, y - 24, width, 32, ENGINE[graph.engine.name], radius=16)
    canvas.text(right - width / 2, y - 3, label, size=14, colour="#ffffff", bold=True, anchor="middle")
    y += 22
    origin = f"{graph.source.text}  sha256 {graph.digest[:12]}"
    canvas.text(MARGIN, y, origin, colour=MUTED, mono=True, size=11, room=460)
    for name, why in graph.engine.reasons:
        canvas.text(right, y, f"{name}: {why}", colour=MUTED, anchor="end", room=720, size=11)
        y += LEADING
    return max(y, MARGIN + 60) + 6


def _summary(canvas: Canvas, graph: Graph, y: float) -> float:
    """Three cards of one height: boot, processors, memory."""
    boot_width = WIDTH - 2 * MARGIN - CPU_WIDTH - MEMORY_WIDTH - 2 * GAP
    facts = _boot_lines(graph, boot_width - 108)
    rows = -(-len(graph.vcpus) // CPUS_A_ROW)
    height = max(40 + LEADING * len(facts), 68 + 12 * rows, 96)
    _card(canvas, MARGIN, y, boot_width, height, "Boot")
    for index, (name, said, mono) in enumerate(facts):
        line = y + 46 + LEADING * index
        canvas.text(MARGIN + 16, line, name, colour=MUTED)
        canvas.text(MARGIN + 92, line, said, mono=mono, size=11 if mono else 12, room=boot_width - 108)
    x = MARGIN + boot_width + GAP
    _card(canvas, x, y, CPU_WIDTH, height, words.count(graph.cpus.total, "CPU"))
    canvas.text(x + 16, y + 46, words.topology(graph.cpus), colour=MUTED)
    _processors(canvas, graph, x + 16, y + 58)
    x += CPU_WIDTH + GAP
    _card(canvas, x, y, MEMORY_WIDTH, height, f"{words.size(graph.memory.size)} of memory")
    more = words.memory(graph.memory).partition(", ")[2] or "private"
    canvas.text(x + 16, y + 46, more, colour=MUTED, room=MEMORY_WIDTH - 32)
    if graph.timeout is not None:
        canvas.text(x + 16, y + 46 + LEADING, f"deadline {graph.timeout:g} s", colour=MUTED)
    return y + height + GAP


def _boot_lines(graph: Graph, room: float) -> list[tuple[str, str, bool]]:
    """(label, text, in the fixed font?); the command line takes as many lines as it needs."""
    command = wrapped(graph.boot.cmdline or "none", room, 11, mono=True)
    return [
        ("kernel", words.kernel(graph.boot.kernel), False),
        ("initramfs", words.initramfs(graph.boot.initramfs), False),
        *(("" if index else "cmdline", part, True) for index, part in enumerate(command)),
    ]


def _processors(canvas: Canvas, graph: Graph, x: float, y: float) -> None:
    """A square for each vCPU; threads of a core share a tint, cores alternate."""
    for vcpu in graph.vcpus:
        row, column = divmod(vcpu.number, CPUS_A_ROW)
        tint = "#3b82f6" if (vcpu.core + vcpu.socket) % 2 == 0 else "#93c5fd"
        canvas.box(x + column * 10.6, y + row * 12, 9, 9, tint, radius=2)


def _card(canvas: Canvas, x: float, y: float, width: float, height: float, title: str) -> None:
    canvas.box(x, y, width, height, CARD, EDGE)
    canvas.text(x + 16, y + 24, title, size=13, bold=True, room=width - 32)


def _memory_map(canvas: Canvas, graph: Graph, y: float) -> float:
    """The address space with the highest address on top; heights grow with the logarithm of sizes."""
    canvas.text(MARGIN, y + 14, "Address space", size=13, bold=True)
    y += 28
    if not graph.regions:
        canvas.box(MARGIN, y, MAP_WIDTH, 60, KINDS["reserved"])
        canvas.text(MARGIN + MAP_WIDTH / 2, y + 34, words.BY_FIRMWARE, colour=MUTED, anchor="middle")
        return y + 60
    left, right = MARGIN + ADDRESS_WIDTH, MARGIN + MAP_WIDTH
    above: Region | None = None
    for region in reversed(graph.regions):
        if above is not None and region.start + region.size < above.start:
            canvas.text(left + 10, y + 8, "⋮", colour=LINE, bold=True)
            y += 14
        height = 20 + 1.2 * max(0, region.size.bit_length() - 12)
        canvas.box(left, y, right - left, height, KINDS.get(region.kind, SLOT), radius=3)
        middle = y + height / 2 + 4
        start = f"{region.start:#x}"
        canvas.text(left + 10, middle, region.owner, size=11, room=140)
        canvas.text(right - 8, middle, words.size(region.size), size=11, colour=MUTED, anchor="end")
        canvas.text(left - 8, y + height - 2, start, size=10, colour=MUTED, mono=True, anchor="end")
        y += height + 2
        above = region
    return y


def _buses(canvas: Canvas, graph: Graph, y: float) -> float:
    top = y
    platform = [_platform_row(node) for node in graph.nodes if node.claim.pci is None]
    functions = _function_rows(graph)
    canvas.text(HOST_X, y + 14, "Host", size=13, bold=True)
    y = _bus(canvas, y, "Ports and interrupt lines", platform)
    if functions:
        y = _bus(canvas, y + 8, "PCI root bus 00", functions)
    border = HOST_X - 30
    canvas.line([(border, top), (border, y - 10)], HOST_EDGE, dash="5 5")
    return y


def _bus(canvas: Canvas, y: float, title: str, rows: list[Row]) -> float:
    canvas.text(BUS_X - 6, y + 14, title, size=13, bold=True)
    y += 28
    trunks: dict[int, float] = {0: y - 8}  # depth: where its trunk starts
    for row in rows:
        height = max(30 + LEADING * len(row.lines) + (4 if row.lines else 0), 34 * len(row.backends))
        trunk = BUS_X + row.depth * INDENT
        canvas.line([(trunk, trunks[row.depth]), (trunk, y + 16), (DEVICE_X + row.depth * INDENT, y + 16)])
        _device(canvas, row, y, height)
        trunks[row.depth] = y + 16
        trunks[row.depth + 1] = y + height
        y += height + 10
    return y


def _device(canvas: Canvas, row: Row, y: float, height: float) -> None:
    x = DEVICE_X + row.depth * INDENT
    width = DEVICE_WIDTH - row.depth * INDENT
    canvas.box(x, y, width, height, CARD, EDGE)
    left = x + 12
    if row.badge:
        canvas.box(left, y + 7, 62, 18, SLOT, radius=4)
        canvas.text(left + 31, y + 20, row.badge, size=11, mono=True, anchor="middle")
        left += 72
    canvas.text(left, y + 20, row.title, bold=True, room=width - 200)
    canvas.text(x + width - 12, y + 20, row.kind, size=11, colour=MUTED, anchor="end")
    for index, line in enumerate(row.lines):
        canvas.text(x + 12, y + 38 + LEADING * index, line, size=11, mono=True, room=width - 24)
    for index, (name, said) in enumerate(row.backends):
        at = y + 34 * index
        canvas.line([(x + width, at + 15), (HOST_X, at + 15)], HOST_EDGE)
        canvas.box(HOST_X, at, HOST_WIDTH, 30, HOST_CARD, HOST_EDGE, radius=6)
        canvas.text(HOST_X + 10, at + 13, name, size=10, colour=MUTED, room=HOST_WIDTH - 20)
        canvas.text(HOST_X + 10, at + 25, said, size=11, colour=INK, room=HOST_WIDTH - 20)


def _notes(canvas: Canvas, graph: Graph, y: float) -> float:
    for note in (*graph.notes, *(f"refused on this host: {refusal}" for refusal in graph.refusals)):
        y += LEADING
        canvas.text(MARGIN, y, note, colour=MUTED, room=WIDTH - 2 * MARGIN)
    return y


def _platform_row(node: Node) -> Row:
    lines = [f"{words.port(port):<13} {port.name}" for port in node.claim.ports]
    lines += [f"{words.span(one.start, one.size)} {one.kind}" for one in node.claim.regions]
    lines += [words.irq(irq) for irq in node.claim.irqs]
    title = words.qualified(node)
    return Row(title, node.kind if node.kind != title else "", "", tuple(lines), _backends(node))


def _function_rows(graph: Graph) -> list[Row]:
    found = [(node.claim.pci.slot or "", node, node.claim.pci) for node in graph.nodes if node.claim.pci]
    found.sort(key=lambda row: row[0])
    rows = []
    for _, node, pci in found:
        if not pci.bus:
            rows.append(_function_row(node, pci, 0))
            below = [row for row in found if pci.bridge and row[2].bus == node.name]
            rows += [_function_row(other, claim, 1) for _, other, claim in below]
    return rows


def _function_row(node: Node, pci: PciClaim, depth: int) -> Row:
    lines = [f"BAR {bar.bar}  {words.bar(bar)}" for bar in pci.bars]
    lines += [f"forwards {one.kind} {words.span(one.start, one.size)}" for one in pci.windows]
    interrupts = [words.vectors(pci)] if words.vectors(pci) else []
    interrupts += [words.irq(irq) for irq in node.claim.irqs]
    lines += [", ".join(interrupts)] if interrupts else []
    kind = f"{node.kind}  {words.function(pci)}"
    return Row(words.qualified(node), kind, pci.slot or "", tuple(lines), _backends(node), depth)


def _backends(node: Node) -> tuple[tuple[str, str], ...]:
    return tuple((backend.name, words.backend(backend)) for backend in node.claim.backends)
