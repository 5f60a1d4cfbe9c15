"""What the lab's tests need from outside, fetched before it starts: in there is no network.

The cache is read-only inside; what is fetched here is found there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from runner.artifacts.prepare import fetch
from runner.definition.model import KernelDeb
from runner.graph.model import Boot
from tests.lab.machine import CHECKOUT

KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-rt-amd64")
NEED_THE_IMAGE = "tests/guest/test_debian.py"


def prepare(nodeids: Iterable[str]) -> None:
    """Fetch the kernels that guests boot, and make the disk image if one of these tests boots it.

    A second call takes milliseconds.  Raises HostError, CalledProcessError.
    """
    for name in KERNELS:
        fetch(Boot(KernelDeb(name), None, ""))
    if any(each.startswith(NEED_THE_IMAGE) for each in nodeids):
        subprocess.run(["tools/debian-image"], cwd=CHECKOUT, check=True)
