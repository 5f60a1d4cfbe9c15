"""NVMe controller with one namespace, as QEMU emulates it (1b36:0010).

NVM Express 1.4, section 2.1 (PCI header).  Only the ``qemu`` engine has it.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import backend_id, escaped, place
from runner.typed import Mapping
from runner.wire.pci import VENDOR_REDHAT

VENDOR, DEVICE = VENDOR_REDHAT, 0x0010
CLASS = 0x01_08_02
VECTORS = 65  # 64 queues and the administration queue


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One function with its registers and MSI-X table in BAR 0, fed by the image."""
    kind = "scratch" if "blank" in options else "block"
    image = {key: options[key] for key in ("path", "blank", "format") if key in options}
    return Claim(
        pci=PciClaim(
            VENDOR, DEVICE, CLASS, 0x1AF4, 0x1100, revision=2, bars=(BarClaim(0, 0x4000, "mem64"),),
            msix_vectors=VECTORS, intx_pin=1, bus=str(options.get("bus", "")),
        ),
        backends=(BackendClaim(name, kind, image),),
    )  # fmt: skip


def qemu(node: Node) -> tuple[str, ...]:
    """``-device nvme``; the serial number is the table's name unless it is stated."""
    serial = escaped(str(node.options.get("serial", node.name)))
    return ("-device", f"nvme,{place(node)},drive={backend_id(node)},serial={serial}")
