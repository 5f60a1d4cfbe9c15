"""One passed-through function in the VM process (``HostFunction``)."""

from __future__ import annotations

import os

from runner.bus.passed_config import capabilities
from runner.bus.passed_interrupts import MSIX_SIZE, Part, msix_parts
from runner.engine.protocol import BROKEN, WANTED_BACK
from runner.errors import HostError
from runner.graph.model import BackendClaim
from runner.host.vfio import ERR, INTX, MSI, MSIX, PAGE, REQ, ROM, VfioDevice, VfioRegion
from runner.light import suppress
from runner.typed import TYPE_CHECKING, Any, Mapping
from runner.wire import pci

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources

ENDS = {REQ: WANTED_BACK, ERR: BROKEN}
"""What the host tells of a function while a guest has it; either ends the run (linux/vfio.h)."""

KINDS = {"msi": MSI, "msix": MSIX}


class Area:
    """A stretch of a BAR that the guest reaches without an exit: our mapping and its memory slot."""

    def __init__(self, offset: int, size: int, host_address: int, slot: int) -> None:
        self.offset, self.size, self.host_address, self.slot = offset, size, host_address, slot


class PassedHost:
    """Registers, memory and interrupts of one function."""

    def __init__(self, device: VfioDevice, machine: Machine, groups: Mapping[int, int]) -> None:
        self._device, self._machine, self._groups = device, machine, groups
        self._wire: tuple[int, int, int] | None = None  # trigger, resample, GSI
        self._messages: str | None = None
        self._areas = {region.number: self._map(region) for region in device.regions[:ROM]}
        self._placed: dict[int, int] = {}
        self._notices = [self._await(index, words) for index, words in ENDS.items() if device.vectors(index)]

    def _await(self, index: int, words: str) -> tuple[int, int]:
        """End the run when the host says so: until then it waits for us, and its operator with it."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._device.set_triggers(index, [fd])
        detail = words.format(address=self._device.address)

        def lost() -> None:
            from runner.engine.kvm.vcpu import Ended

            os.eventfd_read(fd)
            self._machine.on_end(Ended("device-lost", None, detail), None)

        self._machine.loop.add_reader(fd, lost)
        return index, fd

    def _stop_waiting(self) -> None:
        for index, fd in self._notices:
            self._machine.loop.remove_reader(fd)
            self._device.disable(index)
            os.close(fd)
        self._notices.clear()

    # ---- registers

    def config(self) -> bytes:
        """All of it, as the host lets us see it."""
        region = self._device.config
        data = os.pread(self._device.fd, region.size, region.offset)
        return data.ljust(pci.CONFIG_SIZE, b"\0")

    def read_config(self, offset: int, size: int) -> int:
        """See :class:`runner.bus.passed_ports.HostFunction`."""
        return self._device.read(self._device.config, offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """See :class:`runner.bus.passed_ports.HostFunction`."""
        self._device.write(self._device.config, offset, size, value)

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """See :class:`runner.bus.passed_ports.HostFunction`."""
        return self._device.read(self._device.regions[bar], offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """See :class:`runner.bus.passed_ports.HostFunction`."""
        self._device.write(self._device.regions[bar], offset, size, value)

    # ---- memory

    def _map(self, region: VfioRegion) -> list[Area]:
        areas = []
        for offset, size in without_msix(region, self._msix_parts()):
            length = -(-size // PAGE) * PAGE
            address = self._device.map_area(region, offset, length)
            areas.append(Area(offset, length, address, self._machine.memory_slot()))
        return areas

    def _msix_parts(self) -> tuple[Part, ...]:
        """The MSI-X table and the PBA, from the function's capability."""
        config = self.config()
        for identifier, at in capabilities(config):
            if identifier == pci.CAP_MSIX and at + MSIX_SIZE <= pci.CONFIG_SIZE:
                return msix_parts(config, at)[:2]
        return ()

    def place_bar(self, bar: int, start: int | None) -> None:
        """Move the mapped areas: delete the slots, set them anew; on failure the old ones return."""
        old = self._placed.pop(bar, None)
        areas = self._areas.get(bar, [])
        if old is not None:
            self._take_away(areas, old)
        if start is None:
            return
        done: list[Area] = []
        try:
            for area in areas:
                self._set(area, start, area.size)
                done.append(area)
        except HostError:
            self._take_away(done, start)
            if old is not None:
                for area in areas:
                    self._set(area, old, area.size)
                self._placed[bar] = old
            raise
        self._placed[bar] = start

    def _take_away(self, areas: list[Area], start: int) -> None:
        for area in areas:
            self._set(area, start, 0)

    def _set(self, area: Area, start: int, size: int) -> None:
        self._machine.vm.set_memory(area.slot, start + area.offset, size, area.host_address)

    # ---- interrupts

    def has_wire(self) -> bool:
        """VFIO shows a pin to be absent where the host has no interrupt for it (vfio_pci_get_irq_count)."""
        return self._device.vectors(INTX) > 0

    def use_wire(self, line: Any) -> None:
        """INTx by irqfd with a resample eventfd, whose signal unmasks it at VFIO (vfio.md, engine 8)."""
        self._drop_wire()
        if line is not None:
            self._join_wire(line.gsi)

    def _join_wire(self, gsi: int) -> None:
        trigger, resample = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        try:
            self._machine.vm.irqfd(trigger, gsi, resample=resample)
        except HostError:
            os.close(trigger)
            os.close(resample)
            raise
        self._wire = (trigger, resample, gsi)
        try:
            self._device.set_triggers(INTX, [trigger])
            self._device.set_unmask(INTX, resample)
        except HostError:
            self._drop_wire()
            raise

    def _drop_wire(self) -> None:
        if self._wire is None:
            return
        trigger, resample, gsi = self._wire
        self._wire = None
        self._device.disable(INTX)
        self._machine.vm.irqfd(trigger, gsi, remove=True)
        os.close(trigger)
        os.close(resample)

    def use_messages(self, kind: str, sink: Any, count: int) -> None:
        """Join ``count`` vectors to the sink's eventfds, from which KVM takes them.

        A host that has fewer left gives those (drivers/vfio/pci/vfio_pci_intrs.c); the others are
        silent, and the log says so.
        """
        index = KINDS[kind]
        if count == 0:
            if self._messages == kind:
                self._device.disable(index)
                self._messages = None
            return
        count = min(count, self._device.vectors(index))
        if self._messages is not None:
            self._device.disable(KINDS[self._messages])
            self._messages = None
        given = self._device.set_triggers(index, [sink.eventfd(vector) for vector in range(count)])
        self._messages = kind
        if given < count:
            event = f"the host has {given} interrupt vectors left for {self._device.address}, not {count}"
            self._machine.log("warning", event)

    def reset(self) -> None:
        """By its own reset, or its bus's where the machine has all of that; one that fails is no secret.
        (Where there is none the definition has allowed it.)
        """
        done = self._device.reset() or self._device.bus_reset(self._groups)
        if not done and self._device.resets(self._groups):
            event = f"{self._device.address} could not be reset: what was done to it before is in it still"
            self._machine.log("warning", event)

    def close(self) -> None:
        """Interrupts off, DMA off, slots and mappings gone, the function reset: what the next owner
        finds is clean (vfio.md, engine 11).  Whatever fails of it, the kernel does at the process's end.
        """
        self._stop_waiting()
        with suppress(HostError):
            self._drop_wire()
        if self._messages is not None:
            self._device.disable(KINDS[self._messages])
        self.write_config(pci.COMMAND, 2, 0)
        for bar in list(self._placed):
            with suppress(HostError):
                self.place_bar(bar, None)
        for areas in self._areas.values():
            for area in areas:
                self._device.unmap_area(area.host_address, area.size)
        self.reset()
        self._device.close()


