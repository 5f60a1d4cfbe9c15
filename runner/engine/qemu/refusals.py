"""What of a graph QEMU's q35 cannot do, told before anything is started."""

from __future__ import annotations

from importlib.util import find_spec

from runner.engine.qemu.backends import DECLARED
from runner.graph.model import Graph, Node
from runner.graph.qemu_words import device_id
from runner.light import import_module
from runner.typed import Iterator

BUILT_IN_DEVICE = 0x1F
"""q35's own functions sit in 00:1f (LPC bridge)."""


def refusals(graph: Graph) -> tuple[str, ...]:
    """One sentence for each thing; () to go ahead."""
    return tuple(_refusals(graph))


def _refusals(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield from _of_node(node)
    if graph.memory.hugepages and graph.memory.merge:
        yield "huge pages are never merged: `merge` and `hugepages` exclude each other"


def _of_node(node: Node) -> Iterator[str]:
    name = device_id(node)
    module = f"runner.devices.{node.kind}"
    if find_spec(module) is None or not hasattr(import_module(module), "qemu"):
        yield f"`{name}` ({node.kind}) has no counterpart in QEMU"
    for backend in node.claim.backends:
        if backend.kind not in DECLARED:
            yield f"QEMU cannot feed `{name}` from a backend of the kind {backend.kind}"
    function = node.claim.pci
    if function is not None and function.slot is not None and not function.bus:
        device = int(function.slot.rpartition(":")[2].partition(".")[0], 16)
        if device == BUILT_IN_DEVICE:
            yield f"`{name}` cannot have slot {function.slot}: QEMU's q35 has its LPC bridge in 00:1f"
