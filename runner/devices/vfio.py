"""A PCI function of the host, passed to the guest (reference/vfio.md, "Engine side").

What the guest may see and change is decided in :mod:`runner.bus.passed_function`; the host's
function is behind the ``HostFunction`` Protocol.
"""

from __future__ import annotations

from runner.bus.passed_function import PassedFunction
from runner.bus.passed_ports import HostFunction, PassthroughAttachment
from runner.definition.model import Json
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.hostfacts import HostFacts
from runner.lending.match import resolve as match
from runner.typed import Any, Final, Mapping

PAGE: Final = 4096
ROM_BAR: Final = 6
UNSEEN_MSI, UNSEEN_MSIX = 32, 64  # room for vectors that an ordinary user cannot count; 32 are all of MSI's


def resolve(name: str, options: Mapping[str, Json], facts: HostFacts) -> dict[str, Json]:
    """The options with the host's function in them, so that the claim needs nothing else."""
    function = match(name.removeprefix("devices."), options, facts)
    said = function._asdict()
    said["bars"] = [dict(bar._asdict()) for bar in function.bars]
    said["reset_methods"], said["uses"] = list(function.reset_methods), list(function.uses)
    return {**options, "function": said}


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """The function's own ids, BARs and vectors; its group and the container as backends.

    A memory BAR smaller than a page gets a whole one, so that it can be mapped and nothing
    else lies in its page.
    """
    function: Any = options["function"]
    bars = tuple(
        BarClaim(
            bar["bar"],
            bar["size"] if bar["kind"] == "io" else max(bar["size"], PAGE),
            bar["kind"],
            bar["prefetchable"],
        )
        for bar in function["bars"]
    )
    msi, msix = function["msi_vectors"], function["msix_vectors"]
    if not function.get("capabilities_known", True):
        msi, msix = UNSEEN_MSI, UNSEEN_MSIX
    if options.get("rom", True) and function["rom_size"]:
        bars += (BarClaim(ROM_BAR, max(function["rom_size"], PAGE), "mem32"),)
    group = function["iommu_group"]
    return Claim(
        pci=PciClaim(
            vendor=int(function["vendor"], 16),
            device=int(function["device"], 16),
            class_code=int(function["class_code"] or "0", 16),
            subsystem_vendor=int(function["subsystem_vendor"] or "0", 16),
            subsystem_device=int(function["subsystem_device"] or "0", 16),
            revision=int(function["revision"] or "0", 16),
            bars=bars,
            msix_vectors=msix,
            msi_vectors=msi,
            intx_pin=1 if function["intx_pin"] else 0,
            bus=str(options.get("bus", "")),
        ),
        backends=(
            BackendClaim(name, "vfio", {"address": function["address"], "group": group}),
            BackendClaim(f"vfio.group{group}", "vfio_group", {"group": group}),
            BackendClaim("vfio.container", "vfio_container"),
        ),
    )


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's ``vfio-pci`` on the same function."""
    function: Any = node.options["function"]
    rom = "" if node.options.get("rom", True) else ",rombar=0"
    return ("-device", f"vfio-pci,host={function['address']},{place(node)}{rom}")


def build(node: Node, at: PassthroughAttachment) -> PassedFunction:
    """The function, reset and with its interrupts off."""
    wanted = node.claim.pci
    assert wanted is not None, "a passed function has a PCI claim"
    host: HostFunction = at.backend(node.claim.backends[0].name)
    line = at.irq(len(node.claim.irqs) - 1) if wanted.intx_pin and node.claim.irqs else None
    return PassedFunction(node.name, wanted, _sizes(node), host, line, at)


def _sizes(node: Node) -> dict[int, int]:
    """Bytes behind each BAR of the host's function."""
    function: Any = node.options["function"]
    return {ROM_BAR: function["rom_size"], **{bar["bar"]: bar["size"] for bar in function["bars"]}}
