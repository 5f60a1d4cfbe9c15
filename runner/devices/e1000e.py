"""Intel 82574L network card, as QEMU emulates it (8086:10d3), with no cable plugged in.

Intel 82574 GbE Controller Family datasheet, chapter 9 (PCIe programming interface).  Only
the ``qemu`` engine has it.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.typed import Mapping

VENDOR, DEVICE = 0x8086, 0x10D3
CLASS = 0x02_00_00
BARS = (
    BarClaim(0, 0x20000, "mem32"),  # registers
    BarClaim(1, 0x20000, "mem32"),  # flash
    BarClaim(2, 0x20, "io"),
    BarClaim(3, 0x4000, "mem32"),  # MSI-X
)


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One function with four BARs, MSI, five MSI-X vectors and INTA."""
    return Claim(
        pci=PciClaim(
            VENDOR, DEVICE, CLASS, VENDOR, 0, bars=BARS, msix_vectors=5, msi_vectors=1, intx_pin=1,
            bus=str(options.get("bus", "")),
        ),
    )  # fmt: skip


def qemu(node: Node) -> tuple[str, ...]:
    """``-device e1000e`` without a ``-netdev``."""
    mac = f",mac={node.options['mac']}" if node.options.get("mac") else ""
    return ("-device", f"e1000e,{place(node)}{mac}")
