"""The 6300ESB watchdog: fed it sleeps, forgotten it bites, and locked it stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from runner.bus.pci import PciBus
from runner.bus.pci_bar import AddressSpace
from runner.devices import i6300esb as esb
from runner.devices.ports import WatchdogBit
from runner.wire import pci
from tests.unit.virtio_driver import MMIO, Attachment, Mapper, placed

SECOND = 1_000_000_000


class Machine:
    """The function on a bus, driven as Linux' driver does it."""

    def __init__(self, action: str = "reset") -> None:
        self.at = Attachment()
        options: dict[str, Any] = {"action": action}
        self.node = placed("i6300esb", "watchdog", "watchdog", options, esb.claim("w", options), intx=False)
        self.device = esb.build(self.node, self.at)
        self.mapper = Mapper()
        self.bus = PciBus(AddressSpace((MMIO,), self.mapper))
        self.bus.add("00:05.0", self.device.function)
        self.config(pci.COMMAND, 2, pci.COMMAND_MEMORY)

    def config(self, offset: int, size: int, value: int) -> None:
        self.bus.write_config(0, 0x28, offset, size, value)

    def write(self, offset: int, size: int, value: int) -> None:
        self.device.write(esb.RELOAD, 1, 0x80)
        self.device.write(esb.RELOAD, 1, 0x86)
        self.device.write(offset, size, value)

    def set_up(self, seconds: int) -> None:
        self.config(esb.CONFIG, 2, 3)
        self.write(esb.TIMER1, 4, seconds << 9)
        self.write(esb.TIMER2, 4, seconds << 9)
        self.feed()
        self.config(esb.LOCK, 1, esb.LOCK_ENABLE)

    def feed(self) -> None:
        self.write(esb.RELOAD, 2, esb.RELOAD_NOW)

    def pass_(self, seconds: float) -> None:
        """Time passes in small steps."""
        for _ in range(int(seconds * 10)):
            self.at.clock.now += SECOND // 10
            self.at.loop.run(self.at.clock.now)


def test_it_is_the_function_that_drivers_look_for() -> None:
    """8086:25ab with one small memory BAR."""
    machine = Machine()
    assert machine.bus.read_config(0, 0x28, 0, 4) == 0x25AB8086
    assert machine.mapper.mapped == {("watchdog", 0): MMIO.start}


@pytest.mark.parametrize(
    ("action", "effects"),
    [("reset", [WatchdogBit("reset")]), ("poweroff", [WatchdogBit("poweroff")]), ("none", [])],
)
def test_forgotten_it_bites_once(action: str, effects: list[Any]) -> None:
    """After both stages, not before, the action follows, and it is logged."""
    machine = Machine(action)
    machine.set_up(10)
    machine.pass_(9)
    assert machine.at.logged == []
    machine.pass_(30)
    assert machine.at.requested == effects
    assert [event for _, event, _ in machine.at.logged] == ["watchdog-bites"]
    assert machine.device.read(esb.RELOAD, 2) == esb.RELOAD_TIMED_OUT
    machine.write(esb.RELOAD, 2, esb.RELOAD_TIMED_OUT)
    assert machine.device.read(esb.RELOAD, 2) == 0


def test_fed_it_sleeps() -> None:
    """Every reload starts both stages again."""
    machine = Machine()
    machine.set_up(10)
    for _ in range(8):
        machine.pass_(8)
        machine.feed()
    assert machine.at.requested == []


def test_it_waits_while_the_guest_is_paused() -> None:
    """A pause of any length is none of its time; what was left of the stage is still to come."""
    machine = Machine()
    machine.set_up(10)
    machine.pass_(8)
    machine.device.pause()
    machine.pass_(1000)
    assert machine.at.requested == []
    machine.device.resume()
    machine.pass_(1)
    assert machine.at.requested == []
    machine.pass_(2)
    assert machine.at.requested == [WatchdogBit("reset")]


def test_a_pause_does_not_start_one_that_was_off() -> None:
    """Resuming counts only what was counting."""
    machine = Machine()
    machine.device.pause()
    machine.device.resume()
    machine.pass_(1000)
    assert machine.at.requested == []


def test_switched_off_it_sleeps() -> None:
    """Clearing the enable bit stops the countdown."""
    machine = Machine()
    machine.set_up(5)
    machine.config(esb.LOCK, 1, 0)
    machine.pass_(60)
    assert machine.at.requested == []


def test_locked_it_stays_as_it_is() -> None:
    """Lock, enable and prescaler cannot be changed any more; a reset of the bus frees them."""
    machine = Machine()
    machine.set_up(5)
    machine.config(esb.LOCK, 1, esb.LOCK_ENABLE | esb.LOCK_LOCKED)
    machine.config(esb.LOCK, 1, 0)
    machine.config(esb.CONFIG, 2, esb.CONFIG_OUTPUT_DISABLED)
    machine.pass_(20)
    assert machine.at.requested == [WatchdogBit("reset")]
    machine.bus.reset()
    machine.config(esb.LOCK, 1, esb.LOCK_FREE_RUN)
    assert machine.bus.read_config(0, 0x28, esb.LOCK, 1) == esb.LOCK_FREE_RUN


def test_writes_without_the_unlock_sequence_are_lost() -> None:
    """Both values, in order, before every single write."""
    machine = Machine()
    machine.set_up(5)
    machine.device.write(esb.TIMER1, 4, 0xFFFFF)
    machine.device.write(esb.RELOAD, 1, 0x86)
    machine.device.write(esb.RELOAD, 1, 0x80)
    machine.device.write(esb.TIMER1, 4, 0xFFFFF)
    machine.write(esb.TIMER2, 4, 5 << 9)
    machine.device.write(esb.TIMER1, 4, 0xFFFFF)
    machine.device.write(esb.RELOAD, 2, esb.RELOAD_NOW)
    machine.pass_(10)
    assert machine.at.requested == [WatchdogBit("reset")]


def test_with_its_output_off_it_only_notes_the_time() -> None:
    """CONFIG bit 5: the timeout is seen in the register and nothing else happens."""
    machine = Machine()
    machine.set_up(5)
    machine.config(esb.CONFIG, 2, esb.CONFIG_OUTPUT_DISABLED | 3)
    machine.pass_(20)
    assert machine.at.requested == []
    assert machine.device.read(esb.RELOAD, 2) == esb.RELOAD_TIMED_OUT


def test_in_words_of_qemu() -> None:
    """The device at its slot; a bite pauses QEMU, which is the end, unless nothing is to happen."""
    words = esb.qemu(Machine("none").node)
    assert words[0] == "-device"
    assert words[1].startswith("i6300esb,id=watchdog")
    assert words[2:] == ("-action", "watchdog=none")
    assert len(esb.qemu(Machine("reset").node)) == 2


def test_a_guest_that_feeds_without_end_leaves_one_timer() -> None:
    """As with device-bugs 3 and 16: what a guest can ask for again and again is not kept each time."""
    machine = Machine()
    machine.set_up(1000)
    for _ in range(1000):
        machine.feed()
    assert len(machine.at.loop.timers) == 1
