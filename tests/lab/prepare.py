"""What the lab's tests need from outside, fetched before it starts: in there is no network.

The cache is read-only inside; what is fetched here is found there.
"""

from __future__ import annotations

from runner.artifacts.prepare import fetch
from runner.definition.model import KernelDeb
from runner.graph.model import Boot

KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64")


def prepare() -> None:
    """Fetch the kernels that guests boot; a second call takes milliseconds.  Raises HostError."""
    for name in KERNELS:
        fetch(Boot(KernelDeb(name), None, ""))
