"""Root ports: a bus behind each, found by the numbers that the guest gives."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.bus.pci import Function, PciBus
from runner.bus.pci_access import Ecam
from runner.bus.pci_bar import AddressSpace, Window
from runner.bus.pci_bridge import RootPort
from runner.devices import pcie_root_port
from runner.graph.model import BarClaim, Node, PciClaim, Region
from runner.wire import pci
from tests.unit.virtio_driver import MMIO, Attachment, Mapper

WINDOWS = (
    Region(0x3000, 0x2000, "io", "port"),
    Region(0xC0100000, 0x200000, "mem32", "port"),
    Region(0x1_4000_0000, 0x4000_0000, "mem64", "port"),
)


def claim(name: str, slot: str, windows: tuple[Region, ...] = ()) -> PciClaim:
    made = pcie_root_port.claim(name, {}).pci
    assert made is not None
    bars = (made.bars[0]._replace(at=0xC0000000 if slot == "00:04.0" else 0xC0001000),)
    return made._replace(slot=slot, windows=windows, bars=bars)


PORTS = Window("io", 0x1000, 0x8000)


class Machine:
    """Ports at 00:04.0 and 00:05.0; an endpoint behind the first."""

    def __init__(self) -> None:
        self.mapper = Mapper()
        self.reported: list[str] = []
        self.bus = PciBus(AddressSpace((MMIO, PORTS), self.mapper, self.reported.append))
        self.resets: list[str] = []
        at = Attachment()
        for number, name in ((4, "port"), (5, "other")):
            node = Node("pcie_root_port", name, "devices", {}, pcie_root_port.claim(name, {}))
            pci_claim = claim(name, f"00:0{number}.0", WINDOWS if number == 4 else ())
            node = node._replace(claim=node.claim._replace(pci=pci_claim))
            self.bus.add(f"00:0{number}.0", pcie_root_port.build(node, at).function)
        bars = (BarClaim(0, 0x1000, "mem32", at=0xC0100000), BarClaim(1, 0x100, "io", at=0x3000))
        endpoint = Function(
            "disk",
            PciClaim(0x1B36, 0x10, 0x010802, bars=bars),
            {},
            on_reset=lambda: self.resets.append("disk"),
        )
        self.bus.behind("port").add("01:00.0", endpoint)
        self.ecam = Ecam(self.bus)

    def read(self, bus: int, device: int, offset: int, size: int) -> int:
        return self.ecam.read(bus << 20 | device << 15 | offset, size)

    def write(self, bus: int, device: int, offset: int, size: int, value: int) -> None:
        self.ecam.write(bus << 20 | device << 15 | offset, size, value)

    def running(self, command: int = pci.COMMAND_MEMORY) -> Machine:
        """Numbered, and both the port and the endpoint enabled."""
        self.number(1, 1)
        self.write(0, 4, pci.COMMAND, 2, command)
        self.write(1, 0, pci.COMMAND, 2, command)
        return self

    def number(self, secondary: int, subordinate: int) -> None:
        """What the guest calls the bus behind the first port."""
        self.write(0, 4, pci.BRIDGE_PRIMARY_BUS, 4, secondary << 8 | subordinate << 16)


def test_a_port_is_a_bridge_with_an_express_capability() -> None:
    """Type 1 header, class 0604, a root port's capability, and no subsystem where type 0 has it."""
    machine = Machine()
    assert machine.read(0, 4, pci.HEADER_TYPE, 1) == pci.HEADER_BRIDGE
    assert machine.read(0, 4, pci.CLASS_CODE + 1, 2) == 0x0604
    kinds = {}
    at = machine.read(0, 4, pci.CAPABILITIES, 1)
    while at:
        kinds[machine.read(0, 4, at, 1)] = at
        at = machine.read(0, 4, at + 1, 1)
    assert set(kinds) == {pci.CAP_EXPRESS, pci.CAP_MSIX}
    assert machine.read(0, 4, kinds[pci.CAP_EXPRESS] + 2, 2) >> 4 & 0xF == pci.EXPRESS_ROOT_PORT


def test_without_numbers_nobody_is_behind() -> None:
    """Before the guest has numbered the buses, bus 1 does not exist."""
    assert Machine().read(1, 0, 0, 4) == 0xFFFFFFFF


@pytest.mark.parametrize("number", [1, 7, 255])
def test_the_guests_number_leads_behind_the_port(number: int) -> None:
    """Secondary and subordinate bus numbers route; renumbering moves the bus."""
    machine = Machine()
    machine.number(number, number)
    assert machine.read(number, 0, 0, 4) == 0x00101B36
    assert machine.read(number, 1, 0, 4) == 0xFFFFFFFF
    machine.number(9, 9)
    assert machine.read(9, 0, 0, 2) == 0x1B36


def test_a_number_between_the_ports_is_nobody() -> None:
    """The subordinate number says how far the routing goes, and nothing is behind a plain endpoint."""
    machine = Machine()
    machine.number(1, 3)
    assert machine.read(2, 0, 0, 4) == 0xFFFFFFFF
    machine.number(3, 1)
    assert machine.read(3, 0, 0, 4) == 0xFFFFFFFF


