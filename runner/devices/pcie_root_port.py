"""PCI Express root port with QEMU's identity (1b36:000c): one device can sit below it.

PCI Express Base 3.0, section 7.8.  Below a port a device gets a reset of its own (the
secondary bus).
"""

from __future__ import annotations

from runner.bus.msix import Msix, MsixBar
from runner.bus.pci_bridge import RootPort
from runner.definition.model import Json
from runner.devices.ports import Attachment, RegisterDevice
from runner.graph.model import BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.graph.slots import parse
from runner.typed import Mapping
from runner.wire.pci import CLASS_PCI_BRIDGE, ROOT_PORT_DEVICE, VENDOR_REDHAT

VENDOR, DEVICE, CLASS = VENDOR_REDHAT, ROOT_PORT_DEVICE, CLASS_PCI_BRIDGE
TABLE_BAR, PBA = 0, 0x800


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """A bridge with one vector (hot-plug events) and its table in BAR 0."""
    return Claim(
        pci=PciClaim(
            VENDOR, DEVICE, CLASS, VENDOR, 0, bars=(BarClaim(0, 0x1000, "mem32"),),
            msix_vectors=1, intx_pin=1, bridge=True,
        ),
    )  # fmt: skip


class Port:
    """The function, for the engine's bus; the bus below it comes into being when it is plugged in."""

    ranges: tuple[RegisterDevice, ...] = ()

    def __init__(self, function: RootPort) -> None:
        self.function = function


def build(node: Node, at: Attachment) -> Port:
    """The bridge and its vector's table; nothing ever happens that it would signal."""
    pci = node.claim.pci
    assert pci is not None
    msix = Msix(pci.msix_vectors, at.msi())
    function = RootPort(node.name, pci, {TABLE_BAR: MsixBar(msix, PBA)})
    msix.add_capability(function.config, TABLE_BAR, 0, PBA)
    function.on_reset = msix.reset
    return Port(function)


def qemu(node: Node) -> tuple[str, ...]:
    """``-device pcie-root-port``; chassis and slot tell one port from another, so its place decides them."""
    assert node.claim.pci is not None
    assert node.claim.pci.slot is not None
    at = parse(node.claim.pci.slot)
    number = at.device * 8 + at.function
    return ("-device", f"pcie-root-port,{place(node)},chassis={number},slot={number}")
