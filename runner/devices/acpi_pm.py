"""ACPI fixed hardware: power button, sleep control, power management timer, reset register.

Registers after ACPI 6.4, section 4.8.3; SLP_TYP 5 is S5 (the DSDT's ``_S5`` says the same),
no other sleep state is offered.  There is no SMI command port, so SCI_EN is always on.  The
reset register is the chipset's at 0xcf9, which the FADT names.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import (
    Attachment,
    Clock,
    Effect,
    EventLoop,
    IrqLine,
    PowerOff,
    RegisterDevice,
    Reset,
)
from runner.graph.model import Claim, IrqClaim, Node, PortClaim
from runner.typed import Mapping, Protocol

EVENT_PORT, CONTROL_PORT, TIMER_PORT, RESET_PORT = 0x600, 0x604, 0x608, 0xCF9
SCI = 9
TIMER_HZ = 3_579_545
SLEEP_TYPE_S5 = 5

TMR, PWRBTN = 1 << 0, 1 << 8  # bits of PM1_STS and PM1_EN
STATUS_BITS = TMR | PWRBTN
ENABLE_BITS = TMR | 1 << 5 | PWRBTN | 1 << 10  # GBL_EN and RTC_EN are kept for drivers that read them back
SCI_EN, SLP_EN = 1 << 0, 1 << 13
RESET_CPU = 0x04  # of 0xcf9: with bit 1 (and 3) for a hard reset (a power cycle)


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Event, control and timer block, the reset register, and the SCI (level, active high)."""
    return Claim(
        ports=(
            PortClaim(4, EVENT_PORT, "pm1 event"),
            PortClaim(2, CONTROL_PORT, "pm1 control"),
            PortClaim(4, TIMER_PORT, "pm timer"),
            PortClaim(1, RESET_PORT, "reset"),
        ),
        irqs=(IrqClaim(SCI, "level", "high", "sci"),),
    )


def build(node: Node, at: Attachment) -> AcpiPm:
    """The four register blocks; ``press_power_button`` is for the engine."""
    return AcpiPm(at.irq(0), at.clock, at.loop)


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's chipset has its own, where its firmware puts it."""
    return ()


class AcpiPm:
    """``ranges``: event, control, timer, reset."""

    def __init__(self, sci: IrqLine, clock: Clock, loop: EventLoop) -> None:
        self._sci, self._clock, self._loop = sci, clock, loop
        self._start = clock.monotonic_ns()
        self._status = 0
        self._enable = 0
        self._carries = 0  # half turns of the timer that TMR_STS has told
        self._asserted = False
        self._watching = False
        self.ranges: tuple[RegisterDevice, ...] = (
            _Bytes(self._read_event, self._write_event),
            _Bytes(self._read_control, self._write_control),
            _Bytes(self._read_timer, _ignore),
            _Bytes(lambda: 0, _write_reset),
        )

    def press_power_button(self) -> None:
        """PWRBTN_STS, and an SCI where the guest has enabled it."""
        self._status |= PWRBTN
        self._update_sci()

    def _ticks(self) -> int:
        return (self._clock.monotonic_ns() - self._start) * TIMER_HZ // 1_000_000_000

    def _read_timer(self) -> int:
        return self._ticks() & 0xFFFF_FFFF

    def _read_event(self) -> int:
        self._note_carry()
        return self._status | self._enable << 16

    def _write_event(self, value: int, written: int) -> Effect | None:
        """PM1_STS bits are cleared by writing ones; PM1_EN is stored."""
        self._note_carry()
        self._status &= ~(value & written)
        mask = written >> 16
        self._enable = (self._enable & ~mask | value >> 16 & mask) & ENABLE_BITS
        self._update_sci()
        self._watch_carry()
        return None

    def _read_control(self) -> int:
        return SCI_EN

    def _write_control(self, value: int, written: int) -> Effect | None:
        """SLP_EN acts in the write that sets it, with the SLP_TYP of the same write."""
        if value & SLP_EN and value >> 10 & 7 == SLEEP_TYPE_S5:
            return PowerOff()
        return None

    def _note_carry(self) -> None:
        """TMR_STS: the top bit of the timer has changed (section 4.8.3.3)."""
        carries = self._ticks() >> 31
        if carries != self._carries:
            self._carries = carries
            self._status |= TMR

    def _watch_carry(self) -> None:
        if self._enable & TMR and not self._watching:
            self._watching = True
            at = self._start + -(-((self._carries + 1) << 31) * 1_000_000_000 // TIMER_HZ)
            self._loop.call_at(at, self._carry)

    def _carry(self) -> None:
        self._watching = False
        self._note_carry()
        self._update_sci()
        self._watch_carry()

    def _update_sci(self) -> None:
        asserted = bool(self._status & self._enable & STATUS_BITS)
        if asserted != self._asserted:
            self._asserted = asserted
            self._sci.set(asserted)


class _Getter(Protocol):
    def __call__(self) -> int: ...


class _Setter(Protocol):
    def __call__(self, value: int, written: int) -> Effect | None:
        """``value`` in register position, ``written`` the mask of the bits that were written."""


class _Bytes:
    """A register block that may be accessed in any part, by byte, word or doubleword."""

    def __init__(self, get: _Getter, put: _Setter) -> None:
        self._get, self._put = get, put

    def read(self, offset: int, size: int) -> int:
        return self._get() >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        mask = (1 << 8 * size) - 1
        return self._put((value & mask) << 8 * offset, mask << 8 * offset)


def _ignore(value: int, written: int) -> Effect | None:
    return None


def _write_reset(value: int, written: int) -> Effect | None:
    return Reset("cf9") if value & RESET_CPU else None
