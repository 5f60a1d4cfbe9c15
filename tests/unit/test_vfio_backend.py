"""The live side of a passed-through function: slots, irqfds and VFIO's calls, in order and undone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from runner.backends.vfio import INTX, KINDS, PassedHost, without_msix
from runner.bus.passed_interrupts import Part
from runner.engine.kvm.interrupts import FunctionMessages, Messages
from runner.engine.kvm.vcpu import Ended
from runner.errors import HostError
from runner.host.native._native import lib
from runner.host.vfio import VfioDevice, VfioRegion
from tests.unit.passed_host import config_space, msix

RW = lib.VFIO_REGION_INFO_FLAG_READ | lib.VFIO_REGION_INFO_FLAG_WRITE
RO = lib.VFIO_REGION_INFO_FLAG_READ
REQUEST, ERROR = lib.VFIO_PCI_REQ_IRQ_INDEX, lib.VFIO_PCI_ERR_IRQ_INDEX


class FakeVm:
    """KVM's part: slots as the kernel keeps them (deleting one that is not there is EINVAL), irqfds."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, int]] = {}
        self.irqfds: dict[int, tuple[int, int | None]] = {}
        self.routes: dict[int, tuple[int, int]] = {}
        self.full_after: int | None = None
        self.refuses_irqfd = False

    def set_memory(self, slot: int, address: int, size: int, host_address: int) -> None:
        if size == 0:
            if slot not in self.slots:
                raise HostError("Invalid argument")
            del self.slots[slot]
            return
        if self.full_after is not None and len(self.slots) >= self.full_after:
            raise HostError("No space left on device")
        self.slots[slot] = (address, size)

    def irqfd(self, fd: int, gsi: int, *, resample: int | None = None, remove: bool = False) -> None:
        if remove:
            assert self.irqfds.pop(fd)[0] == gsi
            return
        if self.refuses_irqfd:
            raise HostError("KVM_IRQFD failed")
        self.irqfds[fd] = (gsi, resample)

    def set_routes(self, routes: Any) -> None:
        rows = {route.gsi: (route.address, route.data) for route in routes}
        if any(address >> 32 for address, _ in rows.values()):
            raise HostError("Invalid argument")  # KVM with 32-bit APIC ids
        self.routes = rows


class FakeDevice:
    """VFIO's part."""

    address = "0000:01:00.0"

    def __init__(self, *regions: VfioRegion, vectors: int = 8, notices: bool = False) -> None:
        space = bytes(config_space(msix(4, 0x2000, 0x3000)))
        self.fd = os.memfd_create("config")
        os.write(self.fd, space)
        self.regions = regions
        self.config = VfioRegion(7, len(space), 0, RW)
        self.vectors_left = vectors
        self.diary: list[Any] = []
        self.refuses_unmask, self.can_reset = False, True
        self.wires = 1
        self.resets_bus = self.is_reset_possible = True
        self.notices = dict.fromkeys((REQUEST, ERROR), -1) if notices else {}

    def map_area(self, region: VfioRegion, offset: int, size: int) -> int:
        return 0x7F0000000000 + (region.number << 32) + offset

    def unmap_area(self, address: int, size: int) -> None:
        self.diary.append(("unmap", address & 0xFFFFFFFF, size))

    def vectors(self, index: int) -> int:
        if index in (REQUEST, ERROR):
            return int(index in self.notices)
        return self.wires if index == INTX else 8

    def set_triggers(self, index: int, fds: list[int]) -> int:
        if index in self.notices:
            (self.notices[index],) = fds
            return 1
        self.diary.append(("on", index, len(fds)))
        return min(len(fds), self.vectors_left)

    def set_unmask(self, index: int, fd: int) -> None:
        if self.refuses_unmask:
            raise HostError("no unmask")
        self.diary.append(("unmask", fd))

    def disable(self, index: int) -> None:
        self.diary.append(("off", index))

    def write(self, region: VfioRegion, offset: int, size: int, value: int) -> None:
        self.diary.append(("config", offset, size, value))

    def reset(self) -> bool:
        self.diary.append("reset")
        return self.can_reset

    def bus_reset(self, groups: Mapping[int, int]) -> bool:
        self.diary.append(("bus reset", dict(groups)))
        return self.resets_bus

    def resets(self, groups: Mapping[int, int]) -> bool:
        return self.is_reset_possible

    def close(self) -> None:
        self.diary.append("close")
        os.close(self.fd)