def test_windows_start_as_the_plan_has_them() -> None:
    """I/O in 4 KiB, memory in 1 MiB steps, prefetchable with 64 bits."""
    machine = Machine()
    assert machine.read(0, 4, pci.BRIDGE_IO_BASE, 2) == 0x4030
    assert machine.read(0, 4, pci.BRIDGE_MEMORY_BASE, 4) == 0xC020C010
    assert machine.read(0, 4, pci.BRIDGE_PREFETCHABLE_BASE, 4) == 0x7FF14001
    assert machine.read(0, 4, pci.BRIDGE_PREFETCHABLE_UPPER, 4) == 1
    assert machine.read(0, 4, pci.BRIDGE_PREFETCHABLE_UPPER + 4, 4) == 1


def test_a_port_without_windows_has_them_closed() -> None:
    """Base above limit, so that a driver sees nothing forwarded."""
    machine = Machine()
    for register, low in (
        (pci.BRIDGE_IO_BASE, 1),
        (pci.BRIDGE_MEMORY_BASE, 2),
        (pci.BRIDGE_PREFETCHABLE_BASE, 2),
    ):
        base = machine.read(0, 5, register, low)
        assert base > machine.read(0, 5, register + low, low)


def test_windows_can_be_programmed_within_their_granularity() -> None:
    """Only the bits that are there are stored."""
    machine = Machine()
    machine.write(0, 5, pci.BRIDGE_MEMORY_BASE, 4, 0xFFFFFFFF)
    assert machine.read(0, 5, pci.BRIDGE_MEMORY_BASE, 4) == 0xFFF0FFF0
    machine.write(0, 5, pci.BRIDGE_PREFETCHABLE_BASE, 4, 0)
    assert machine.read(0, 5, pci.BRIDGE_PREFETCHABLE_BASE, 4) == 0x00010001


@pytest.mark.parametrize("port_first", [True, False])
def test_an_endpoint_behind_a_port_is_decoded(port_first: bool) -> None:
    """When its command register and the port's say so, in either order, its BAR is mapped."""
    machine = Machine()
    machine.number(1, 1)
    for bus, device in ((0, 4), (1, 0))[:: 1 if port_first else -1]:
        assert ("disk", 0) not in machine.mapper.mapped
        machine.write(bus, device, pci.COMMAND, 2, pci.COMMAND_MEMORY)
    assert machine.mapper.mapped["disk", 0] == 0xC0100000
    machine.write(0, 4, pci.COMMAND, 2, pci.COMMAND_IO)
    assert machine.mapper.mapped == {}


@pytest.mark.parametrize(
    ("base", "limit"), [(0xC020, 0xC020), (0xC000, 0xC000), (0xC010, 0xC000), (0xFFF0, 0x0000)]
)
def test_outside_of_its_ports_window_a_bar_is_not_decoded(base: int, limit: int) -> None:
    """Below, above, and behind a window that is closed; around it the window opens it again."""
    machine = Machine().running()
    machine.write(0, 4, pci.BRIDGE_MEMORY_BASE, 4, limit << 16 | base)
    assert ("disk", 0) not in machine.mapper.mapped
    machine.write(0, 4, pci.BRIDGE_MEMORY_BASE, 4, 0xC010C010)
    assert machine.mapper.mapped["disk", 0] == 0xC0100000


def test_a_bar_that_moves_out_of_the_window_is_decoded_no_more() -> None:
    """Not refused, as on the root bus: nobody forwards there.  Back inside it is decoded again."""
    machine = Machine().running()
    machine.write(1, 0, pci.BAR0, 4, 0xC0800000)
    assert ("disk", 0) not in machine.mapper.mapped
    assert machine.read(1, 0, pci.BAR0, 4) == 0xC0800000
    machine.write(1, 0, pci.BAR0, 4, 0xC0200000)
    assert machine.mapper.mapped["disk", 0] == 0xC0200000
    assert machine.reported == []


def test_the_prefetchable_window_forwards_too_with_all_of_its_64_bits() -> None:
    """A BAR in it is decoded; with other upper bits the window is elsewhere."""
    machine = Machine().running()
    machine.write(0, 4, pci.BRIDGE_MEMORY_BASE, 4, 0x0000FFF0)
    machine.write(0, 4, pci.BRIDGE_PREFETCHABLE_BASE, 4, 0xC010C010)
    assert ("disk", 0) not in machine.mapper.mapped
    for at in (0, 4):
        machine.write(0, 4, pci.BRIDGE_PREFETCHABLE_UPPER + at, 4, 0)
    assert machine.mapper.mapped["disk", 0] == 0xC0100000


