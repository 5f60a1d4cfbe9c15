"""Configuration space, BARs that move, and the two ways to reach them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus.pci import Function, IntxPin, PciBus
from runner.bus.pci_access import ConfigPorts, Ecam
from runner.bus.pci_bar import AddressSpace, Window
from runner.bus.pci_config import ConfigSpace
from runner.graph.model import BarClaim, PciClaim
from runner.wire import pci
from tests.unit.virtio_driver import Mapper
from tests.unit.wired import Line

LOW = Window("mem", 0xC0000000, 0x10000000)
HIGH = Window("mem", 1 << 32, 1 << 36)
PORTS = Window("io", 0x1000, 0x1000)
MEM = pci.COMMAND_MEMORY
BOTH = pci.COMMAND_MEMORY | pci.COMMAND_IO


class Nothing:
    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        return None


def claim(*bars: BarClaim, **more: Any) -> PciClaim:
    return PciClaim(0x1AF4, 0x1044, 0xFF0000, bars=bars, **more)


BARS = (
    BarClaim(0, 0x4000, "mem32", at=0xC0000000),
    BarClaim(1, 0x20, "io", at=0x1000),
    BarClaim(2, 0x10000, "mem64", prefetchable=True, at=0x1_0000_0000),
)


class Machine:
    def __init__(self, *claims: PciClaim) -> None:
        self.mapper = Mapper()
        self.refusals: list[str] = []
        self.space = AddressSpace((LOW, HIGH, PORTS), self.mapper, self.refusals.append)
        self.bus = PciBus(self.space)
        self.functions = []
        for number, one in enumerate(claims):
            function = Function(f"dev{number}", one, {bar.bar: Nothing() for bar in one.bars})
            self.functions.append(function)
            self.bus.add(f"00:{number + 1:02x}.0", function)

    def read(self, number: int, offset: int, size: int) -> int:
        return self.bus.read_config(0, number + 1 << 3, offset, size)

    def write(self, number: int, offset: int, size: int, value: int) -> None:
        self.bus.write_config(0, number + 1 << 3, offset, size, value)


def test_the_header_says_what_was_claimed_and_keeps_it() -> None:
    """Identity is read-only, whatever is written."""
    machine = Machine(claim(subsystem_vendor=0x1AF4, subsystem_device=0x44, revision=1, intx_pin=1))
    before = [machine.read(0, at, 4) for at in (0x00, 0x08, 0x2C)]
    assert before == [0x10441AF4, 0xFF000001, 0x00441AF4]
    for at in range(0, 256, 4):
        if at != pci.COMMAND:
            machine.write(0, at, 4, 0xFFFFFFFF)
    assert [machine.read(0, at, 4) for at in (0x00, 0x08, 0x2C)] == before
    assert machine.read(0, pci.INTERRUPT_PIN, 1) == 1
    assert machine.read(0, pci.INTERRUPT_LINE, 1) == 0xFF


def test_nobody_there_reads_as_ones() -> None:
    """Absent functions, buses and extended registers of a conventional function."""
    machine = Machine(claim())
    assert machine.bus.read_config(0, 9 << 3, 0, 4) == 0xFFFFFFFF
    assert machine.bus.read_config(3, 1 << 3, 0, 2) == 0xFFFF
    assert machine.read(0, 256, 4) == 0xFFFFFFFF
    machine.bus.write_config(0, 9 << 3, 4, 2, 7)


def test_a_bar_tells_its_size_by_all_ones() -> None:
    """PCI 3.0 §6.2.5.1: what is written as ones reads back as the mask with the type bits."""
    machine = Machine(claim(*BARS))
    for bar, mask in ((0, 0xFFFFC000), (1, 0xFFFFFFE1), (2, 0xFFFF000C), (3, 0xFFFFFFFF), (4, 0)):
        machine.write(0, pci.BAR0 + 4 * bar, 4, 0xFFFFFFFF)
        assert machine.read(0, pci.BAR0 + 4 * bar, 4) == mask


@pytest.mark.parametrize("command", [0, BOTH])
def test_sizing_leaves_the_mapping_alone(command: int) -> None:
    """Sizing and putting back, decoding or not, ends where it began, with nothing announced."""
    machine = Machine(claim(*BARS))
    machine.write(0, pci.COMMAND, 2, command)
    announced = len(machine.mapper.calls)
    for at in range(pci.BAR0, pci.BAR0 + 16, 4):
        old = machine.read(0, at, 4)
        machine.write(0, at, 4, 0xFFFFFFFF)
        machine.write(0, at, 4, old)
    assert machine.mapper.calls[announced:] == []
    machine.write(0, pci.COMMAND, 2, BOTH)
    assert machine.mapper.mapped == {("dev0", 0): 0xC0000000, ("dev0", 1): 0x1000, ("dev0", 2): 1 << 32}


def test_decoding_follows_the_command_register() -> None:
    """Memory and I/O are switched apart; switching off announces it."""
    machine = Machine(claim(*BARS))
    assert machine.mapper.mapped == {}
    machine.write(0, pci.COMMAND, 2, pci.COMMAND_IO)
    assert set(machine.mapper.mapped) == {("dev0", 1)}
    machine.write(0, pci.COMMAND, 1, MEM)
    assert set(machine.mapper.mapped) == {("dev0", 0), ("dev0", 2)}
    machine.write(0, pci.COMMAND, 4, 0)
    assert machine.mapper.mapped == {}


def test_command_bits_without_bars_stay_zero() -> None:
    """A function without I/O BARs cannot switch I/O on (§6.2.2)."""
    machine = Machine(claim(BARS[0]))
    machine.write(0, pci.COMMAND, 2, 0xFFFF)
    assert not machine.read(0, pci.COMMAND, 2) & pci.COMMAND_IO


def test_a_bar_moves_while_it_is_decoded() -> None:
    """The move is announced once, from the old place to the new."""
    machine = Machine(claim(*BARS))
    machine.write(0, pci.COMMAND, 2, MEM)
    machine.write(0, pci.BAR0, 4, 0xC1000000)
    assert machine.mapper.calls[-1] == ("dev0", 0, 0xC0000000, 0xC1000000)
    assert machine.read(0, pci.BAR0, 4) == 0xC1000000


def test_a_64_bit_bar_moves_half_by_half() -> None:
    """Both orders of the halves end at the target, though the place between may be outside every window."""
    for order in ((0, 4), (4, 0)):
        machine = Machine(claim(BarClaim(2, 0x10000, "mem64", at=0xC0000000)))
        machine.write(0, pci.COMMAND, 2, MEM)
        target = 0x2_8000_0000
        for half in order:
            machine.write(0, pci.BAR0 + 8 + half, 4, target >> 8 * half & 0xFFFFFFFF)
        assert machine.mapper.mapped == {("dev0", 2): target}
        assert machine.refusals == []


def test_row_11_a_bar_outside_its_window_stays() -> None:
    """Device-bugs 11: refused, and register and mapping are as they were."""
    machine = Machine(claim(*BARS))
    machine.write(0, pci.COMMAND, 2, BOTH)
    before = dict(machine.mapper.mapped)
    for bar, address in ((0, 0), (0, 0xBFFFC000), (0, 0xD0000000), (0, 0xFEE00000), (1, 0xCF8), (1, 0x2000)):
        old = machine.read(0, pci.BAR0 + 4 * bar, 4)
        machine.write(0, pci.BAR0 + 4 * bar, 4, address)
        assert machine.read(0, pci.BAR0 + 4 * bar, 4) == old
    assert machine.mapper.mapped == before
    assert len(machine.refusals) == 6
    assert "outside every mem window" in machine.refusals[0]


def test_row_11_a_bar_on_another_stays() -> None:
    """Device-bugs 11: an overlap names both parties and changes nothing."""
    other = BarClaim(0, 0x1000, "mem32", at=0xC0100000)
    machine = Machine(claim(BARS[0]), claim(other))
    machine.write(0, pci.COMMAND, 2, MEM)
    machine.write(1, pci.COMMAND, 2, MEM)
    machine.write(0, pci.BAR0, 4, 0xC0100000)
    assert machine.read(0, pci.BAR0, 4) == 0xC0000000
    assert machine.mapper.mapped == {("dev0", 0): 0xC0000000, ("dev1", 0): 0xC0100000}
    assert machine.refusals == [
        "a BAR stays where it was: BAR 0 of `dev0` (0xc0100000–0xc0103fff) overlaps "
        "BAR 0 of `dev1` (0xc0100000–0xc0100fff)"
    ]


def test_row_11_switching_on_a_bad_place_is_refused_as_a_whole() -> None:
    """Device-bugs 11: a place chosen while decoding was off is checked when it comes on."""
    machine = Machine(claim(*BARS))
    machine.write(0, pci.BAR0 + 8, 4, 0x5000_0000)
    machine.write(0, pci.BAR0 + 12, 4, 0)
    machine.write(0, pci.COMMAND, 2, BOTH | pci.COMMAND_MASTER)
    assert machine.mapper.mapped == {}
    assert machine.read(0, pci.COMMAND, 2) == pci.COMMAND_MASTER
    machine.write(0, pci.BAR0 + 8, 4, 0xC8000000)
    machine.write(0, pci.COMMAND, 2, BOTH)
    assert len(machine.mapper.mapped) == 3


def test_row_11_a_refusal_by_the_engine_changes_nothing() -> None:
    """Device-bugs 11: the engine can refuse too, on a move and on switching on."""
    machine = Machine(claim(*BARS))
    machine.mapper.refuse = {0x1_0000_0000}
    machine.mapper.fail = {0xC2000000}
    machine.write(0, pci.COMMAND, 2, BOTH)
    assert machine.mapper.mapped == {}
    assert machine.read(0, pci.COMMAND, 2) == 0
    machine.mapper.refuse = set()
    machine.write(0, pci.COMMAND, 2, BOTH)
    machine.write(0, pci.BAR0, 4, 0xC2000000)
    assert machine.read(0, pci.BAR0, 4) == 0xC0000000
    assert machine.mapper.mapped["dev0", 0] == 0xC0000000
    assert "no slot left" in machine.refusals[-1]


def test_row_11_a_refused_64_bit_move_puts_both_halves_back() -> None:
    """Device-bugs 11: after the second half the register says again where the BAR is."""
    machine = Machine(claim(BarClaim(2, 0x10000, "mem64", at=0xC0000000)))
    machine.write(0, pci.COMMAND, 2, MEM)
    machine.write(0, pci.BAR0 + 8, 4, 0x50000000)
    machine.write(0, pci.BAR0 + 12, 4, 0x7F)
    assert machine.read(0, pci.BAR0 + 8, 4) == 0xC0000004
    assert machine.read(0, pci.BAR0 + 12, 4) == 0
    assert machine.mapper.mapped == {("dev0", 2): 0xC0000000}


def test_a_bar_never_assigned_is_nowhere() -> None:
    """Address zero, or the size left in the register, is not decoded and is no error."""
    machine = Machine(claim(BARS[0], BarClaim(1, 0x1000, "mem32")))
    machine.write(0, pci.BAR0, 4, 0xFFFFFFFF)
    machine.write(0, pci.COMMAND, 2, MEM)
    assert machine.mapper.mapped == {}
    assert machine.read(0, pci.COMMAND, 2) == MEM


def test_a_huge_bar_may_have_an_address_that_looks_like_sizing() -> None:
    """A BAR of 2 GiB at an odd multiple of it has all its low address bits set, in earnest."""
    machine = Machine(claim(BarClaim(0, 1 << 31, "mem64", at=0x1_8000_0000)))
    machine.write(0, pci.COMMAND, 2, MEM)
    assert machine.mapper.mapped == {("dev0", 0): 0x1_8000_0000}


def test_the_rom_has_an_enable_bit_of_its_own() -> None:
    """§6.2.5.2: the expansion ROM is decoded with memory and its own bit."""
    machine = Machine(claim(BarClaim(6, 0x10000, "mem32", at=0xC0800000)))
    machine.write(0, pci.COMMAND, 2, MEM)
    assert machine.mapper.mapped == {}
    machine.write(0, pci.ROM_BASE, 4, 0xC0800001)
    assert machine.mapper.mapped == {("dev0", 6): 0xC0800000}
    machine.write(0, pci.ROM_BASE, 4, 0xC0800000)
    assert machine.mapper.mapped == {}


def test_reset_is_power_on() -> None:
    """Nothing is decoded, BARs have their first addresses, and the device is told."""
    machine = Machine(claim(*BARS))
    told = []
    machine.functions[0].on_reset = lambda: told.append(True)
    machine.write(0, pci.COMMAND, 2, BOTH)
    machine.write(0, pci.BAR0, 4, 0xC1000000)
    machine.bus.reset()
    assert machine.mapper.mapped == {}
    assert machine.read(0, pci.BAR0, 4) == 0xC0000000
    assert machine.read(0, pci.COMMAND, 2) == 0
    assert told == [True]


def test_status_bits_clear_by_ones() -> None:
    """§6.2.3: error bits are cleared by writing one, and only those written."""
    machine = Machine(claim())
    config = machine.functions[0].config
    config.put(pci.STATUS, 2, 0xF900)
    machine.write(0, pci.STATUS, 2, 0x8000)
    assert machine.read(0, pci.STATUS, 2) == 0x7900


def test_capabilities_are_a_list_that_ends() -> None:
    """Each capability is linked behind the last, aligned to four, and announced in status."""
    config = ConfigSpace()
    one = config.add_capability(pci.CAP_VENDOR, b"\x05\x01\x02")
    two = config.add_capability(pci.CAP_MSIX, bytes(10), b"\x00\xc0")
    assert (one, two) == (0x40, 0x48)
    assert config.read(pci.CAPABILITIES, 1) == 0x40
    assert config.read(0x41, 1) == 0x48
    assert config.read(0x49, 1) == 0
    assert config.read(pci.STATUS, 2) & pci.STATUS_CAPABILITIES
    config.write(two, 4, 0xFFFFFFFF)
    assert config.read(two, 4) == 0xC000 << 16 | pci.CAP_MSIX
    with pytest.raises(ValueError, match="no room"):
        config.add_capability(pci.CAP_VENDOR, bytes(200))


def test_intx_follows_device_and_disable_bit() -> None:
    """§6.2.2–6.2.3: status shows the device's wish, the line only what is not disabled."""
    machine = Machine(claim(intx_pin=1))
    line = Line()
    pin = IntxPin(machine.functions[0].config, line)
    pin.set(True)
    assert line.level
    assert machine.read(0, pci.STATUS, 2) & pci.STATUS_INTERRUPT
    machine.write(0, pci.COMMAND, 2, pci.COMMAND_INTX_DISABLE)
    assert not line.level
    assert machine.read(0, pci.STATUS, 2) & pci.STATUS_INTERRUPT
    machine.write(0, pci.COMMAND, 2, 0)
    assert line.level
    pin.set(False)
    assert not line.level


