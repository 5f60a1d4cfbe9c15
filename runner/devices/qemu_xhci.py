"""USB 3 host controller, as QEMU emulates it (1b36:000d), with nothing plugged in.

eXtensible Host Controller Interface 1.2, section 5.2 (PCI configuration registers).  Only
the ``qemu`` engine has it.  QEMU's other one, a NEC uPD720200 (1033:0194), can do without
MSI-X: then it is a function that signals by MSI, as many a card reader does.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.typed import Mapping
from runner.wire.pci import VENDOR_REDHAT

VENDOR, DEVICE = VENDOR_REDHAT, 0x000D
NEC, UPD720200 = 0x1033, 0x0194
CLASS = 0x0C_03_30
VECTORS = 16


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One function with its registers and MSI-X table in BAR 0."""
    pci = PciClaim(
        VENDOR, DEVICE, CLASS, 0x1AF4, 0x1100, revision=1, bars=(BarClaim(0, 0x4000, "mem64"),),
        msix_vectors=VECTORS, intx_pin=1, bus=str(options.get("bus", "")),
    )  # fmt: skip
    if _by_msi(options):
        pci = pci._replace(vendor=NEC, device=UPD720200, revision=3, msix_vectors=0, msi_vectors=VECTORS)
    return Claim(pci=pci)


def qemu(node: Node) -> tuple[str, ...]:
    """``-device qemu-xhci``, or the one whose messages can be chosen."""
    if _by_msi(node.options):
        return ("-device", f"nec-usb-xhci,{place(node)},msi=on,msix=off")
    return ("-device", f"qemu-xhci,{place(node)}")


def _by_msi(options: Mapping[str, Json]) -> bool:
    return options.get("messages") == "msi"
