"""Real-time clock and CMOS memory, ports 0x70-0x71, IRQ 8 (Motorola MC146818A).

The time is the host's, in UTC, plus what the guest has set it off by.  Register A's divider
is taken as running; the three interrupts (periodic, alarm, update ended) work, the periodic
one no faster than 1024 Hz, so that a guest cannot spend the host's time with 8192.
"""

from __future__ import annotations

import time

from runner.definition.model import Json
from runner.devices.ports import Attachment, Clock, Effect, EventLoop, IrqLine, RegisterDevice
from runner.graph.model import Claim, IrqClaim, Node, PortClaim
from runner.typed import Mapping
from runner.wire import aml, resources

PORT, IRQ = 0x70, 8
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM = 1, 3, 5
REG_A, REG_B, REG_C, REG_D = 0x0A, 0x0B, 0x0C, 0x0D
CENTURY = 0x32  # the FADT names it (ACPI 6.4, table 5.9)
TIME_REGISTERS = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)

A_UPDATE_IN_PROGRESS = 0x80
A_DEFAULT = 0x26  # 32768 Hz base, periodic rate 1024 Hz
B_SET, B_PERIODIC, B_ALARM, B_UPDATE = 0x80, 0x40, 0x20, 0x10
B_BINARY, B_24H = 0x04, 0x02
C_IRQ = 0x80
D_VALID = 0x80
PM = 0x80  # of the hours register in 12-hour mode
DO_NOT_CARE = 0xC0  # an alarm register with both top bits set matches everything

NS = 1_000_000_000
UPDATE_NS = 244_000  # the update is announced this long before the second ends
FASTEST_NS = NS // 1024


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Index and data port, and the edge-triggered line 8."""
    return Claim(ports=(PortClaim(2, PORT, "rtc"),), irqs=(IrqClaim(IRQ, "edge", "high", "rtc"),))


def build(node: Node, at: Attachment) -> CmosRtc:
    """A clock that runs from the host's."""
    return CmosRtc(at.irq(0), at.clock, at.loop)


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's own, told to keep UTC as ours does."""
    return ("-rtc", "base=utc")


def acpi(node: Node) -> tuple[aml.Term, ...]:
    """Device RTC: PNP0B00, an MC146818A."""
    port, irq = node.claim.ports[0], node.claim.irqs[0]
    used = resources.template(resources.io(port.at or PORT, port.size), resources.irq(irq.line or IRQ))
    return (aml.device("RTC", aml.name("_HID", aml.eisa_id("PNP0B00")), aml.name("_CRS", used)),)


