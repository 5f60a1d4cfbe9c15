"""The graph of a machine that runs under another name than its definition's.

What was made from the name is made anew: a second run of one file, beside the first on one bridge, has
MAC addresses of its own.
"""

from __future__ import annotations

from runner.graph.model import Graph, Node
from runner.light import import_module


def renamed(graph: Graph, name: str) -> Graph:
    """The same plan for a machine that is called ``name``."""
    return graph._replace(nodes=tuple(_renamed(node, graph.name, name) for node in graph.nodes))


def _renamed(node: Node, before: str, name: str) -> Node:
    module = import_module(f"runner.devices.{node.kind}")
    if not hasattr(module, "derive"):
        return node
    made = module.derive(before, node.name, {})
    stated = {key: value for key, value in node.options.items() if made.get(key) != value}
    options = module.derive(name, node.name, stated)
    claims = tuple(
        claim._replace(options={key: options.get(key, value) for key, value in claim.options.items()})
        for claim in node.claim.backends
    )
    return node._replace(options=options, claim=node.claim._replace(backends=claims))