def test_functions_of_one_device_are_marked() -> None:
    """The multifunction bit appears when a second function joins a device."""
    machine = Machine()
    one, two = (Function(f"f{number}", claim(), {}) for number in range(2))
    machine.bus.add("00:04.0", one)
    assert machine.bus.read_config(0, 0x20, pci.HEADER_TYPE, 1) == 0
    machine.bus.add("00:04.1", two)
    assert machine.bus.read_config(0, 0x20, pci.HEADER_TYPE, 1) == pci.HEADER_MULTIFUNCTION
    with pytest.raises(ValueError, match="holds `f1`"):
        machine.bus.add("00:04.1", two)


def test_ports_reach_every_register() -> None:
    """Mechanism #1: address at 0xcf8, then bytes, words and dwords at 0xcfc."""
    machine = Machine(claim(*BARS))
    ports = ConfigPorts(machine.bus)
    ports.write(0, 4, 0x80000800)
    assert ports.read(0, 4) == 0x80000800
    assert ports.read(4, 4) == 0x10441AF4
    assert ports.read(6, 2) == 0x1044
    ports.write(0, 4, 0x80000804)
    ports.write(4, 2, MEM)
    assert machine.mapper.mapped
    assert ports.read(5, 1) == 0
    ports.write(0, 4, 0x80001000)
    assert ports.read(4, 4) == 0xFFFFFFFF