class FakeLoop:
    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd)


class FakeMachine:
    def __init__(self) -> None:
        self.vm, self.loop = FakeVm(), FakeLoop()
        self.lines: list[str] = []
        self.ends: list[Ended] = []
        self._slots = 10

    def on_end(self, ended: Ended, vcpu: int | None) -> None:
        self.ends.append(ended)

    def memory_slot(self) -> int:
        self._slots += 1
        return self._slots

    def log(self, level: str, event: str) -> None:
        self.lines.append(event)


class Line:
    gsi = 17


def passed(*regions: VfioRegion, **more: Any) -> tuple[PassedHost, FakeDevice, FakeMachine]:
    device: Any = FakeDevice(*regions, **more)
    machine: Any = FakeMachine()
    return PassedHost(device, machine, {}), device, machine


def region(number: int, size: int, *areas: tuple[int, int], flags: int = RW) -> VfioRegion:
    return VfioRegion(number, size, number << 40, flags, areas)


# ---- memory


def test_pages_of_the_msix_parts_are_cut_out() -> None:
    """Table at 0x2000 and PBA at 0x3000 of BAR 0: nothing of their pages is mapped."""
    _, _, machine = parts = passed(region(0, 0x8000, (0, 0x8000)), region(2, 0x1000, (0, 0x1000)))
    host = parts[0]
    host.place_bar(0, 0xC0000000)
    host.place_bar(2, 0xC0010000)
    assert sorted(machine.vm.slots.values()) == [
        (0xC0000000, 0x2000), (0xC0004000, 0x4000), (0xC0010000, 0x1000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("area", "part", "left"),
    [
        ((0, 0x4000), Part(0, 0, 16), [(0x1000, 0x3000)]),
        ((0, 0x4000), Part(0, 0x3800, 16), [(0, 0x3000)]),
        ((0, 0x4000), Part(0, 0xFF0, 0x20), [(0x2000, 0x2000)]),
        ((0x1000, 0x1000), Part(0, 0x1000, 16), []),
        ((0x2000, 0x1000), Part(0, 0x1000, 0x1000), [(0x2000, 0x1000)]),
        ((0, 0x4000), Part(1, 0, 16), [(0, 0x4000)]),
    ],
)
def test_cuts(area: tuple[int, int], part: Part, left: list[tuple[int, int]]) -> None:
    assert without_msix(region(0, 0x4000, area), (part,)) == left


def test_small_bar_is_mapped_as_a_page() -> None:
    host, _, machine = passed(region(1, 256, (0, 256)))
    host.place_bar(1, 0xC0000000)
    assert list(machine.vm.slots.values()) == [(0xC0000000, 0x1000)]


def test_read_only_region_is_trapped() -> None:
    """A guest's write to a mapping without PROT_WRITE would end KVM_RUN with EFAULT."""
    host, _, machine = passed(region(1, 0x1000, (0, 0x1000), flags=RO))
    host.place_bar(1, 0xC0000000)
    assert machine.vm.slots == {}


def test_bar_moves_with_its_areas() -> None:
    host, _, machine = passed(region(0, 0x8000, (0, 0x8000)))
    host.place_bar(0, 0xC0000000)
    host.place_bar(0, 0x1_0000_0000)
    assert sorted(machine.vm.slots.values()) == [(0x1_0000_0000, 0x2000), (0x1_0000_4000, 0x4000)]
    host.place_bar(0, None)
    host.place_bar(0, None)
    assert machine.vm.slots == {}


@pytest.mark.parametrize("room", [0, 1])
def test_move_that_fails_leaves_everything_as_it_was(room: int) -> None:
    """KVM refuses the first or the second slot: the old ones are there again (vfio.md, engine 9)."""
    host, _, machine = passed(region(0, 0x8000, (0, 0x8000)))
    host.place_bar(0, 0xC0000000)
    before = dict(machine.vm.slots)
    vm: Any = machine.vm
    real = vm.set_memory

    def failing(slot: int, address: int, size: int, host_address: int) -> None:
        if size and address >= 1 << 32 and len(vm.slots) >= room:
            raise HostError("No space left on device")
        real(slot, address, size, host_address)

    vm.set_memory = failing
    with pytest.raises(HostError):
        host.place_bar(0, 1 << 32)
    assert machine.vm.slots == before
    host.place_bar(0, None)
    assert machine.vm.slots == {}


def test_first_placing_that_fails_leaves_nothing() -> None:
    host, _, machine = passed(region(0, 0x8000, (0, 0x8000)))
    machine.vm.full_after = 1
    with pytest.raises(HostError):
        host.place_bar(0, 0xC0000000)
    assert machine.vm.slots == {}


# ---- the wire


def test_wire_is_level_triggered_with_its_unmask_at_the_eoi() -> None:
    """irqfd with a resample eventfd before VFIO may signal; VFIO unmasks by that same eventfd."""
    host, device, machine = passed()
    line: Any = Line()
    host.use_wire(line)
    ((trigger, (gsi, resample)),) = machine.vm.irqfds.items()
    assert gsi == 17
    assert resample is not None
    assert device.diary == [("on", INTX, 1), ("unmask", resample)]
    host.use_wire(None)
    assert device.diary[-1] == ("off", INTX)
    assert machine.vm.irqfds == {}
    for fd in (trigger, resample):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


@pytest.mark.parametrize("who", ["kvm", "vfio"])
def test_wire_that_cannot_be_joined_leaves_nothing(who: str) -> None:
    """No descriptor and no irqfd stays behind."""
    host, device, machine = passed()
    machine.vm.refuses_irqfd, device.refuses_unmask = who == "kvm", who == "vfio"
    before = len(os.listdir("/proc/self/fd"))
    line: Any = Line()
    with pytest.raises(HostError):
        host.use_wire(line)
    assert machine.vm.irqfds == {}
    assert len(os.listdir("/proc/self/fd")) == before
    host.use_wire(None)


# ---- messages


def function_messages(count: int = 4) -> tuple[FunctionMessages, FakeVm]:
    vm: Any = FakeVm()
    return FunctionMessages(vm, Messages(vm), count), vm


def test_one_kind_of_message_at_a_time() -> None:
    host, device, _ = passed()
    sink, _ = function_messages(8)
    host.use_messages("msi", sink, 1)
    host.use_messages("msix", sink, 4)
    host.use_messages("msi", sink, 0)  # not the one that is on
    host.use_messages("msix", sink, 0)
    assert device.diary == [
        ("on", KINDS["msi"], 1), ("off", KINDS["msi"]), ("on", KINDS["msix"], 4), ("off", KINDS["msix"]),
    ]  # fmt: skip


def test_host_with_few_vectors_gives_those() -> None:
    """And the log says how many."""
    host, _, machine = passed(vectors=3)
    sink, _ = function_messages(8)
    host.use_messages("msix", sink, 8)
    assert machine.lines == ["the host has 3 interrupt vectors left for 0000:01:00.0, not 8"]


def test_vector_is_joined_while_unmasked_and_owes_while_masked() -> None:
    """A signal meets the irqfd or waits in the eventfd, where it can be seen."""
    sink, vm = function_messages()
    sink.configure(1, 0xFEE00000, 0x41, False)
    ((fd, (gsi, _)),) = vm.irqfds.items()
    assert fd == sink.eventfd(1)
    assert vm.routes == {gsi: (0xFEE00000, 0x41)}
    sink.configure(1, 0xFEE00000, 0x41, True)
    assert vm.irqfds == {}
    assert not sink.pending(1)
    os.eventfd_write(fd, 1)
    assert sink.pending(1)
    assert not sink.pending(0)
    sink.forget()
    assert not sink.pending(1)


def test_route_is_set_before_the_irqfd() -> None:
    sink, vm = function_messages()
    seen: list[int] = []
    real = vm.irqfd

    def irqfd(fd: int, gsi: int, **more: Any) -> None:
        seen.append(len(vm.routes))
        real(fd, gsi, **more)

    anything: Any = vm
    anything.irqfd = irqfd
    sink.configure(0, 0xFEE00000, 0x41, False)
    assert seen == [1]


def test_message_that_kvm_cannot_route_reaches_nobody() -> None:
    """A guest may write any address: the vector is as if masked, the old route stays, no exception."""
    sink, vm = function_messages()
    sink.configure(0, 0xFEE00000, 0x41, False)
    sink.configure(0, 0xFF_FEE00000, 0x41, False)
    assert vm.irqfds == {}
    sink.configure(1, 0xFEE00000, 0x42, False)
    assert sorted(vm.routes.values()) == [(0xFEE00000, 0x41), (0xFEE00000, 0x42)]
    sink.configure(0, 0xFEE00000, 0x43, False)
    assert len(vm.irqfds) == 2


@pytest.mark.parametrize("wires", [0, 1])
def test_wire_is_there_where_vfio_counts_one(wires: int) -> None:
    """The kernel tells none where the host has no interrupt for the pin."""
    host, device, _ = passed()
    device.wires = wires
    assert host.has_wire() == bool(wires)


# ---- resets


def test_function_without_a_reset_of_its_own_has_its_buss() -> None:
    """A graphics card and its sound, say: neither can be reset alone, both together can."""
    device: Any = FakeDevice()
    machine: Any = FakeMachine()
    host = PassedHost(device, machine, {7: 61})
    host.reset()
    device.can_reset = False
    host.reset()
    assert device.diary == ["reset", "reset", ("bus reset", {7: 61})]


@pytest.mark.parametrize(("possible", "lines"), [
    (True, ["0000:01:00.0 could not be reset: what was done to it before is in it still"]), (False, []),
])  # fmt: skip
def test_reset_that_fails_is_told(possible: bool, lines: list[str]) -> None:
    """One that there is not at all has been allowed by the definition."""
    device: Any = FakeDevice()
    machine: Any = FakeMachine()
    device.can_reset = device.resets_bus = False
    device.is_reset_possible = possible
    PassedHost(device, machine, {}).reset()
    assert machine.lines == lines


# ---- the end


@pytest.mark.parametrize(
    ("index", "words"),
    [(REQUEST, "the host wants 0000:01:00.0 back"), (ERROR, "0000:01:00.0 has met an error")],
)
def test_host_that_wants_a_function_back_gets_it(index: int, words: str) -> None:
    """Unplugged, unbound or broken: the kernel waits for us, so the run ends and says why."""
    host, device, machine = passed(notices=True)
    loop: Any = machine.loop
    fd = device.notices[index]
    assert set(loop.readers) == set(device.notices.values())
    os.eventfd_write(fd, 1)
    loop.readers[fd]()
    (ended,) = machine.ends
    assert (ended.reason, ended.detail.startswith(words)) == ("device-lost", True)
    host.close()
    assert loop.readers == {}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_kernel_without_notices_is_fine() -> None:
    _, _, machine = passed()
    assert machine.loop.readers == {}


def test_end_is_in_order() -> None:
    """Interrupts, DMA, slots, mappings, reset, descriptor (vfio.md, engine 11)."""
    host, device, machine = passed(region(0, 0x8000, (0, 0x8000)))
    sink, _ = function_messages(8)
    host.place_bar(0, 0xC0000000)
    host.use_messages("msix", sink, 4)
    device.diary.clear()
    host.close()
    assert machine.vm.slots == {}
    assert device.diary == [
        ("off", KINDS["msix"]),
        ("config", 4, 2, 0),
        ("unmap", 0, 0x2000),
        ("unmap", 0x4000, 0x4000),
        "reset",
        "close",
    ]


# ---- VFIO's answers


class Answers(VfioDevice):
    """VFIO_DEVICE_SET_IRQS whose answers are known."""

    def __init__(self, *answers: int) -> None:
        self.address = "0000:01:00.0"
        self.asked: list[int] = []
        self._answers = list(answers)

    def _irqs(self, index: int, action: int, fds: Any) -> int:
        self.asked.append(len(fds))
        return self._answers.pop(0)


def test_fewer_vectors_are_asked_for_again() -> None:
    """VFIO answers with how many it could give and gives none until it is asked for so many."""
    device = Answers(3, 0)
    assert device.set_triggers(2, [10, 11, 12, 13]) == 3
    assert device.asked == [4, 3]
    with pytest.raises(HostError, match="no interrupt vectors left"):
        Answers(3, 1).set_triggers(2, [10, 11, 12, 13])
