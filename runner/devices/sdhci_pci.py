"""SD host controller with one card, as QEMU emulates it (1b36:0007): INTx only, no reset of its own.

SD Host Controller Simplified Specification 3.00, section 1.3 (PCI class 08/05).  The card
is a backend that the supervisor opens; only the ``qemu`` engine has the controller.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import backend_id, bus_of, device_id, place
from runner.typed import Mapping
from runner.wire.pci import VENDOR_REDHAT

VENDOR, DEVICE = VENDOR_REDHAT, 0x0007
CLASS = 0x08_05_01  # with DMA


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One function with 256 bytes of registers and INTA, fed by the card's image."""
    if "blank" in options:
        card = BackendClaim(name, "scratch", {"blank": options["blank"]})
    else:
        card = BackendClaim(name, "block", {"path": options.get("card"), "format": options.get("format")})
    return Claim(
        pci=PciClaim(
            VENDOR, DEVICE, CLASS, 0x1AF4, 0x1100, bars=(BarClaim(0, 0x100, "mem32"),), intx_pin=1,
            bus=str(options.get("bus", "")),
        ),
        backends=(card,),
    )  # fmt: skip


def qemu(node: Node) -> tuple[str, ...]:
    """The controller, and the card on its bus."""
    card = f"sd-card,bus={bus_of(node)}/{device_id(node)}/sd-bus,drive={backend_id(node)}"
    return ("-device", f"sdhci-pci,{place(node)}", "-device", card)