def test_ports_need_the_enable_bit_and_their_own_width() -> None:
    """Without bit 31 there is no access; bytes at 0xcf8 are not the address register."""
    machine = Machine(claim())
    ports = ConfigPorts(machine.bus)
    ports.write(0, 4, 0x00000800)
    assert ports.read(4, 4) == 0xFFFFFFFF
    ports.write(0, 4, 0x80000800)
    ports.write(3, 1, 0)
    assert ports.read(0, 4) == 0x80000800
    assert ports.read(7, 2) == 0xFFFF
    assert ports.read(3, 4) == 0xFFFFFFFF


def test_ecam_reaches_the_same_registers() -> None:
    """PCI Express §7.2.2: bus, device and function in the address; odd accesses read as ones."""
    machine = Machine(claim(*BARS))
    ecam = Ecam(machine.bus)
    assert ecam.read(1 << 15, 4) == 0x10441AF4
    assert ecam.read(1 << 15 | 2, 2) == 0x1044
    assert ecam.read(1 << 20, 4) == 0xFFFFFFFF
    assert ecam.read(1 << 15 | 1, 2) == 0xFFFF
    assert ecam.read(1 << 15, 8) == 2**64 - 1
    ecam.write(1 << 15 | 4, 2, MEM)
    assert machine.mapper.mapped
    ecam.write(1 << 15 | 3, 4, 0)
    assert machine.mapper.mapped


