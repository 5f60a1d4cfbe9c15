"""One passed-through function in the VM process (``HostFunction``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runner.graph.model import BackendClaim
from runner.host.native._native import lib
from runner.host.vfio import PAGE, VfioDevice, VfioRegion

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources

KINDS = {"msi": lib.VFIO_PCI_MSI_IRQ_INDEX, "msix": lib.VFIO_PCI_MSIX_IRQ_INDEX}
INTX = lib.VFIO_PCI_INTX_IRQ_INDEX
ROM = lib.VFIO_PCI_ROM_REGION_INDEX
CAP_MSIX, CAPABILITIES = 0x11, 0x34


class Area:
    """A stretch of a BAR that the guest reaches without an exit: our mapping and its memory slot."""

    def __init__(self, offset: int, size: int, host_address: int, slot: int) -> None:
        self.offset, self.size, self.host_address, self.slot = offset, size, host_address, slot


class PassedHost:
    """Registers, memory and interrupts of one function."""

    def __init__(self, device: VfioDevice, machine: Machine) -> None:
        self._device, self._machine = device, machine
        self._wire: tuple[int, int, int] | None = None  # trigger, resample, GSI
        self._messages: str | None = None
        self._areas = {region.number: self._map(region) for region in device.regions[:ROM]}
        self._placed: dict[int, int] = {}

    # ---- registers

    def config(self) -> bytes:
        """All of it, as the host lets us see it."""
        region = self._device.config
        data = os.pread(self._device.fd, region.size, region.offset)
        return data.ljust(256, b"\0")

    def read_config(self, offset: int, size: int) -> int:
        """See :class:`runner.devices.ports.HostFunction`."""
        return self._device.read(self._device.config, offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """See :class:`runner.devices.ports.HostFunction`."""
        self._device.write(self._device.config, offset, size, value)

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """See :class:`runner.devices.ports.HostFunction`."""
        return self._device.read(self._device.regions[bar], offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """See :class:`runner.devices.ports.HostFunction`."""
        self._device.write(self._device.regions[bar], offset, size, value)

    # ---- memory

    def _map(self, region: VfioRegion) -> list[Area]:
        areas = []
        for offset, size in _without_msix(region, self._msix_parts()):
            length = -(-size // PAGE) * PAGE
            address = self._device.map_area(region, offset, length)
            areas.append(Area(offset, length, address, self._machine.memory_slot()))
        return areas

    def _msix_parts(self) -> list[tuple[int, int, int]]:
        """(bar, offset, size) of the MSI-X table and the PBA, from the function's capability."""
        config = self.config()
        at, seen = config[CAPABILITIES] & 0xFC, set[int]()
        while at >= 0x40 and at not in seen:
            seen.add(at)
            if config[at] == CAP_MSIX:
                count = (int.from_bytes(config[at + 2 : at + 4], "little") & 0x7FF) + 1
                table, pba = (int.from_bytes(config[at + o : at + o + 4], "little") for o in (4, 8))
                return [(table & 7, table & ~7, 16 * count), (pba & 7, pba & ~7, (count + 63) // 64 * 8)]
            at = config[at + 1] & 0xFC
        return []

    def place_bar(self, bar: int, start: int | None) -> None:
        """Move the mapped areas: delete the slots, set them anew; on failure the old ones return."""
        old = self._placed.pop(bar, None)
        areas = self._areas.get(bar, [])
        if old is not None:
            self._set(areas, old, present=False)
        if start is None:
            return
        try:
            self._set(areas, start, present=True)
        except Exception:
            self._set(areas, start, present=False)
            if old is not None:
                self._set(areas, old, present=True)
                self._placed[bar] = old
            raise
        self._placed[bar] = start

    def _set(self, areas: list[Area], start: int, *, present: bool) -> None:
        for area in areas:
            size = area.size if present else 0
            self._machine.vm.set_memory(area.slot, start + area.offset, size, area.host_address)

    # ---- interrupts

    def use_wire(self, line: Any) -> None:
        """INTx by irqfd with a resample eventfd, whose signal unmasks it at VFIO (vfio.md, engine 8)."""
        vm = self._machine.vm
        if self._wire is not None:
            self._device.disable(INTX)
            trigger, resample, gsi = self._wire
            vm.irqfd(trigger, gsi, remove=True)
            os.close(trigger)
            os.close(resample)
            self._wire = None
        if line is None or not self._device.vectors(INTX):
            return
        trigger, resample = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        vm.irqfd(trigger, line.gsi, resample=resample)
        self._wire = (trigger, resample, line.gsi)
        self._device.set_triggers(INTX, [trigger])
        self._device.set_unmask(INTX, resample)

    def use_messages(self, kind: str, sink: Any, count: int) -> None:
        """Join ``count`` vectors to the sink's eventfds, from which KVM takes them."""
        index = KINDS[kind]
        if count == 0:
            if self._messages == kind:
                self._device.disable(index)
                self._messages = None
            return
        count = min(count, self._device.vectors(index))
        if self._messages is not None:
            self._device.disable(KINDS[self._messages])
        self._device.set_triggers(index, [sink.eventfd(vector) for vector in range(count)])
        self._messages = kind

    def reset(self) -> None:
        """See :class:`runner.devices.ports.HostFunction`."""
        self._device.reset()

    def close(self) -> None:
        """Interrupts off, mappings gone, the function reset: what the next owner finds is clean."""
        self.use_wire(None)
        if self._messages is not None:
            self._device.disable(KINDS[self._messages])
        for bar in list(self._placed):
            self.place_bar(bar, None)
        self._device.reset()
        self._device.close()


def _without_msix(region: VfioRegion, parts: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The mappable areas less the pages of the MSI-X table and PBA, which are always trapped."""
    areas = list(region.areas)
    for bar, offset, size in parts:
        if bar != region.number:
            continue
        first, last = offset // PAGE * PAGE, -(-(offset + size) // PAGE) * PAGE
        areas = [piece for area in areas for piece in _cut(area, first, last)]
    return [(offset, size) for offset, size in areas if size > 0]


def _cut(area: tuple[int, int], first: int, last: int) -> list[tuple[int, int]]:
    start, end = area[0], area[0] + area[1]
    if last <= start or end <= first:
        return [area]
    return [(start, max(first - start, 0)), (last, max(end - last, 0))]


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> PassedHost:
    """Open the function through its group."""
    number = claim.options["group"]
    group = machine.backend(BackendClaim(f"vfio.group{number}", "vfio_group", {"group": number}))
    return PassedHost(VfioDevice(group, str(claim.options["address"])), machine)
