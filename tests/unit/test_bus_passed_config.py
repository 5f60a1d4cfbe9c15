"""The virtual configuration space of a passed-through function (reference/vfio.md, engine 5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus.passed_config import (
    HIDDEN_EXTENDED,
    PassedConfig,
    capabilities,
    extended_capabilities,
)
from runner.bus.pci import PciBus
from runner.graph.model import BarClaim
from runner.wire import pci
from tests.unit.passed_host import (
    ADVANCED,
    POWER,
    SLOT,
    VPD,
    FakeHost,
    Machine,
    claim_of,
    config_space,
    express,
    msi,
    msix,
)

REGISTERS = BarClaim(0, 0x4000, "mem64", at=0x1_0000_0000)
PORTS = BarClaim(2, 0x20, "io", at=0x1000)
ROM = BarClaim(6, 0x10000, "mem32", at=0xC0000000)
COMMAND_WRITES = ("config", pci.COMMAND, 2)
ON = pci.COMMAND_MEMORY | pci.COMMAND_IO
ALL = (POWER, msi(), express(), msix(4, 0, 0x800), VPD, ADVANCED)


def guest_list(machine: Machine) -> list[int]:
    """The capabilities that a guest finds by walking the list."""
    found, at = [], machine.read(pci.CAPABILITIES, 1)
    while at:
        assert len(found) < 64, "the list does not end"
        found.append(machine.read(at, 1))
        at = machine.read(at + 1, 1)
    return found


def guest_extended(machine: Machine) -> list[int]:
    found, at = [], 0x100
    while at:
        assert len(found) < 1024, "the list does not end"
        header = machine.read(at, 4)
        found += [header & 0xFFFF] if header & 0xFFFF else []  # 0: a null capability
        at = header >> 20 & 0xFFC
    return found


def machine_of(*parts: tuple[int, bytes], **more: object) -> Machine:
    space = config_space(*parts, **more)  # type: ignore[arg-type]
    return Machine(FakeHost(space), claim_of(REGISTERS, PORTS, ROM, intx_pin=1))


# ---- the header


def test_identity_is_the_claims_and_read_only() -> None:
    """Ids and class read as claimed, whatever is written and whatever the host's header says."""
    machine = machine_of()
    machine.write(0, 4, 0xFFFFFFFF)
    machine.write(pci.SUBSYSTEM_VENDOR_ID, 4, 0xFFFFFFFF)
    assert machine.read(0, 4) == 0x525A10EC
    assert machine.read(pci.SUBSYSTEM_VENDOR_ID, 4) == 0


def test_multifunction_bit_of_the_host_is_cleared() -> None:
    """One function of a card is alone in its slot for the guest."""
    machine = machine_of()
    assert machine.host.space[pci.HEADER_TYPE] == pci.HEADER_MULTIFUNCTION
    assert machine.read(pci.HEADER_TYPE, 1) == 0


def test_multifunction_bit_is_the_guests_own_bus() -> None:
    """Two functions that the definition puts into one slot have it."""
    machine = machine_of()
    other = FakeHost(config_space())
    second = Machine(other, claim_of(slot=SLOT[:-1] + "1"))
    bus: PciBus = machine.bus
    bus.add(SLOT[:-1] + "1", second.passed.function)
    assert machine.read(pci.HEADER_TYPE, 1) == pci.HEADER_MULTIFUNCTION


def test_sizing_is_answered_here() -> None:
    """All ones into a BAR read back as its size; no host register is touched."""
    machine = machine_of()
    machine.host.taken()
    for at, expected in ((0x10, 0xFFFFC004), (0x14, 0xFFFFFFFF), (0x18, 0xFFFFFFE1), (0x1C, 0)):
        machine.write(at, 4, 0xFFFFFFFF)
        assert machine.read(at, 4) == expected, hex(at)
    machine.write(pci.ROM_BASE, 4, 0xFFFFF800)
    assert machine.read(pci.ROM_BASE, 4) == 0xFFFF0000
    assert machine.host.taken() == []


def test_status_shows_the_functions_interrupt() -> None:
    """The interrupt bit is live, since a guest that shares a line asks by it; the rest is ours."""
    machine = machine_of()
    assert machine.read(pci.STATUS, 2) == 0
    machine.host.space[pci.STATUS] |= pci.STATUS_INTERRUPT | 0x20
    assert machine.read(pci.STATUS, 2) == pci.STATUS_INTERRUPT
    assert machine.read(pci.COMMAND, 4) >> 16 == pci.STATUS_INTERRUPT
    machine.host.space[pci.STATUS] = 0
    assert machine.read(pci.STATUS, 2) == 0


