"""ACPI fixed hardware: off means off, the button asks first, the timer counts, and 0xcf9 resets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.devices.acpi_pm import AcpiPm
from runner.devices.ports import Effect, PowerOff, Reset
from tests.unit.wired import Line, Time

EVENT, CONTROL, TIMER, RESET = range(4)
PWRBTN = 0x100
TURN_NS = (1 << 31) * 1_000_000_000 // 3_579_545 + 1  # until the timer's top bit changes


class Pm:
    def __init__(self) -> None:
        self.line, self.time = Line(), Time()
        self.pm = AcpiPm(self.line, self.time, self.time)

    def get(self, block: int, offset: int = 0, size: int = 2) -> int:
        return self.pm.ranges[block].read(offset, size)

    def put(self, block: int, value: int, offset: int = 0, size: int = 2) -> Effect | None:
        return self.pm.ranges[block].write(offset, size, value)


def test_s5_switches_off() -> None:
    """SLP_TYP 5 with SLP_EN is a power-off, in one word as Linux writes it or in the high byte alone."""
    assert Pm().put(CONTROL, 5 << 10 | 1 << 13) == PowerOff()
    assert Pm().put(CONTROL, 5 << 2 | 1 << 5, offset=1, size=1) == PowerOff()


def test_nothing_else_switches_off() -> None:
    """Another sleep type, or S5 without SLP_EN (Linux writes that first), does nothing."""
    pm = Pm()
    assert pm.put(CONTROL, 5 << 10) is None
    assert all(pm.put(CONTROL, kind << 10 | 1 << 13) is None for kind in (0, 1, 3, 4, 6, 7))
    assert pm.get(CONTROL) == 1, "SCI_EN is on: ACPI mode needs no switch"


def test_power_button_raises_the_sci_until_it_is_answered() -> None:
    """PWRBTN_STS with PWRBTN_EN is level-triggered; writing a one clears it."""
    pm = Pm()
    pm.put(EVENT, PWRBTN, offset=2)
    pm.pm.press_power_button()
    assert pm.line.level
    assert pm.get(EVENT) == PWRBTN
    pm.put(EVENT, 0)
    assert pm.line.level, "writing a zero clears nothing"
    pm.put(EVENT, PWRBTN)
    assert not pm.line.level
    assert pm.get(EVENT) == 0


def test_button_before_the_guest_listens_is_not_lost() -> None:
    """A press while PWRBTN_EN is off raises the SCI when the guest enables it."""
    pm = Pm()
    pm.pm.press_power_button()
    assert not pm.line.level
    pm.put(EVENT, PWRBTN, offset=2)
    assert pm.line.level


def test_status_and_enable_do_not_touch_each_other() -> None:
    """A byte, word or doubleword reaches only the bits it covers."""
    pm = Pm()
    pm.put(EVENT, PWRBTN | 1, offset=2)
    pm.pm.press_power_button()
    pm.put(EVENT, 0x01, offset=3, size=1)
    assert pm.get(EVENT, size=4) == (PWRBTN | 1) << 16 | PWRBTN
    pm.put(EVENT, PWRBTN << 16 | PWRBTN, size=4)
    assert pm.get(EVENT, size=4) == PWRBTN << 16


def test_timer_counts_3579545_a_second_and_wraps_at_32_bits() -> None:
    """The PM timer is what Linux calibrates and cross-checks other clocks with."""
    pm = Pm()
    assert pm.get(TIMER, size=4) == 0
    pm.time.advance(1_000_000_000)
    assert pm.get(TIMER, size=4) == 3_579_545
    pm.time.advance(1200 * 1_000_000_000)
    assert pm.get(TIMER, size=4) == 1201 * 3_579_545 & 0xFFFF_FFFF
    pm.put(TIMER, 0, size=4)
    assert pm.get(TIMER, size=4) == 1201 * 3_579_545 & 0xFFFF_FFFF, "it cannot be written"


def test_timer_carry_interrupts_when_enabled() -> None:
    """TMR_STS comes with each change of the top bit; only TMR_EN makes the host wake for it."""
    pm = Pm()
    assert pm.time.planned == []
    pm.put(EVENT, 1, offset=2)
    pm.time.advance(TURN_NS - 2)
    assert not pm.line.level
    pm.time.advance(2)
    assert pm.line.level
    pm.put(EVENT, 1)
    assert not pm.line.level
    pm.time.advance(TURN_NS)
    assert pm.line.level
    assert len(pm.time.planned) == 1


def test_timer_carry_can_be_polled() -> None:
    """Without TMR_EN the status bit is there for who asks."""
    pm = Pm()
    pm.time.advance(TURN_NS)
    assert pm.get(EVENT) & 1


def test_reset_register_resets_on_its_cpu_bit() -> None:
    """0x06 and 0x0e reset; 0x02, which Linux writes first, only chooses how."""
    pm = Pm()
    assert pm.put(RESET, 0x02, size=1) is None
    assert pm.put(RESET, 0x06, size=1) == Reset("cf9")
    assert pm.put(RESET, 0x0E, size=1) == Reset("cf9")
    assert pm.get(RESET, size=1) == 0


values = st.integers(0, 2**32 - 1)
accesses = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2, 4]), values)


@given(st.lists(accesses, max_size=40))
def test_no_sequence_breaks_the_registers(writes: list[tuple[int, int, int, int]]) -> None:
    """Whatever is written anywhere: reads stay in size, the SCI is up exactly for enabled status bits."""
    pm = Pm()
    for block, offset, size, value in writes:
        pm.put(block, value, offset, size)
        pm.pm.press_power_button()
        status_enable = pm.get(EVENT, size=4)
        assert pm.line.level == bool(status_enable & status_enable >> 16 & 0x101)
        for each in range(4):
            assert 0 <= pm.get(each, offset, size) < 1 << 8 * size


def test_enable_bits_that_do_not_exist_stay_clear() -> None:
    """A driver that writes all ones and reads back learns which events there are."""
    pm = Pm()
    pm.put(EVENT, 0xFFFF, offset=2)
    assert pm.get(EVENT, offset=2) == 1 << 10 | PWRBTN | 1 << 5 | 1