@pytest.mark.parametrize(("slot", "devfn"), [("00:05.0", 0x28), ("00:1f.7", 0xFF), ("05.1", 0x29)])
def test_slots_are_device_and_function(slot: str, devfn: int) -> None:
    """devfn is device << 3 | function."""
    assert pci.slot_number(slot) == devfn


@pytest.mark.parametrize("slot", ["00:20.0", "00:00.8"])
def test_slots_that_cannot_be_are_refused(slot: str) -> None:
    """32 devices of 8 functions."""
    with pytest.raises(ValueError, match="no PCI slot"):
        pci.slot_number(slot)


configuration_write = st.tuples(
    st.integers(0, 1),
    st.one_of(st.sampled_from([0x04, 0x10, 0x14, 0x18, 0x1C, 0x30]), st.integers(0, 260)),
    st.sampled_from([1, 2, 4]),
    st.one_of(
        st.integers(0, 0xFFFFFFFF),
        st.sampled_from([0xFFFFFFFF, 0, 3, 0xC0000000, 0xC0004000, 0xC0010000, 0x1000, 0x1020, 1, 2]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(configuration_write, max_size=40), st.sets(st.sampled_from([0xC0004000, 0x1020, 0xC0010000])))
def test_whatever_is_written_mappings_stay_inside_and_apart(
    writes: list[tuple[int, int, int, int]], refuse: set[int]
) -> None:
    """Device-bugs 11, for any writes: inside a window, no two overlap, and the bus knows the truth."""
    second = (BarClaim(0, 0x4000, "mem32", at=0xC0004000), BarClaim(1, 0x20, "io", at=0x1020))
    machine = Machine(claim(*BARS, BarClaim(6, 0x800, "mem32")), claim(*second))
    machine.mapper.refuse = refuse
    for number, offset, size, value in writes:
        machine.write(number, offset, size, value & (1 << 8 * size) - 1)
        machine.read(number, offset, size)
        extents = []
        for function in machine.functions:
            for bar in function.bars.values():
                assert machine.mapper.mapped.get((function.name, bar.index)) == bar.mapped
                if bar.mapped is not None:
                    extents.append((bar.space, bar.mapped, bar.mapped + bar.size))
        for space, start, end in extents:
            assert any(
                window.space == space and window.start <= start and end <= window.start + window.size
                for window in (LOW, HIGH, PORTS)
            )
        for at, one in enumerate(extents):
            for other in extents[at + 1 :]:
                assert one[0] != other[0] or one[2] <= other[1] or other[2] <= one[1]
