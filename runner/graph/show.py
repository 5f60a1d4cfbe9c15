"""The graph as a tree of lines: what ``vmrun plan`` prints."""

from __future__ import annotations

from runner.definition.model import InitramfsBuild
from runner.graph import words
from runner.graph.model import Graph, Node, PciClaim
from runner.typed import Iterator, NamedTuple

ADDRESS_DIGITS = 10


class Branch(NamedTuple):
    """One line of the tree and what hangs below it."""

    text: str
    below: tuple[Branch, ...] = ()


def show(graph: Graph) -> str:
    """The whole graph, with a final newline.  Holds no path of this host but those of the file."""
    head = f"{graph.name}  ({graph.source.text}, sha256 {graph.digest[:12]})"
    return "\n".join(_lines(Branch(head, tuple(_parts(graph))))) + "\n"


def _lines(tree: Branch) -> Iterator[str]:
    yield tree.text
    for index, branch in enumerate(tree.below):
        last = index == len(tree.below) - 1
        first, *rest = _lines(branch)
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + line for line in rest)


def _parts(graph: Graph) -> Iterator[Branch]:
    yield _engine(graph)
    yield _boot(graph)
    yield _cpus(graph)
    yield Branch(f"memory  {words.memory(graph.memory)}", _memory_map(graph))
    yield Branch("interrupts", tuple(_interrupts(graph)))
    yield Branch("ports", tuple(_ports(graph)))
    functions = [(node, node.claim.pci) for node in graph.nodes if node.claim.pci]
    if functions:
        yield Branch("PCI", tuple(_functions(functions)))
    backends = {backend.name: backend for node in graph.nodes for backend in node.claim.backends}
    if backends:
        yield Branch("backends", _columns([(name, words.backend(each)) for name, each in backends.items()]))
    if graph.machine:
        yield Branch("machine", tuple(Branch(line) for line in words.options(graph.machine)))
    if graph.timeout is not None:
        yield Branch(f"deadline  {graph.timeout:g} s")
    if graph.notes:
        yield Branch("notes", tuple(Branch(note) for note in graph.notes))
    if graph.refusals:
        yield Branch("refused on this host", tuple(Branch(refusal) for refusal in graph.refusals))


def _columns(rows: list[tuple[str, ...]]) -> tuple[Branch, ...]:
    """Rows as lines, each column but the last as wide as its widest cell."""
    if not rows:
        return ()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    widths.append(0)
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return tuple(Branch("  ".join(cells).rstrip()) for cells in padded)


def _engine(graph: Graph) -> Branch:
    return Branch(f"engine  {words.engine(graph.engine)}", _columns(list(graph.engine.reasons)))


def _boot(graph: Graph) -> Branch:
    kernel = Branch(f"kernel     {words.kernel(graph.boot.kernel)}")
    added = tuple(Branch(f"+ {parameter}  (shorten_boot: {name})") for parameter, name in graph.boot.added)
    own = graph.boot.cmdline.removesuffix(" ".join(parameter for parameter, _ in graph.boot.added)).rstrip()
    cmdline = Branch(f"cmdline    {own or 'none'}", added)
    built = graph.boot.initramfs
    if not isinstance(built, InitramfsBuild):
        return Branch("boot", (kernel, Branch(f"initramfs  {words.initramfs(built)}"), cmdline))
    parts = _columns([tuple(part) for part in words.ingredients(built)])
    return Branch("boot", (kernel, Branch("initramfs  built of", parts), cmdline))


def _cpus(graph: Graph) -> Branch:
    cpus = graph.cpus
    below = [Branch("APIC ids " + _ranges([vcpu.apic_id for vcpu in graph.vcpus]))]
    if cpus.model is not None:
        below.append(Branch(f"model {cpus.model}"))
    if cpus.features:
        below.append(Branch("features " + " ".join(cpus.features)))
    below += [
        Branch(f"vCPU {number} on host CPU {_ranges(list(allowed))}")
        for number, allowed in enumerate(cpus.affinity)
    ]
    return Branch(f"cpus  {cpus.total} ({words.topology(cpus)})", tuple(below))


def _ranges(numbers: list[int]) -> str:
    """``0–3 8–11``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)


def _memory_map(graph: Graph) -> tuple[Branch, ...]:
    zones = tuple(
        Branch(f"NUMA node {number}: {words.size(zone.size)}, vCPUs {_ranges(sorted(zone.cpus))}")
        for number, zone in enumerate(graph.memory.zones)
    )
    if not graph.regions:
        return (*zones, Branch(f"the memory map is {words.BY_FIRMWARE}"))
    rows: list[tuple[str, ...]] = [
        (words.span(one.start, one.size, ADDRESS_DIGITS), one.kind, words.size(one.size), one.owner)
        for one in graph.regions
    ]
    return zones + _columns(rows)


def _interrupts(graph: Graph) -> Iterator[Branch]:
    controllers = {region.kind: region for region in graph.regions if region.kind in ("ioapic", "lapic")}
    if controllers:
        yield Branch(f"I/O APIC at {controllers['ioapic'].start:#x}, 24 lines")
        yield Branch(f"local APICs at {controllers['lapic'].start:#x}")
    else:
        yield Branch("controllers are QEMU's")
    lines = [(irq.line or 0, words.irq(irq), node) for node in graph.nodes for irq in node.claim.irqs]
    shared: dict[str, list[str]] = {}
    for _, said, node in sorted(lines, key=lambda line: line[0]):
        shared.setdefault(said, []).append(words.qualified(node))
    yield from _columns([(said, ", ".join(names)) for said, names in shared.items()])


def _ports(graph: Graph) -> tuple[Branch, ...]:
    ports = [(port.at or 0, port, node) for node in graph.nodes for port in node.claim.ports]
    ports.sort(key=lambda row: row[:2])
    return _columns([(words.port(port), words.qualified(node), port.name) for _, port, node in ports])


def _functions(functions: list[tuple[Node, PciClaim]]) -> Iterator[Branch]:
    """By slot, what sits below a root port under it."""
    ordered = sorted(functions, key=lambda row: row[1].slot or "")
    for node, pci in ordered:
        if not pci.bus:
            below = tuple(_function(*row) for row in ordered if pci.bridge and row[1].bus == node.name)
            line = _function(node, pci)
            yield line._replace(below=line.below + below)


def _function(node: Node, pci: PciClaim) -> Branch:
    text = f"{pci.slot}  {words.function(pci)}  {words.qualified(node)}  ({node.kind})"
    parts = [Branch(f"BAR {bar.bar}  {words.bar(bar)}") for bar in pci.bars]
    parts += [
        Branch(f"forwards {window.kind} {words.span(window.start, window.size)}") for window in pci.windows
    ]
    interrupts = [words.vectors(pci)] if words.vectors(pci) else []
    interrupts += [words.irq(irq) for irq in node.claim.irqs]
    parts += [Branch(", ".join(interrupts))] if interrupts else []
    if not node.claim.backends and node.options:
        parts += [Branch(", ".join(words.options(node.options)))] if words.options(node.options) else []
    return Branch(text, tuple(parts))
