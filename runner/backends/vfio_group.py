"""An IOMMU group: the smallest thing that can be given away as a whole."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.backends.vfio_container import open_vfio
from runner.graph.model import BackendClaim
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import Graph

CONTAINER = BackendClaim("vfio.container", "vfio_container")


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open ``/dev/vfio/N``; the functions of the group are on vfio-pci by now.

    QEMU opens it itself, and a group that is open already is busy for everybody else.
    """
    if graph.engine.name == "qemu":
        return Opened({})
    path = f"/dev/vfio/{claim.options['group']}"
    fd = open_vfio(path, "vmrun host list shows which functions of the group are not on vfio-pci")
    return Opened({claim.name: fd}, {}, f"IOMMU group {claim.options['group']}", lambda: os.close(fd))


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> int:
    """The group's descriptor, once it is in the machine's container."""
    fd = resources.fds[claim.name]
    machine.backend(CONTAINER).add(fd, f"IOMMU group {claim.options['group']}")
    return fd