# ---- the command register


def test_host_follows_the_command_register() -> None:
    """Every bit that a guest may set reaches the host, no other does."""
    machine = machine_of()
    machine.host.taken()
    machine.write(pci.COMMAND, 2, 0xFFFF)
    allowed = ON | pci.COMMAND_MASTER | pci.COMMAND_PARITY | pci.COMMAND_SERR | pci.COMMAND_INTX_DISABLE
    assert machine.host.taken("config")[-1] == (*COMMAND_WRITES, allowed)
    machine.write(pci.COMMAND + 1, 1, 0)
    assert machine.host.taken("config")[-1] == (*COMMAND_WRITES, allowed & 0xFF)


def test_host_decodes_before_a_bar_is_mapped_and_until_it_is_not() -> None:
    """A mapped BAR of a function that does not decode would end the guest (EFAULT from KVM_RUN)."""
    machine = machine_of()
    machine.host.taken()
    machine.write(pci.COMMAND, 2, pci.COMMAND_MEMORY)
    asked = machine.host.taken()
    assert asked[0] == (*COMMAND_WRITES, pci.COMMAND_MEMORY)
    assert ("place", 0, REGISTERS.at) in asked[1:]
    machine.write(pci.COMMAND, 2, 0)
    assert machine.host.taken() == [("place", 0, None), (*COMMAND_WRITES, 0)]


def test_function_starts_with_everything_off() -> None:
    """Whatever its last owner left: no decoding and no DMA before the guest asks for it."""
    machine = machine_of()
    assert (*COMMAND_WRITES, 0) in machine.host.taken("config")


def test_refused_decoding_is_taken_back_on_the_host() -> None:
    """When a BAR cannot be placed the guest's bit stays off, and so does the host's."""
    machine = machine_of()
    machine.write(0x10, 4, 0)
    machine.write(0x14, 4, 0xFFFF0000)  # outside every window
    machine.host.taken()
    machine.write(pci.COMMAND, 2, pci.COMMAND_MEMORY)
    assert machine.read(pci.COMMAND, 2) == 0
    assert machine.host.taken("config")[-1] == (*COMMAND_WRITES, 0)
    assert machine.reports


# ---- what is passed on


def test_writes_are_denied_by_default() -> None:
    """Of a function full of unknown capabilities nothing but the command register reaches the host."""
    unknown = tuple((number, b"\xff" * 14) for number in (0x02, 0x04, 0x08, 0x09, 0x0D, 0x12))
    space = config_space(*unknown, size=4096, extended=((1, 2, bytes(60)), (0x18, 1, bytes(4))))
    machine = Machine(FakeHost(space), claim_of(REGISTERS))
    machine.host.taken()
    for at in [*range(pci.STATUS, 4096, 2)]:
        machine.write(at, 2, 0xFFFF)
    assert machine.host.taken("config", "bar") == []


def test_registers_outside_every_capability_are_the_hosts_to_read() -> None:
    """A driver that looks at its own registers sees the live ones."""
    machine = machine_of(POWER, size=4096)
    machine.host.space[0xF0:0xF4] = machine.host.space[0x724:0x728] = b"live"
    assert machine.read(0xF0, 4) == machine.read(0x724, 4) == int.from_bytes(b"live", "little")
    machine.host.space[0xF0] = 0
    assert machine.read(0xF0, 1) == 0


def test_device_control_is_passed_a_register_at_a_time() -> None:
    """A write that also covers device status passes the control half, whole."""
    machine = machine_of(express(flr=False))
    machine.host.taken()
    machine.write(0x48, 4, 0xFFFF2810)
    machine.write(0x68, 2, 0x0009)
    assert machine.host.taken() == [("config", 0x48, 2, 0x2810), ("config", 0x68, 2, 9)]


def test_version_1_has_no_device_control_2() -> None:
    """What lies behind a short PCI Express capability is not its second control register."""
    machine = machine_of(express(version=1, flr=False))
    machine.host.taken()
    machine.write(0x68, 2, 9)
    assert machine.host.taken() == []