def without_msix(region: VfioRegion, parts: tuple[Part, ...]) -> list[tuple[int, int]]:
    """The mappable areas less the pages of the MSI-X table and PBA, which are always trapped.

    A region that may not be written is trapped as a whole, so that a write is lost as it should be.
    """
    areas = list(region.areas) if region.writable else []
    for part in parts:
        if part.bar != region.number:
            continue
        first, last = part.offset // PAGE * PAGE, -(-(part.offset + part.size) // PAGE) * PAGE
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
    device = VfioDevice(group, str(claim.options["address"]))
    prefix = "vfio.group"
    groups = {int(name[len(prefix) :]): fd for name, fd in resources.fds.items() if name.startswith(prefix)}
    if not device.resets(groups) and not _may_lack_reset(claim, machine):
        raise HostError(
            f"VFIO: {device.address} cannot be reset after all, so what the host left in it is there still",
            hint=f"[{claim.name}] allow_no_reset = true allows it",
        )
    return PassedHost(device, machine, groups)


def _may_lack_reset(claim: BackendClaim, machine: Machine) -> bool:
    """What the definition says; preflight has asked sysfs, which knows less than the driver."""
    nodes = (node for node in machine.graph.nodes if claim.name in [one.name for one in node.claim.backends])
    return any(node.options.get("allow_no_reset") is True for node in nodes)
