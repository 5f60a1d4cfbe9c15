"""The PCI bus of a live machine: BARs become ranges of the dispatch, doorbells move with them."""

from __future__ import annotations

from runner.bus.dispatch import Dispatch, OverlapError
from runner.bus.pci import Function, PciBus
from runner.bus.pci_access import ConfigPorts, Ecam
from runner.bus.pci_bar import AddressSpace, BarOwner, BarRefused, Window
from runner.errors import HostError
from runner.graph.model import Graph, PciClaim
from runner.graph.x86 import PORT_WINDOW
from runner.typed import TYPE_CHECKING, Any, Callable
from runner.wire import pci

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment

HOST_BRIDGE = PciClaim(pci.VENDOR_REDHAT, pci.HOST_BRIDGE_DEVICE, pci.CLASS_HOST_BRIDGE)
HOST_BRIDGE_SLOT = "00:00.0"


def windows(graph: Graph) -> tuple[Window, ...]:
    """Where BARs may live: the root bridge's _CRS says the same to the guest."""
    kinds = ("mmio32", "mmio64")
    memory = tuple(Window("mem", r.start, r.size) for r in graph.regions if r.kind in kinds)
    return (*memory, Window("io", PORT_WINDOW[0], PORT_WINDOW[1] - PORT_WINDOW[0]))


class BarDispatch:
    """Announced moves of BARs (``BarMapper``): all or nothing."""

    def __init__(
        self, ports: Dispatch, mmio: Dispatch, claim_ports: Callable[[int, int, bool], None]
    ) -> None:
        self._ports, self._mmio, self._claim_ports = ports, mmio, claim_ports
        self.attachments: dict[str, DeviceAttachment] = {}

    def map(self, function: BarOwner, bar: int, old: int | None, new: int | None) -> None:
        """Decode at ``new`` instead of ``old``.  Raises BarRefused with everything as it was."""
        self._remap(function, bar, old, new)
        attachment = self.attachments.get(function.name)
        if attachment is None:
            return
        try:
            attachment.bar_moved(bar, new)
        except (OSError, HostError) as error:
            self._remap(function, bar, new, old)
            attachment.bar_moved(bar, old)
            raise BarRefused(f"BAR {bar} of `{function.name}`: {error}") from error

    def _remap(self, function: BarOwner, bar: int, old: int | None, new: int | None) -> None:
        target = function.bars[bar]
        if target.device is None:  # the engine maps this one's memory itself (VFIO)
            return
        space = self._ports if target.space == "io" else self._mmio
        if old is not None:
            space.remove(old)
        try:
            if new is not None:
                space.add(new, target.size, target.device, f"{function.name} BAR {bar}")
        except OverlapError as error:
            if old is not None:
                space.add(old, target.size, target.device, f"{function.name} BAR {bar}")
            raise BarRefused(str(error)) from error
        if target.space == "io":
            for start, claimed in ((old, False), (new, True)):
                if start is not None:
                    self._claim_ports(start, target.size, claimed)


class PciHost:
    """The root bus with its two ways to configuration space."""

    def __init__(self, graph: Graph, mapper: BarDispatch, report: Callable[[str], None]) -> None:
        self.mapper = mapper
        self.bus = PciBus(AddressSpace(windows(graph), mapper, report))
        self.bus.add(HOST_BRIDGE_SLOT, Function("pci_host", HOST_BRIDGE, {}))
        self.ranges = (ConfigPorts(self.bus), Ecam(self.bus))

    def plug(self, claim: PciClaim, device: Any, attachment: DeviceAttachment) -> None:
        """Put a built device's function into the slot that the graph gave it."""
        assert claim.slot is not None, "the planner gives every function a slot"
        self.mapper.attachments[device.function.name] = attachment
        bus = self.bus.behind(claim.bus) if claim.bus else self.bus
        bus.add(claim.slot, device.function)