def test_vpd_is_passed() -> None:
    """Address and data, but not the list's link."""
    machine = machine_of(VPD)
    machine.host.taken()
    machine.write(0x40, 4, 0x8004FFFF)
    machine.write(0x44, 4, 0x12345678)
    assert machine.host.taken() == [("config", 0x42, 2, 0x8004), ("config", 0x44, 4, 0x12345678)]


# ---- capability lists


def test_list_is_shown_as_it_is() -> None:
    host = FakeHost(config_space(*ALL))
    machine = Machine(host, claim_of(REGISTERS, intx_pin=1, msi_vectors=1, msix_vectors=4))
    assert guest_list(machine) == [0x01, 0x05, 0x10, 0x11, 0x03, 0x13]


@pytest.mark.parametrize(
    ("claimed", "left"),
    [
        ({"msi_vectors": 1}, [0x01, 0x05, 0x10, 0x03, 0x13]),
        ({"msix_vectors": 4}, [0x01, 0x10, 0x11, 0x03, 0x13]),
        ({}, [0x01, 0x10, 0x03, 0x13]),
    ],
)
def test_messages_that_nobody_serves_are_hidden(claimed: dict[str, int], left: list[int]) -> None:
    """A guest that found them would switch its line off for them, and wait for interrupts without end."""
    machine = Machine(FakeHost(config_space(*ALL)), claim_of(REGISTERS, intx_pin=1, **claimed))
    assert guest_list(machine) == left
    machine.bus.reset()
    assert guest_list(machine) == left


def test_function_with_messages_only_has_no_list_without_them() -> None:
    machine = machine_of(msix(4, 0, 0x800))
    assert guest_list(machine) == []
    assert not machine.read(pci.STATUS, 2) & pci.STATUS_CAPABILITIES
    assert machine.read(0x40, 2) == 0


def test_loops_end() -> None:
    """A list that bites its tail is walked once."""
    space = config_space(POWER, VPD)
    space[0x51] = 0x40
    machine = Machine(FakeHost(space), claim_of())
    assert guest_list(machine) == [0x01, 0x03]
    space = config_space(size=4096, extended=((1, 1, bytes(12)), (3, 1, bytes(12))))
    space[0x110:0x114] = (3 | 1 << 16 | 0x110 << 20).to_bytes(4, "little")
    machine = Machine(FakeHost(space), claim_of())
    assert guest_extended(machine) == [1, 3]


def test_list_that_points_into_the_header_ends_there() -> None:
    space = config_space(POWER)
    space[0x41] = 0x10
    assert [c.offset for c in capabilities(bytes(space))] == [0x40]
    space[pci.CAPABILITIES] = 0x04
    assert capabilities(bytes(space)) == ()


def test_enhanced_allocation_is_hidden() -> None:
    """Its fixed addresses would contradict the BARs; first and in between."""
    allocation = (0x14, bytes(14))
    assert guest_list(machine_of(allocation, POWER, allocation, VPD)) == [0x01, 0x03]
    assert guest_list(machine_of(allocation)) == []


def test_what_makes_functions_or_uses_the_iommu_is_hidden() -> None:
    """SR-IOV, ARI, ATS, resizable BARs …: not in the list, and not to be read where they lie."""
    full = b"\xee" * 0x3C
    hidden = tuple((identifier, 1, full[: size - 4]) for identifier, (_, size) in HIDDEN_EXTENDED.items())
    machine = machine_of(size=4096, extended=((1, 2, full), *hidden, (3, 1, full)))
    assert guest_extended(machine) == [1, 3]
    names = {at.offset: at.identifier for at in extended_capabilities(bytes(machine.host.space))}
    for offset, identifier in names.items():
        size = HIDDEN_EXTENDED.get(identifier, ("", 0))[1]
        for at in range(offset, offset + size, 4):
            assert machine.read(at, 4) == 0, f"{identifier:#x} at {at:#x}"


def test_first_extended_capability_is_hidden_too() -> None:
    """It cannot leave the list, so it is a null capability that leads to the others."""
    machine = machine_of(size=4096, extended=((0x10, 1, b"\xee" * 0x3C), (3, 1, bytes(8))))
    assert machine.read(0x100, 4) & 0xFFFFF == 0
    assert guest_extended(machine) == [3]
    assert machine.read(0x104, 4) == 0
    alone = machine_of(size=4096, extended=((0x15, 1, b"\xee" * 0x30),))
    assert [alone.read(at, 4) for at in range(0x100, 0x134, 4)] == [0] * 13


