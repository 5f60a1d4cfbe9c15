"""How long an engine may take from its start to the guest's first instruction."""

from __future__ import annotations

from runner.graph.model import Graph

START_SECONDS = 60  # a host so slow that ioctls take longer is as good as dead
GIB_SECONDS = 60  # more for each GiB that is cleared and pinned before the first instruction


def seconds(graph: Graph) -> float:
    """Seconds until an engine that has not started the guest is given up."""
    pinned = any(claim.kind == "vfio_container" for node in graph.nodes for claim in node.claim.backends)
    touched = graph.memory.size if pinned or graph.memory.prefault else 0
    return START_SECONDS + GIB_SECONDS * touched / (1 << 30)