class CmosRtc:
    """Index at offset 0 (bit 7 is the NMI mask and not kept), data at offset 1."""

    def __init__(self, irq: IrqLine, clock: Clock, loop: EventLoop) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)
        self._irq, self._clock, self._loop = irq, clock, loop
        self._index = 0
        self._memory = bytearray(128)
        self._memory[REG_A], self._memory[REG_B] = A_DEFAULT, B_24H
        self._ahead_ns = 0  # the guest's time minus the host's
        self._flags = 0  # register C without its top bit
        self._timer = 0  # generation: only the newest planned callback counts
        self._told_second = self._now_ns() // NS
        self._asserted = False

    def read(self, offset: int, size: int) -> int:
        """Eight bits wide; the index port cannot be read back."""
        if size != 1 or offset == 0:
            return (1 << 8 * size) - 1
        return self._read_register(self._index)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Select a register, or store into the selected one."""
        if size == 1 and offset == 0:
            self._index = value & 0x7F
        elif size == 1:
            self._write_register(self._index, value & 0xFF)
        return None

    # Registers

    def _read_register(self, index: int) -> int:
        if index in TIME_REGISTERS and not self._memory[REG_B] & B_SET:
            self._store_time(self._now_ns())
        if index == REG_A:
            return self._memory[REG_A] | (A_UPDATE_IN_PROGRESS if self._updating() else 0)
        if index == REG_C:
            return self._take_flags()
        return D_VALID if index == REG_D else self._memory[index]

    def _take_flags(self) -> int:
        self._note_second()
        value = self._flags | (C_IRQ if self._flags & self._memory[REG_B] else 0)
        self._flags = 0  # data sheet, register C: reading clears every flag
        self._update_irq()
        return value

    def _write_register(self, index: int, value: int) -> None:
        if index == REG_A:
            self._memory[REG_A] = value & 0x7F
            self._plan()
        elif index == REG_B:
            self._write_b(value)
        elif index in TIME_REGISTERS:
            self._set_time(index, value)
        elif index not in (REG_C, REG_D):
            self._memory[index] = value
            if index in (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM):
                self._plan()

    def _write_b(self, value: int) -> None:
        before = self._memory[REG_B]
        if value & B_SET and not before & B_SET:
            self._store_time(self._now_ns())  # the clock stops with the present time in its registers
            value &= ~B_UPDATE  # data sheet, register B: SET clears UIE
        self._memory[REG_B] = value
        if before & B_SET and not value & B_SET:
            self._adopt_time()
        self._update_irq()
        self._plan()

    # Time

    def _now_ns(self) -> int:
        return int(self._clock.wall() * NS) + self._ahead_ns

    def _updating(self) -> bool:
        return not self._memory[REG_B] & B_SET and self._now_ns() % NS >= NS - UPDATE_NS

    def _set_time(self, index: int, value: int) -> None:
        stopped = self._memory[REG_B] & B_SET
        if not stopped:
            self._store_time(self._now_ns())
        self._memory[index] = value
        if not stopped:
            self._adopt_time()
            self._plan()

    def _store_time(self, now_ns: int) -> None:
        now = time.gmtime(now_ns // NS)
        put = self._encode
        self._memory[SECONDS], self._memory[MINUTES] = put(now.tm_sec), put(now.tm_min)
        self._memory[HOURS] = self._encode_hour(now.tm_hour)
        self._memory[WEEKDAY] = put((now.tm_wday + 1) % 7 + 1)  # 1 is Sunday
        self._memory[DAY], self._memory[MONTH] = put(now.tm_mday), put(now.tm_mon)
        self._memory[YEAR], self._memory[CENTURY] = put(now.tm_year % 100), put(now.tm_year // 100)

    def _adopt_time(self) -> None:
        """The registers hold a time of the guest's choice; nonsense leaves the clock as it was."""
        get = self._decode
        year = get(self._memory[CENTURY]) * 100 + get(self._memory[YEAR])
        minutes = self._decode_hour(self._memory[HOURS]) * 60 + get(self._memory[MINUTES])
        of_day = minutes * 60 + get(self._memory[SECONDS])
        seconds = epoch(year, get(self._memory[MONTH]), get(self._memory[DAY]), of_day)
        if seconds is not None:
            self._ahead_ns += seconds * NS - self._now_ns() // NS * NS

    def _encode(self, value: int) -> int:
        return value if self._memory[REG_B] & B_BINARY else (value // 10 << 4 | value % 10) & 0xFF

    def _decode(self, value: int) -> int:
        return value if self._memory[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self._memory[REG_B] & B_24H:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._memory[REG_B] & B_24H:
            return self._decode(value)
        return self._decode(value & ~PM) % 12 + (12 if value & PM else 0)

    # Interrupts

    def _plan(self) -> None:
        """Ask to be called at the next moment at which an enabled interrupt is due."""
        self._timer += 1
        wait = self._next_ns()
        if wait is not None:
            generation = self._timer
            self._loop.call_at(self._clock.monotonic_ns() + wait, lambda: self._due(generation))

    def _next_ns(self) -> int | None:
        """Nanoseconds to the nearest event: a period, or the start of the next second."""
        enabled, running = self._memory[REG_B], not self._memory[REG_B] & B_SET
        waits = []
        if enabled & B_PERIODIC and self._memory[REG_A] & 0x0F:
            waits.append(max(FASTEST_NS, _period_ns(self._memory[REG_A] & 0x0F)))
        if enabled & (B_ALARM | B_UPDATE) and running:
            waits.append(NS - self._now_ns() % NS)
        return min(waits) if waits else None

    def _due(self, generation: int) -> None:
        if generation != self._timer:
            return
        if self._memory[REG_B] & B_PERIODIC:
            self._flags |= B_PERIODIC
        self._note_second()
        self._update_irq()
        self._plan()

    def _note_second(self) -> None:
        """A second has begun since the last look: the update has ended, the alarm may match."""
        second = self._now_ns() // NS
        if second != self._told_second and not self._memory[REG_B] & B_SET:
            self._told_second = second
            self._flags |= B_UPDATE | (B_ALARM if self._alarm_matches(second) else 0)

    def _update_irq(self) -> None:
        asserted = bool(self._flags & self._memory[REG_B])
        if asserted != self._asserted:
            self._asserted = asserted
            self._irq.set(asserted)

    def _alarm_matches(self, seconds: int) -> bool:
        now = time.gmtime(seconds)
        wanted = (
            (self._memory[SECONDS_ALARM], self._encode(now.tm_sec)),
            (self._memory[MINUTES_ALARM], self._encode(now.tm_min)),
            (self._memory[HOURS_ALARM], self._encode_hour(now.tm_hour)),
        )
        return all(alarm & DO_NOT_CARE == DO_NOT_CARE or alarm == shown for alarm, shown in wanted)


def _period_ns(rate: int) -> int:
    """Register A's rate select with a 32768 Hz base (data sheet, table 5); 1 and 2 wrap to 8 and 9."""
    shift = rate - 1 if rate > 2 else rate + 6
    return NS * (1 << shift) // 32768


def epoch(year: int, month: int, day: int, seconds: int) -> int | None:
    """Seconds since 1970 of a date and the seconds into its day; None where there is no such date."""
    if not (1 <= month <= 12 and 1 <= day <= 31 and year <= 9999 and 0 <= seconds < 86400):
        return None
    era, year_of_era = divmod(year - 1 if month <= 2 else year, 400)  # years that start in March
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
    return days * 86400 + seconds
