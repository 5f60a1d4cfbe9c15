"""The clock: what Linux reads is the host's time, what it sets it keeps, and its interrupts come on time."""

from __future__ import annotations

import calendar
import time

from hypothesis import given
from hypothesis import strategies as st

from runner.devices.cmos_rtc import CmosRtc, epoch
from tests.unit.wired import Line, Time

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
MOMENT = calendar.timegm((2024, 2, 29, 23, 59, 57))
SECOND = 1_000_000_000


class Clock:
    def __init__(self, wall: float = MOMENT) -> None:
        self.line, self.time = Line(), Time(wall)
        self.rtc = CmosRtc(self.line, self.time, self.time)

    def get(self, register: int) -> int:
        self.rtc.write(0, 1, register)
        return self.rtc.read(1, 1)

    def put(self, register: int, value: int) -> None:
        self.rtc.write(0, 1, register)
        assert self.rtc.write(1, 1, value) is None

    def date(self) -> tuple[int, ...]:
        return tuple(self.get(register) for register in (0x32, 9, 8, 7, 4, 2, 0))


def test_time_is_the_hosts_in_bcd() -> None:
    """Linux's mc146818_get_time reads 2024-02-29 23:59:57, century included."""
    clock = Clock()
    assert clock.date() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x57)
    assert clock.get(6) == 5, "a Thursday; Sunday is 1"
    assert clock.get(B) & 0x07 == 0x02, "24 hours, BCD"
    assert clock.get(D) == 0x80, "the memory is valid"


def test_time_goes_on_over_the_end_of_a_leap_day() -> None:
    """Three seconds later it is the first of March."""
    clock = Clock()
    clock.time.advance(3 * SECOND)
    assert clock.date() == (0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00)


def test_binary_and_twelve_hours() -> None:
    """The DM and 24/12 bits of register B change how the same time reads."""
    clock = Clock()
    clock.put(B, 0x06)
    assert clock.date() == (20, 24, 2, 29, 23, 59, 57)
    clock.put(B, 0x04)
    assert clock.get(4) == 11 | 0x80
    clock.put(B, 0x00)
    assert clock.get(4) == 0x11 | 0x80


def test_guest_sets_its_own_time() -> None:
    """SET holds the registers, and on release the clock runs on from them; the host's is not touched."""
    clock = Clock()
    clock.put(B, 0x82)
    for register, value in ((0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)):
        clock.put(register, value)
    clock.time.advance(10 * SECOND)
    assert clock.date() == (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58), "held"
    clock.put(B, 0x02)
    clock.time.advance(2 * SECOND)
    assert clock.date() == (0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00)


def test_update_in_progress_is_announced() -> None:
    """The UIP bit is up for the last 244 microseconds of a second, and then the new second is there."""
    clock = Clock()
    clock.time.advance(SECOND - 300_000)
    assert clock.get(A) & 0x80 == 0
    clock.time.advance(100_000)
    assert clock.get(A) & 0x80
    clock.time.advance(200_000)
    assert clock.get(A) & 0x80 == 0
    assert clock.get(0) == 0x58


def test_memory_keeps_bytes() -> None:
    """Registers 0x0e to 0x7f are memory; the NMI mask in the index does not select another byte."""
    clock = Clock()
    for register in range(0x0E, 0x80):
        if register != 0x32:
            clock.put(register, register ^ 0xFF)
    assert all(clock.get(r | 0x80) == r ^ 0xFF for r in range(0x0E, 0x80) if r != 0x32)


def test_alarm_interrupts_once_at_its_second() -> None:
    """The alarm raises line 8 when hours, minutes and seconds match, and reading C takes it down."""
    clock = Clock()
    for register, value in ((5, 0x23), (3, 0x59), (1, 0x59)):
        clock.put(register, value)
    clock.put(B, 0x22)
    clock.time.advance(SECOND)
    assert not clock.line.level
    clock.time.advance(SECOND)
    assert clock.line.level
    assert clock.get(C) & 0xA0 == 0xA0
    assert not clock.line.level
    clock.time.advance(5 * SECOND)
    assert clock.line.rises == 1


