"""A passed-through function as a whole: claims, BARs, resets, power (reference/vfio.md, engine 5 to 9)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.devices import vfio
from runner.graph.encode import from_json
from runner.graph.model import BarClaim
from runner.hostfacts import HostFacts
from runner.wire import pci
from tests.unit.passed_host import (
    ADVANCED,
    POWER,
    FakeHost,
    Machine,
    claim_of,
    config_space,
    express,
    msi,
    msix,
)
from tests.unit.plan_goldens import GOLDEN

REGISTERS = BarClaim(0, 0x4000, "mem32", at=0xC0000000)
LARGE = BarClaim(2, 1 << 32, "mem64", prefetchable=True, at=2 << 32)
PORTS = BarClaim(4, 0x20, "io", at=0x1000)
MEMORY, IO, MASTER = pci.COMMAND_MEMORY, pci.COMMAND_IO, pci.COMMAND_MASTER
BARS = (REGISTERS, LARGE, PORTS)


def machine_of(*parts: tuple[int, bytes], **claimed: Any) -> Machine:
    memory = {bar.bar: bytearray(min(bar.size, 0x4000)) for bar in BARS}
    host = FakeHost(config_space(*parts), memory)
    return Machine(host, claim_of(*BARS, intx_pin=1, **claimed))


@pytest.mark.parametrize("wired", [True, False])
def test_pin_is_shown_where_the_host_gives_the_interrupt(wired: bool) -> None:
    """sysfs has told the plan of a pin; VFIO says at last whether anything comes from it."""
    host = FakeHost(config_space(), {bar.bar: bytearray(16) for bar in BARS})
    host.wires = wired
    machine = Machine(host, claim_of(*BARS, intx_pin=1))
    assert machine.read(pci.INTERRUPT_PIN, 1) == wired
    assert host.taken("wire") == ([("wire", True)] if wired else [])


def started(*parts: tuple[int, bytes], **claimed: Any) -> Machine:
    machine = machine_of(*parts, **claimed)
    machine.write(pci.COMMAND, 2, MEMORY | IO | MASTER)
    machine.host.taken()
    return machine


# ---- the claim, from facts


def claim_for(**options: Any) -> Any:
    facts = from_json(HostFacts, json.loads((GOLDEN / "hosts" / "laptop.json").read_text()))
    resolved = vfio.resolve("devices.reader", {"match": {"vendor": "10ec", "device": "525a"}}, facts)
    function: Any = resolved["function"]
    return vfio.claim("devices.reader", {**resolved, "function": {**function, **options}})


def test_small_memory_bar_gets_a_page_of_its_own() -> None:
    """So that it can be mapped with nothing else in its page; ports stay as small as they are."""
    bars = [
        {"bar": 0, "kind": "mem32", "size": 256, "prefetchable": False},
        {"bar": 1, "kind": "io", "size": 32, "prefetchable": False},
    ]
    claim = claim_for(bars=bars, rom_size=2048)
    assert [(bar.bar, bar.size) for bar in claim.pci.bars] == [(0, 4096), (1, 32), (6, 4096)]


def test_rom_is_shown_unless_the_definition_says_no() -> None:
    claim = vfio.claim("devices.x", {"function": claim_options(rom_size=0x10000)})
    assert [bar.bar for bar in claim.pci.bars] == [6]
    claim = vfio.claim("devices.x", {"rom": False, "function": claim_options(rom_size=0x10000)})
    assert claim.pci.bars == ()


def claim_options(**more: Any) -> Any:
    plain = {
        "address": "0000:01:00.0", "vendor": "10ec", "device": "525a", "class_code": "ff0000",
        "subsystem_vendor": "", "subsystem_device": "", "revision": "01", "iommu_group": 7, "bars": [],
        "rom_size": 0, "intx_pin": 2, "msi_vectors": 1, "msix_vectors": 0,
    }  # fmt: skip
    return {**plain, **more}


def test_vectors_that_this_user_cannot_count_have_room() -> None:
    """An ordinary user sees no capability: the function itself says later how many there are."""
    claim = vfio.claim("devices.x", {"function": claim_options(capabilities_known=False, msi_vectors=0)})
    assert claim.pci is not None
    assert (claim.pci.msi_vectors, claim.pci.msix_vectors) == (32, 64)
    machine = started(msix(4, 0x2000, 0x3000), msi_vectors=32, msix_vectors=64)
    assert machine.read(0x42, 2) == 3
    machine.write(0x42, 2, pci.MSIX_ENABLE)
    assert ("msix", 4) in machine.host.taken("msix")


def test_two_functions_of_one_group_share_its_backend() -> None:
    """The group is opened once, and so is the container."""
    one = vfio.claim("devices.a", {"function": claim_options()})
    other = vfio.claim("devices.b", {"function": claim_options(address="0000:01:00.1")})
    assert one.backends[1:] == other.backends[1:]
    assert one.backends[0] != other.backends[0]


def test_function_can_sit_below_a_root_port() -> None:
    claim = vfio.claim("devices.x", {"bus": "port", "function": claim_options()})
    assert claim.pci is not None
    assert claim.pci.bus == "port"


# ---- BARs


def test_function_is_reset_before_anything_is_read() -> None:
    assert machine_of().host.taken()[0] == ("reset",)


def test_bars_are_placed_when_they_are_decoded() -> None:
    """Also those above 4 GiB, and ports."""
    machine = machine_of()
    machine.host.taken()
    machine.write(pci.COMMAND, 2, MEMORY | IO)
    assert machine.mapper.mapped == {0: 0xC0000000, 2: 2 << 32, 4: 0x1000}
    assert machine.host.taken("place") == [
        ("place", 0, 0xC0000000), ("place", 2, 2 << 32), ("place", 4, 0x1000),
    ]  # fmt: skip


def test_bar_moves() -> None:
    machine = started()
    machine.write(0x10, 4, 0xC0100000)
    assert machine.host.taken() == [("place", 0, 0xC0100000)]


def test_bar_that_cannot_move_stays() -> None:
    """A refusal of the host leaves register and mapping as they were (device-bugs 11)."""
    machine = started()
    machine.host.refuses = lambda what: what == "place"
    machine.write(0x10, 4, 0xC0100000)
    assert machine.read(0x10, 4) == 0xC0000000
    assert machine.mapper.mapped[0] == 0xC0000000
    machine.host.refuses = lambda _what: False
    machine.write(pci.COMMAND, 2, 0)
    machine.write(pci.COMMAND, 2, MEMORY)
    assert machine.host.taken("place")[-1] == ("place", 2, 2 << 32)


@pytest.mark.parametrize("target", [0x1000, 0xD0000000, 0xFEE00000])
def test_bar_goes_nowhere_outside_its_windows(target: int) -> None:
    """Not onto memory, not onto the interrupt controllers: the host is not even asked (device-bugs 11)."""
    machine = started()
    machine.write(0x10, 4, target)
    assert machine.read(0x10, 4) == 0xC0000000
    assert machine.host.taken("place") == []


def test_no_bar_goes_onto_another() -> None:
    """Of one function or of two (device-bugs 9: nothing of the guest's is seen through a BAR)."""
    machine = started()
    machine.write(0x1C, 4, 0)
    machine.write(0x18, 4, 0xC0000000)
    assert machine.mapper.mapped[2] == 2 << 32
    assert machine.host.taken("place") == []


def test_page_of_a_small_bar_has_nothing_behind_it() -> None:
    """256 bytes rounded up to a page: the rest reads as ones and takes nothing."""
    host = FakeHost(config_space(), {0: bytearray(256)})
    bar = BarClaim(0, 4096, "mem32", at=0xC0000000)
    machine = Machine(host, claim_of(bar), {0: 256})
    machine.write_bar(0, 252, 4, 0x12345678)
    assert machine.read_bar(0, 252, 4) == 0x12345678
    for at, size in ((256, 4), (254, 4), (252, 8), (4088, 8)):
        machine.write_bar(0, at, size, 0)
        assert machine.read_bar(0, at, size) == (1 << 8 * size) - 1
    assert machine.read_bar(0, 252, 4) == 0x12345678


def test_ports_are_trapped() -> None:
    machine = started()
    machine.write_bar(4, 0x1C, 4, 0xCAFE)
    assert machine.read_bar(4, 0x1C, 2) == 0xCAFE
    assert machine.host.taken("bar") == [("bar", 4, 0x1C, 4, 0xCAFE)]


# ---- resets


def test_reset_of_the_machine() -> None:
    """Everything as at the start: BARs nowhere, no messages, DMA off, the function reset, INTx on."""
    machine = started(msix(4, 0x2000, 0x3000), msix_vectors=4)
    machine.write(0x42, 2, pci.MSIX_ENABLE)
    machine.write_bar(0, 0x200C, 4, 0)
    machine.host.taken()
    machine.bus.reset()
    asked = machine.host.taken("msix", "reset", "config", "wire")
    assert asked == [("msix", 0), ("reset",), ("config", pci.COMMAND, 2, 0), ("wire", True)]
    assert machine.mapper.mapped == {}
    assert machine.sink.live == {}
    assert machine.read(0x42, 2) == 3
    machine.write(0x42, 2, pci.MSIX_ENABLE)
    assert machine.host.taken("msix", "wire") == [("wire", False), ("msix", 4)]


def test_reset_with_msi_brings_the_wire_back() -> None:
    machine = started(msi(), msi_vectors=1)
    machine.write(0x42, 2, 1)
    machine.host.taken()
    machine.bus.reset()
    assert machine.host.taken("msi", "reset", "wire") == [("msi", 0), ("reset",), ("wire", True)]
    assert machine.sink.live == {}


@pytest.mark.parametrize(
    ("capability", "at", "size", "value"),
    [(express(), 0x48, 2, 0x8000), (express(), 0x49, 1, 0x80), (ADVANCED, 0x44, 1, 1)],
)
def test_function_level_reset_by_the_guest(
    capability: tuple[int, bytes], at: int, size: int, value: int
) -> None:
    """It reaches the host, which does it; our registers are then as after a reset, BARs and MSI-X too."""
    machine = started(capability, msix(4, 0x2000, 0x3000), msix_vectors=4)
    control = machine.passed.config.find(pci.CAP_MSIX, 12)
    assert control is not None
    machine.write(control + 2, 2, pci.MSIX_ENABLE)
    machine.host.taken()
    machine.write(at, size, value)
    asked = machine.host.taken()
    assert asked[0] == ("config", at, size, value)
    assert ("reset",) not in asked
    assert asked[-2:] == [("config", pci.COMMAND, 2, 0), ("wire", True)]
    assert machine.read(pci.COMMAND, 2) == 0
    assert machine.read(control + 2, 2) == 3
    assert machine.mapper.mapped == {}


def test_what_a_guest_saved_it_can_restore_after_a_reset() -> None:
    """As Linux does: header backwards, then MSI-X, and everything is as before."""
    machine = started(express(), msix(4, 0x2000, 0x3000), msix_vectors=4)
    msix_at = 0x80
    machine.write(msix_at + 2, 2, pci.MSIX_ENABLE)
    for at, value in ((0x2010, 0xFEE00000), (0x2018, 0x41), (0x201C, 0)):
        machine.write_bar(0, at, 4, value)
    live, saved = dict(machine.sink.live), [machine.read(at, 4) for at in range(0, 64, 4)]
    machine.write(0x48, 2, 0x8000)
    assert machine.sink.live == {}
    for number in reversed(range(16)):
        machine.write(4 * number, 4, saved[number])
    machine.write(msix_at + 2, 2, pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK)
    for at, value in ((0x2010, 0xFEE00000), (0x2018, 0x41), (0x201C, 0)):
        machine.write_bar(0, at, 4, value)
    machine.write(msix_at + 2, 2, pci.MSIX_ENABLE)
    assert machine.sink.live == live
    assert machine.mapper.mapped == {0: 0xC0000000, 2: 2 << 32, 4: 0x1000}


@pytest.mark.parametrize("value", [0x0010, 0x7FFF])
def test_device_control_without_the_bit_resets_nothing(value: int) -> None:
    machine = started(express())
    machine.write(0x48, 2, value)
    assert machine.read(pci.COMMAND, 2) == MEMORY | IO | MASTER


def test_reset_that_the_function_has_not_resets_nothing() -> None:
    """The host ignores the bit then, and so do we."""
    machine = started(express(flr=False))
    machine.write(0x48, 2, 0x8000)
    assert machine.read(pci.COMMAND, 2) == MEMORY | IO | MASTER


# ---- power


def test_sleeping_function_is_not_mapped() -> None:
    """VFIO faults accesses to the memory of a function in D3, so it is trapped before and mapped after."""
    machine = started(POWER)
    machine.write(0x44, 2, 3)
    places = [("place", bar.bar, None) for bar in BARS]
    assert machine.host.taken() == [*places, ("config", 0x44, 2, 3)]
    machine.write(0x44, 2, 0)
    back = [("place", bar.bar, bar.at) for bar in BARS]
    assert machine.host.taken() == [("config", 0x44, 2, 0), *back]


def test_bar_that_moves_while_asleep_is_mapped_when_awake() -> None:
    machine = started(POWER)
    machine.write(0x44, 1, 3)
    machine.host.taken()
    machine.write(0x10, 4, 0xC0100000)
    assert machine.host.taken("place") == []
    machine.write(0x44, 1, 0)
    assert ("place", 0, 0xC0100000) in machine.host.taken("place")


def test_bar_that_cannot_be_mapped_again_stays_trapped() -> None:
    machine = started(POWER)
    machine.write(0x44, 2, 3)
    machine.host.refuses = lambda what: what == "place"
    machine.write(0x44, 2, 0)
    assert len(machine.reports) == len(BARS)


def test_other_power_bits_change_no_mapping() -> None:
    machine = started(POWER)
    machine.write(0x45, 1, 0x81)
    assert machine.host.taken() == [("config", 0x45, 1, 0x81)]
