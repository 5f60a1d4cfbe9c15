"""The graph in Graphviz's language, for those who have ``dot`` and want their own layout."""

from __future__ import annotations

from runner.graph import words
from runner.graph.model import Graph, Node
from runner.typed import Iterator

HEAD = """\
  rankdir=LR;
  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif", fontsize=11];
  edge [color="#64748b", arrowhead=none, fontname="sans-serif", fontsize=10];
"""


def dot(graph: Graph) -> str:
    """A ``digraph`` from the machine over its buses to the devices and their backends."""
    lines = [f"digraph {_quoted(graph.name)} {{", HEAD.rstrip("\n")]
    lines += [f"  {line}" for line in _statements(graph)]
    return "\n".join([*lines, "}"]) + "\n"


def _statements(graph: Graph) -> Iterator[str]:
    machine = [
        graph.name,
        f"engine {words.engine(graph.engine)}",
        f"{words.count(graph.cpus.total, 'CPU')}, {words.memory(graph.memory)}",
        words.kernel(graph.boot.kernel),
    ]
    yield _node("machine", machine, "#dbeafe")
    yield _node("ports", ["ports and lines"], "#f1f5f9")
    yield _edge("machine", "ports")
    if any(node.claim.pci for node in graph.nodes):
        yield _node("pci", ["PCI root bus 00"], "#f1f5f9")
        yield _edge("machine", "pci")
    for node in graph.nodes:
        yield from _device(node, graph)


def _device(node: Node, graph: Graph) -> Iterator[str]:
    name = f"device {words.qualified(node)}"
    pci = node.claim.pci
    title = [words.qualified(node)] + ([node.kind] if node.kind != node.name else [])
    yield _node(name, [*title, *_facts(node)], "#ffffff")
    if pci is None:
        yield _edge("ports", name)
    elif not pci.bus:
        yield _edge("pci", name, pci.slot or "")
    else:
        port = next(other for other in graph.nodes if other.name == pci.bus and other.claim.pci)
        yield _edge(f"device {words.qualified(port)}", name, pci.slot or "")
    for backend in node.claim.backends:
        yield _node(f"backend {backend.name}", [words.backend(backend)], "#fef3c7")
        yield _edge(name, f"backend {backend.name}")


def _facts(node: Node) -> Iterator[str]:
    for port in node.claim.ports:
        yield f"{words.port(port)} {port.name}"
    pci = node.claim.pci
    for bar in pci.bars if pci else ():
        yield f"BAR {bar.bar} {words.bar(bar)}"
    if pci and words.vectors(pci):
        yield words.vectors(pci)
    for irq in node.claim.irqs:
        yield words.irq(irq)


def _node(name: str, lines: list[str], colour: str) -> str:
    return f'{_quoted(name)} [label={_quoted(chr(10).join(lines))}, fillcolor="{colour}"];'


def _edge(start: str, end: str, label: str = "") -> str:
    return f"{_quoted(start)} -> {_quoted(end)}" + (f" [label={_quoted(label)}];" if label else ";")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
