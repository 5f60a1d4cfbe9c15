"""PCI host bridge: configuration ports 0xcf8-0xcff and the ECAM window.

Only what it claims is said here; how configuration space behaves is :mod:`runner.bus`'s.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import Claim, Node, PortClaim, Region
from runner.typed import Mapping

CONFIG_PORT = 0xCF8  # PCI 3.0, section 3.2.2.3.2
ECAM_BASE = 0xE000_0000
ECAM_SIZE = 256 << 20  # 256 buses of 1 MiB (PCI Express 5.0, section 7.2.2)


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Address and data ports, and memory-mapped configuration of all 256 buses."""
    return Claim(
        ports=(PortClaim(8, CONFIG_PORT, "pci configuration"),),
        regions=(Region(ECAM_BASE, ECAM_SIZE, "ecam", name),),
    )


def qemu(node: Node) -> tuple[str, ...]:
    """The machine type q35 is built round its own."""
    return ()
