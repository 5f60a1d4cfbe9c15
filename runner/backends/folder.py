"""A directory of the host that the VM process itself serves (9p); it reaches it by path."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.errors import HostError, HostPermissionError
from runner.graph.model import BackendClaim, Graph


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Nothing is kept open; a directory that cannot be served is told before the start."""
    path = claim.options["path"]
    place = str(path["resolved"] if isinstance(path, dict) else path)
    if not os.path.isdir(place):
        raise HostError(f"`{claim.name}` shares {place}, which is no directory")
    readonly = claim.options.get("readonly") is True
    if not os.access(place, os.R_OK | os.X_OK | (0 if readonly else os.W_OK)):
        ways = "read" if readonly else "read and written"
        raise HostPermissionError(f"`{claim.name}` shares {place}, which may not be {ways}")
    return Opened(taken=f"{claim.name}: {place}{' (read-only)' if readonly else ''}")
