"""i8042, exit port, debug console and pvpanic: each port does its one thing and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.devices.debugcon import Debugcon
from runner.devices.exit_port import ExitPort
from runner.devices.i8042 import I8042
from runner.devices.ports import ExitStatus, GuestPanicked, Reset
from runner.devices.pvpanic import Pvpanic
from tests.unit.wired import Sink

sizes = st.sampled_from([1, 2, 4])


def test_i8042_looks_absent_to_the_probe_and_ready_to_the_reboot() -> None:
    """Output full for ever makes i8042_flush give up; input free at once lets kb_wait go on."""
    command = I8042().ranges[1]
    assert all(command.read(0, 1) & 0x03 == 0x01 for _ in range(20))


def test_i8042_resets_on_a_pulse_of_the_reset_line() -> None:
    """0xfe is what reboots write; every pulse that lowers bit 0 is the same, other commands are not."""
    command = I8042().ranges[1]
    assert command.write(0, 1, 0xFE) == Reset("i8042")
    for value in range(256):
        expected = Reset("i8042") if value >= 0xF0 and not value & 1 else None
        assert command.write(0, 1, value) == expected


def test_i8042_resets_by_its_output_port() -> None:
    """Command 0xd1 makes the next data byte the output port, whose bit 0 low is reset; once only."""
    data, command = I8042().ranges
    assert data.write(0, 1, 0x00) is None
    command.write(0, 1, 0xD1)
    assert data.write(0, 1, 0xDF) is None, "A20 on, no reset"
    assert data.write(0, 1, 0xDE) is None, "an ordinary data byte again"
    command.write(0, 1, 0xD1)
    assert data.write(0, 1, 0xDE) == Reset("i8042")


@given(st.integers(0, 255))
def test_exit_port_hands_over_every_status(status: int) -> None:
    """One byte, all 256 values."""
    assert ExitPort().write(0, 1, status) == ExitStatus(status)


@given(st.sampled_from([2, 4]), st.integers(0, 2**32 - 1))
def test_exit_port_takes_no_wide_write(size: int, value: int) -> None:
    """A string or word that strays over the port is no status."""
    assert ExitPort().write(0, size, value) is None
    assert ExitPort().read(0, size) == 0


@given(st.lists(st.tuples(sizes, st.integers(0, 2**32 - 1))))
def test_debug_console_passes_bytes_as_they_lie_in_memory(writes: list[tuple[int, int]]) -> None:
    """Each write of any size arrives little-endian, and reading tells the console is there."""
    sink = Sink()
    port = Debugcon(sink)
    for size, value in writes:
        assert port.write(0, size, value) is None
    expected = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for size, value in writes)
    assert bytes(sink.taken) == expected
    assert port.read(0, 1) == 0xE9


def test_debug_console_drops_what_is_not_taken() -> None:
    """device-bugs 16: a reader that stalls costs nothing."""
    sink = Sink(room=2)
    Debugcon(sink).write(0, 4, 0x64636261)
    assert bytes(sink.taken) == b"ab"


@given(sizes, st.integers(0, 2**32 - 1))
def test_pvpanic_tells_panic_and_crash_loaded_apart(size: int, value: int) -> None:
    """Bit 0 is a panic, bit 1 alone a crash kernel; nothing else means anything."""
    effect = Pvpanic().write(0, size, value)
    if value & 1:
        assert effect == GuestPanicked()
    elif value & 2:
        assert effect == GuestPanicked(crash_loaded=True)
    else:
        assert effect is None
    assert Pvpanic().read(0, 1) == 3