def test_alarm_registers_that_do_not_care_match_every_second() -> None:
    """0xc0 to 0xff in an alarm register is a wild card."""
    clock = Clock()
    for register in (5, 3, 1):
        clock.put(register, 0xFF)
    clock.put(B, 0x22)
    for expected in (1, 2, 3):
        clock.time.advance(SECOND)
        clock.get(C)
        assert clock.line.rises == expected


def test_update_interrupt_comes_every_second_and_flags_without_it() -> None:
    """UIE raises the line each second; without it UF can still be polled."""
    clock = Clock()
    clock.time.advance(SECOND)
    assert clock.get(C) == 0x10, "the flag is there, no interrupt was asked for"
    clock.put(B, 0x12)
    clock.time.advance(SECOND)
    assert clock.line.rises == 1
    assert clock.get(C) & 0x90 == 0x90


def test_periodic_interrupt_has_its_rate() -> None:
    """Rate select 12 is 16 Hz; a guest that answers each gets 16 in a second."""
    clock = Clock()
    clock.put(A, 0x2C)
    clock.put(B, 0x42)
    for _ in range(16):
        clock.time.advance(SECOND // 16 + 1000)
        assert clock.get(C) & 0xC0 == 0xC0
    assert clock.line.rises == 16


def test_fastest_period_does_not_spend_the_hosts_time() -> None:
    """8192 Hz (rate 3) is served at 1024 Hz."""
    clock = Clock()
    clock.put(A, 0x23)
    clock.put(B, 0x42)
    clock.time.advance(SECOND // 4)
    assert 200 <= clock.time.ran <= 257


def test_nothing_is_planned_that_nobody_asked_for() -> None:
    """An idle clock costs the host no wake-up."""
    clock = Clock()
    clock.put(B, 0x42)
    clock.put(B, 0x02)
    clock.time.advance(SECOND)
    assert clock.time.planned == []


@given(st.integers(-62135596800, 253402300799))
def test_epoch_is_the_inverse_of_the_calendar(seconds: int) -> None:
    """Every second of the years 1 to 9999 has one date, and the date that second."""
    date = time.gmtime(seconds)
    of_day = date.tm_hour * 3600 + date.tm_min * 60 + date.tm_sec
    assert epoch(date.tm_year, date.tm_mon, date.tm_mday, of_day) == seconds


steps = st.tuples(st.sampled_from(["put", "get", "time"]), st.integers(0, 255), st.integers(0, 255))


@given(st.lists(steps, max_size=50))
def test_no_sequence_breaks_the_clock(sequence: list[tuple[str, int, int]]) -> None:
    """Whatever is written: every register reads as a byte, and the callbacks that count stay one."""
    clock = Clock()
    for what, register, value in sequence:
        if what == "put":
            clock.put(register, value)
        elif what == "get":
            assert 0 <= clock.get(register) <= 0xFF
        else:
            clock.time.advance(value * 10_000_000, at_most=clock.time.ran + 4000)
    for register in range(128):
        assert 0 <= clock.get(register) <= 0xFF


def test_a_date_that_does_not_exist_leaves_the_clock_as_it_was() -> None:
    """Century and year 0xff would be the year 16665, which no register could show."""
    clock = Clock()
    clock.put(B, 0x82)
    clock.put(0x32, 0xFF)
    clock.put(9, 0xFF)
    clock.put(B, 0x02)
    assert clock.date() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x57)


def test_time_beyond_the_last_century_still_reads_as_bytes() -> None:
    """A host clock gone wild shows a wrong century, not a register of nine bits."""
    clock = Clock(450_000_000_000)  # in the year 16229
    assert all(0 <= part <= 0xFF for part in clock.date())


def test_writing_control_registers_again_and_again_leaves_one_callback_that_counts() -> None:
    """A guest that rewrites register B a thousand times gets each second's interrupt once."""
    clock = Clock()
    for _ in range(1000):
        clock.put(B, 0x12)
    clock.time.advance(SECOND)
    assert clock.line.rises == 1
    clock.get(C)
    assert sum(1 for due, _ in clock.time.planned if due > clock.time.now) == 1