def test_registers_behind_a_hidden_capability_can_be_read() -> None:
    """Only the capability is blank, not all that follows the last of them."""
    machine = machine_of(size=4096, extended=((0x0F, 1, bytes(4)),))
    machine.host.space[0x724] = 0x5A
    assert machine.read(0x724, 1) == 0x5A


def test_conventional_function_has_no_extended_space() -> None:
    machine = machine_of(POWER)
    assert machine.read(0x100, 4) == 0xFFFFFFFF
    machine.host.taken()
    machine.write(0x100, 4, 0)
    assert machine.host.taken() == []


# ---- PCI Express on the root bus


def test_endpoint_on_the_root_bus_is_an_integrated_one() -> None:
    """It has no port above it and so no link; behind a port it stays what it is."""
    machine = machine_of(express(0))
    assert machine.read(0x42, 2) >> 4 == 9
    assert [machine.read(at, 4) for at in (0x4C, 0x50, 0x6C, 0x70)] == [0] * 4
    below = Machine(FakeHost(config_space(express(0))), claim_of(bus="port"))
    assert below.read(0x42, 2) >> 4 == 0
    assert below.read(0x4C, 4) == 0xFFFFFFFF


def test_only_endpoints_are_integrated() -> None:
    """A function that is integrated already keeps its registers."""
    machine = machine_of(express(9))
    assert machine.read(0x42, 2) >> 4 == 9
    assert machine.read(0x4C, 4) == 0xFFFFFFFF


# ---- whatever a function says


@st.composite
def spaces(draw: st.DrawFn) -> bytearray:
    """Anything, with lists that are often long enough to be interesting."""
    size = draw(st.sampled_from((256, 4096)))
    space = bytearray(draw(st.binary(min_size=256, max_size=256))) + bytearray(size - 256)
    space[pci.STATUS] |= draw(st.sampled_from((0, pci.STATUS_CAPABILITIES, pci.STATUS_CAPABILITIES)))
    identifiers = st.sampled_from((0x01, 0x03, 0x05, 0x10, 0x11, 0x13, 0x14, 0x09))
    link = pci.CAPABILITIES
    for at in draw(st.lists(st.integers(0, 255), max_size=6)):
        space[link] = at
        space[at & 0xFC] = draw(identifiers)
        link = (at & 0xFC) + 1
    at = 0x100
    for following in draw(st.lists(st.integers(0, 4095), max_size=5)) if size > 256 else []:
        identifier = draw(st.sampled_from((*HIDDEN_EXTENDED, 1, 3, 0x18)))
        space[at : at + 4] = (identifier | 1 << 16 | following << 20).to_bytes(4, "little")
        at = max(following & 0xFFC, 0x100)
    return space


accesses = st.lists(
    st.tuples(st.integers(0, 4095), st.sampled_from((1, 2, 4)), st.integers(0, 0xFFFFFFFF)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(spaces(), accesses)
def test_any_function_and_any_guest(space: bytearray, guest: list[tuple[int, int, int]]) -> None:
    """No exception, lists that end, the space keeps its size, and the header is never the host's."""
    size = len(space)
    host = FakeHost(space, {0: bytearray(0x4000), 2: bytearray(0x20), 6: bytearray(0x10000)})
    claim = claim_of(REGISTERS, PORTS, ROM, intx_pin=1, msix_vectors=8, msi_vectors=4)
    machine = Machine(host, claim)
    for offset, width, value in guest:
        machine.write(offset, width, value & (1 << 8 * width) - 1)
        machine.read(offset, width)
        assert len(machine.passed.config.data) == size
    assert set(guest_extended(machine) if size > 256 else []).isdisjoint(HIDDEN_EXTENDED)
    assert 0x14 not in guest_list(machine)
    assert machine.read(0, 4) == 0x525A10EC
    written = [entry for entry in host.diary if entry[0] == "config"]
    assert all(at == pci.COMMAND or at >= pci.FIRST_CAPABILITY for _, at, _, _ in written)


@given(spaces())
@settings(deadline=None)
def test_writes_reach_only_what_is_passed(space: bytearray) -> None:
    """A byte is ours or passed, never both."""
    config = PassedConfig(FakeHost(space))
    assert not any(ours and passed for ours, passed in zip(config.ours, config.passed, strict=True))