def test_ports_pass_by_the_io_window_and_its_own_enable_bit() -> None:
    """4 KiB steps; the memory enable bit and the memory windows mean nothing for them."""
    machine = Machine().running(pci.COMMAND_MEMORY | pci.COMMAND_IO)
    assert machine.mapper.mapped["disk", 1] == 0x3000
    machine.write(0, 4, pci.BRIDGE_IO_BASE, 2, 0x4040)
    assert ("disk", 1) not in machine.mapper.mapped
    machine.write(0, 4, pci.BRIDGE_IO_BASE, 2, 0x3030)
    assert machine.mapper.mapped["disk", 1] == 0x3000
    machine.write(0, 4, pci.COMMAND, 2, pci.COMMAND_MEMORY)
    assert set(machine.mapper.mapped) & {("disk", 0), ("disk", 1)} == {("disk", 0)}


def test_row_11_a_window_that_would_put_a_bar_onto_another_stays() -> None:
    """Device-bugs 11: the write is undone and told, and both BARs are where they were."""
    machine = Machine().running()
    machine.write(1, 0, pci.BAR0, 4, 0xC0000000)  # where the port's own BAR is; not forwarded there
    before = dict(machine.mapper.mapped)
    assert before == {("port", 0): 0xC0000000}
    machine.write(0, 4, pci.BRIDGE_MEMORY_BASE, 4, 0xC020C000)
    assert machine.read(0, 4, pci.BRIDGE_MEMORY_BASE, 4) == 0xC020C010
    assert machine.mapper.mapped == before
    assert len(machine.reported) == 1
    assert "overlaps" in machine.reported[0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    (0, 4, pci.COMMAND, 2), (0, 4, pci.BRIDGE_IO_BASE, 2), (0, 4, pci.BRIDGE_MEMORY_BASE, 4),
                    (0, 4, pci.BRIDGE_PREFETCHABLE_BASE, 4), (0, 4, pci.BRIDGE_PREFETCHABLE_UPPER, 4),
                    (0, 4, pci.BRIDGE_PREFETCHABLE_UPPER + 4, 4), (0, 4, pci.BAR0, 4),
                    (0, 4, pci.BRIDGE_CONTROL, 2), (1, 0, pci.COMMAND, 2), (1, 0, pci.BAR0, 4),
                    (1, 0, pci.BAR0 + 4, 4),
                ]
            ),
            st.sampled_from(
                [
                    0, 1, 2, 3, 7, 0x40, 0x3030, 0x4030, 0xC010C000, 0xC020C010, 0x0000FFF0, 0xC0000000,
                    0xC0100000, 0xC0200000, 0x3001, 0x5001, 0xFFFFFFFF,
                ]
            ),
        ),
        max_size=30,
    )
)  # fmt: skip
@example([((0, 4, pci.COMMAND, 2), 0), ((0, 4, pci.BAR0, 4), 0x3030), ((0, 4, pci.COMMAND, 2), 0xFFFF)])
def test_what_is_decoded_is_what_the_registers_forward(writes: list[tuple[tuple[int, ...], int]]) -> None:
    """For any writes: a BAR below is decoded nowhere but where it says and its port forwards."""
    machine = Machine().running(pci.COMMAND_MEMORY | pci.COMMAND_IO)
    for (bus, device, offset, size), value in writes:
        machine.number(1, 1)
        machine.write(bus, device, offset, size, value & (1 << 8 * size) - 1)
        port, disk = machine.bus.find(0, 4 << 3), machine.bus.find(1, 0)
        assert isinstance(port, RootPort)
        assert disk is not None
        for bar in disk.bars.values():
            assert machine.mapper.mapped.get(("disk", bar.index)) == bar.mapped
            assert bar.mapped is None or port.forwards(bar, bar.mapped)
        for bar in port.bars.values():
            assert bar.mapped is None or port.config.get(pci.COMMAND, 2) & pci.COMMAND_MEMORY


def test_the_secondary_bus_reset_reaches_what_is_below() -> None:
    """On the rising edge, once; the port itself stays as it is."""
    machine = Machine().running()
    machine.write(0, 4, pci.BRIDGE_CONTROL, 2, pci.BRIDGE_SECONDARY_RESET)
    machine.write(0, 4, pci.BRIDGE_CONTROL, 2, pci.BRIDGE_SECONDARY_RESET)
    assert machine.resets == ["disk"]
    assert machine.mapper.mapped == {("port", 0): 0xC0000000}
    assert machine.read(1, 0, 0, 4) == 0x00101B36


def test_a_reset_of_the_machine_forgets_the_numbers() -> None:
    """As after power-on, on both sides of the port."""
    machine = Machine()
    machine.number(1, 1)
    machine.bus.reset()
    assert machine.read(0, 4, pci.BRIDGE_PRIMARY_BUS, 4) == 0
    assert machine.resets


def test_a_bus_behind_nobody_is_an_error() -> None:
    """The name has to be a bridge's."""
    machine = Machine()
    with pytest.raises(KeyError, match="disk"):
        machine.bus.behind("disk")
    assert isinstance(machine.bus.find(0, 4 << 3), RootPort)
