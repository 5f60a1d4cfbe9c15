"""A blank disk in the host's memory, gone after the run."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.errors import HostError
from runner.graph.model import BackendClaim, Graph


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """A sparse memory file of the claim's size; it takes memory as it is written.  Raises HostError."""
    size = claim.options["blank"]
    assert isinstance(size, int)
    fd = os.memfd_create(f"vmrun-{claim.name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        words = f"`{claim.name}` cannot have {size:#x} bytes of memory: {str(error.strerror).lower()}"
        raise HostError(words) from None
    return Opened({claim.name: fd}, close=lambda: os.close(fd))
