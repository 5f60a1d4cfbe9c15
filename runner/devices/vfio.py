"""A PCI function of the host, passed to the guest (reference/vfio.md, "Engine side").

What the guest may see and change is decided here and in :mod:`runner.bus.passed_config`; the host's
function is behind the ``HostFunction`` Protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from runner.bus.msix import Msix
from runner.bus.passed_config import PassedConfig
from runner.bus.pci import Function
from runner.definition.model import Json
from runner.devices.ports import Effect, HostFunction, IrqLine, PassthroughAttachment, RegisterDevice
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.host.facts import HostFacts
from runner.host.passthrough.match import resolve as match
from runner.wire import pci

PAGE: Final = 4096
ROM_BAR: Final = 6
MSI_ENABLE: Final = 1
MSI_64, MSI_MASKS = 1 << 7, 1 << 8


class Part(NamedTuple):
    """A stretch of a BAR that is ours: the MSI-X table or its pending bits."""

    bar: int
    offset: int
    size: int


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
            msix_vectors=function["msix_vectors"],
            msi_vectors=function["msi_vectors"],
            intx_pin=1 if function["intx_pin"] else 0,
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
    host: HostFunction = at.backend(node.claim.backends[0].name)
    return PassedFunction(node, at, host)


class PassedFunction:
    """The guest's view of a host function; ``function`` is what the engine plugs into its bus."""

    ranges: tuple[RegisterDevice, ...] = ()

    def __init__(self, node: Node, at: PassthroughAttachment, host: HostFunction) -> None:
        wanted = node.claim.pci
        assert wanted is not None, "a passed function has a PCI claim"
        self._host, self._sink = host, at.msi() if wanted.msix_vectors or wanted.msi_vectors else None
        self._wire: IrqLine | None = (
            at.irq(len(node.claim.irqs) - 1) if wanted.intx_pin and node.claim.irqs else None
        )
        self._wired = False
        self._msi: int | None = None  # the capability's offset
        self._msi_live = 0  # vectors in use
        host.reset()
        self.config = PassedConfig(host)
        self._sizes = {bar["bar"]: bar["size"] for bar in _bars(node)}
        self.msix: Msix | None = None
        self._table = self._pba = Part(-1, 0, 0)
        parts = {bar.bar: PassedBar(self, bar.bar) for bar in wanted.bars}
        self.function = Function(node.name, wanted, parts, on_reset=self._bus_reset, config=self.config)
        self.config.follow_command()
        self._take_over_msix(wanted)
        self._take_over_msi()
        at.follow_bars(host.place_bar)
        self._choose_wire()

    def _bus_reset(self) -> None:
        if self.msix is not None:
            self.msix.reset()
        if self._sink is not None:
            self._host.use_messages("msix", self._sink, 0)
            self._host.use_messages("msi", self._sink, 0)
        self._host.reset()
        self._choose_wire()

    # ---- INTx: on while neither kind of message is (PCI 3.0 §6.8.2.3)

    def _choose_wire(self) -> None:
        messages = (self.msix is not None and self.msix.enabled) or self._msi_enabled()
        wanted = self._wire is not None and not messages
        if wanted != self._wired:
            self._wired = wanted
            self._host.use_wire(self._wire if wanted else None)

    # ---- MSI-X: the capability is ours, the table is trapped

    def _take_over_msix(self, wanted: PciClaim) -> None:
        at = self.config.find(pci.CAP_MSIX)
        if at is None or not wanted.msix_vectors or self._sink is None:
            return
        host = self._host
        table, pba = host.read_config(at + 4, 4), host.read_config(at + 8, 4)
        count = (host.read_config(at + pci.MSIX_CONTROL, 2) & 0x7FF) + 1
        self.msix = Msix(count, self._sink)
        self._table = Part(table & 7, table & ~7, count * pci.MSIX_ENTRY_SIZE)
        self._pba = Part(pba & 7, pba & ~7, (count + 63) // 64 * 8)
        self.config.own(at, 12)
        flags = pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK
        self.config.put(at + pci.MSIX_CONTROL, 2, count - 1, writable=flags)
        self.config.put(at + 4, 4, table)
        self.config.put(at + 8, 4, pba)
        self.config.watch(at + pci.MSIX_CONTROL, 2, lambda _o, _old: self._msix_control(at))

    def _msix_control(self, at: int) -> None:
        """Vectors are in place at VFIO before the table is told that they may fire (vfio.md, engine 7)."""
        assert self.msix is not None
        assert self._sink is not None
        value = self.config.get(at + pci.MSIX_CONTROL, 2)
        enable = bool(value & pci.MSIX_ENABLE)
        if enable and not self.msix.enabled:
            self._drop_wire()
            self._host.use_messages("msix", self._sink, self.msix.vectors)
        was = self.msix.enabled
        self.msix.control(value)
        if was and not enable:
            self._host.use_messages("msix", self._sink, 0)
        self._choose_wire()

    def _drop_wire(self) -> None:
        if self._wired:
            self._wired = False
            self._host.use_wire(None)

    # ---- MSI: the capability is ours (PCI 3.0 §6.8.1)

    def _take_over_msi(self) -> None:
        self._msi = at = self.config.find(pci.CAP_MSI)
        if at is None or self._sink is None:
            self._msi = None
            return
        control = self._host.read_config(at + 2, 2)
        self._msi_wide, self._msi_masks = bool(control & MSI_64), bool(control & MSI_MASKS)
        self.config.own(at, 10 + 4 * self._msi_wide + 10 * self._msi_masks)
        self.config.put(at + 2, 2, control & ~0x71, writable=0x71)  # multiple message enable, enable
        self.config.put(at + 4, 4, 0, writable=0xFFFFFFFC)
        data = at + 8
        if self._msi_wide:
            self.config.put(at + 8, 4, 0, writable=0xFFFFFFFF)
            data = at + 12
        self.config.put(data, 2, 0, writable=0xFFFF)
        if self._msi_masks:
            self.config.put(data + 4, 4, 0, writable=0xFFFFFFFF)
        self._msi_data = data
        self.config.watch(at + 2, data + 8 - at - 2, lambda _o, _old: self._msi_written())

    def _msi_enabled(self) -> bool:
        return self._msi_live > 0

    def _msi_written(self) -> None:
        assert self._msi is not None
        assert self._sink is not None
        control = self.config.get(self._msi + 2, 2)
        allowed = 1 << (control >> 1 & 7)
        count = min(1 << (control >> 4 & 7), allowed) if control & MSI_ENABLE else 0
        if count:
            self._announce_msi(count)
        if count != self._msi_live:
            if count:
                self._drop_wire()
            self._msi_live = count
            self._host.use_messages("msi", self._sink, count)
        self._choose_wire()

    def _announce_msi(self, count: int) -> None:
        """Vector n's data is the base with its low bits replaced by n (§6.8.1.6)."""
        assert self._msi is not None
        assert self._sink is not None
        address = self.config.get(self._msi + 4, 4)
        if self._msi_wide:
            address |= self.config.get(self._msi + 8, 4) << 32
        base = self.config.get(self._msi_data, 2) & ~(count - 1)
        masks = self.config.get(self._msi_data + 4, 4) if self._msi_masks else 0
        for vector in range(count):
            self._sink.configure(vector, address, base | vector, bool(masks >> vector & 1))

    # ---- BARs: what is not mapped comes here

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """The MSI-X parts are ours; everything else is the host's."""
        if self.msix is not None and _in(self._table, bar, offset):
            return self.msix.read_table(offset - self._table.offset, size)
        if self.msix is not None and _in(self._pba, bar, offset):
            return self.msix.read_pba(offset - self._pba.offset, size)
        if offset + size > self._sizes.get(bar, PAGE):
            return (1 << 8 * size) - 1  # the page that a small BAR was rounded up to
        return self._host.read_bar(bar, offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """As :meth:`read_bar`; the real MSI-X table is never written by a guest."""
        if self.msix is not None and _in(self._table, bar, offset):
            self.msix.write_table(offset - self._table.offset, size, value)
        elif self.msix is not None and _in(self._pba, bar, offset):
            return
        elif offset + size <= self._sizes.get(bar, PAGE):
            self._host.write_bar(bar, offset, size, value)


class PassedBar:
    """Accesses to one BAR that the host's memory does not answer itself (``RegisterDevice``)."""

    def __init__(self, function: PassedFunction, bar: int) -> None:
        self._function, self._bar = function, bar

    def read(self, offset: int, size: int) -> int:
        """Offset in the BAR."""
        return self._function.read_bar(self._bar, offset, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Offset in the BAR."""
        self._function.write_bar(self._bar, offset, size, value)
        return None


def _in(part: Part, bar: int, offset: int) -> bool:
    return part.bar == bar and part.offset <= offset < part.offset + part.size


def _bars(node: Node) -> list[Any]:
    function: Any = node.options["function"]
    rom = [{"bar": ROM_BAR, "size": function["rom_size"]}] if function["rom_size"] else []
    return [*function["bars"], *rom]
