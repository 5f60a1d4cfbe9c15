"""Intel 6300ESB watchdog timer, a PCI function (8086:25ab).

Intel 6300ESB I/O Controller Hub datasheet, chapter 16 (the register names are its).  Two
stages count down one after the other from values that the driver loads; a reload starts
again at the first, and when the second one ends the watchdog bites.
"""

from __future__ import annotations

from runner.bus.pci import Function
from runner.definition.model import Json
from runner.devices.ports import Effect, LoggingAttachment, RegisterDevice, WatchdogBit
from runner.graph.model import BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import place
from runner.typed import Final, Mapping

VENDOR, DEVICE, CLASS = 0x8086, 0x25AB, 0x088000
CONFIG: Final = 0x60  # configuration space, 16 bits
CONFIG_OUTPUT_DISABLED: Final = 1 << 5
CONFIG_FAST: Final = 1 << 2
LOCK: Final = 0x68  # configuration space, 8 bits
LOCK_LOCKED, LOCK_ENABLE, LOCK_FREE_RUN = 1 << 0, 1 << 1, 1 << 2

TIMER1, TIMER2, INTERRUPT_STATUS, RELOAD = 0x00, 0x04, 0x08, 0x0C  # in the BAR
PRELOAD_MASK: Final = 0xFFFFF
RELOAD_NOW, RELOAD_TIMED_OUT = 1 << 8, 1 << 9
UNLOCK: Final = (0x80, 0x86)

PCI_CLOCK_NS: Final = 30  # 33 MHz
SLOW_SHIFT, FAST_SHIFT = 15, 5  # PCI clocks a count: 2^15 is about 1 ms, 2^5 about 1 µs


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Sixteen bytes of registers; no interrupt, since every driver switches it off."""
    return Claim(pci=PciClaim(VENDOR, DEVICE, CLASS, bars=(BarClaim(0, 16, "mem32"),)))


def build(node: Node, at: LoggingAttachment) -> I6300Esb:
    """The timer on the device's loop; its bite goes to the machine."""
    return I6300Esb(node, at)


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's own.  By default the engine lets a bite pause it, and that is the end of the run."""
    chosen = ("-action", "watchdog=none") if node.options.get("action") == "none" else ()
    return ("-device", f"i6300esb,{place(node)}", *chosen)


class I6300Esb:
    """The function and its registers."""

    ranges: tuple[RegisterDevice, ...] = ()

    def __init__(self, node: Node, at: LoggingAttachment) -> None:
        assert node.claim.pci is not None
        self._at = at
        self._action = str(node.options.get("action", "reset"))
        self.function = Function(node.name, node.claim.pci, {0: self}, on_reset=self._reset)
        config = self.function.config
        config.put(CONFIG, 2, 0, writable=0x27)
        config.put(LOCK, 1, 0, writable=0x07)
        config.watch(CONFIG, 2, self._config_written)
        config.watch(LOCK, 1, self._lock_written)
        self._timer: int | None = None  # of the loop: at most one, however often the guest begins anew
        self._running: tuple[int, int] | None = None  # stage and end (ns) of the countdown
        self._held: tuple[int, int] | None = None  # stage and what was left of it (ns), while paused
        self._reset()

    def _reset(self) -> None:
        self._preloads = [PRELOAD_MASK, PRELOAD_MASK]
        self._unlocked = 0  # steps of the unlock sequence that were seen
        self._timed_out = False
        self._locked = False
        self._stop()

    # ---- configuration space

    def _config_written(self, offset: int, old: bytes) -> None:
        """The prescaler and output cannot be changed any more once locked."""
        if self._locked:
            self.function.config.data[CONFIG : CONFIG + 2] = old[CONFIG : CONFIG + 2]

    def _lock_written(self, offset: int, old: bytes) -> None:
        """Enable, mode and lock; a locked register keeps its value until the next reset."""
        config = self.function.config
        if self._locked:
            config.data[LOCK] = old[LOCK]
            return
        value = config.data[LOCK]
        self._locked = bool(value & LOCK_LOCKED)
        if not value & LOCK_ENABLE:
            self._stop()
        elif not old[LOCK] & LOCK_ENABLE:
            self._start(0)

    # ---- registers

    def read(self, offset: int, size: int) -> int:
        """Only the timeout bit can be read back; the rest reads as zero."""
        if offset == RELOAD and size in (2, 4):
            return RELOAD_TIMED_OUT if self._timed_out else 0
        return 0

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """The timers and the reload need the two unlock values before every write."""
        if offset == RELOAD and value in UNLOCK:
            self._unlocked = {(0x80, 0): 1, (0x86, 1): 2}.get((value, self._unlocked), 0)
            return None
        unlocked, self._unlocked = self._unlocked == 2, 0
        if not unlocked:
            return None
        if offset in (TIMER1, TIMER2) and size == 4:
            self._preloads[offset // 4] = value & PRELOAD_MASK
        elif offset == RELOAD:
            if value & RELOAD_TIMED_OUT:
                self._timed_out = False
            if value & RELOAD_NOW and self.function.config.data[LOCK] & LOCK_ENABLE:
                self._start(0)
        return None

    # ---- the countdown

    def pause(self) -> None:
        """The guest stands still, and so does its countdown."""
        if self._running is not None:
            stage, end = self._running
            self._stop()
            self._held = (stage, max(end - self._at.clock.monotonic_ns(), 0))

    def resume(self) -> None:
        """It goes on with what was left."""
        if self._held is not None:
            self._count(*self._held)

    def _stop(self) -> None:
        if self._timer is not None:
            self._at.loop.cancel(self._timer)
        self._timer = self._running = self._held = None

    def _start(self, stage: int) -> None:
        fast = self.function.config.data[CONFIG] & CONFIG_FAST
        clocks = max(self._preloads[stage], 1) << (FAST_SHIFT if fast else SLOW_SHIFT)
        self._count(stage, clocks * PCI_CLOCK_NS)

    def _count(self, stage: int, nanoseconds: int) -> None:
        self._stop()
        end = self._at.clock.monotonic_ns() + nanoseconds
        self._running = (stage, end)

        def ended() -> None:
            self._timer = self._running = None
            self._ended(stage)

        self._timer = self._at.loop.call_at(end, ended)

    def _ended(self, stage: int) -> None:
        if stage == 0:
            self._start(1)
            return
        self._timed_out = True
        config = self.function.config
        if config.data[LOCK] & LOCK_FREE_RUN:
            self._start(0)
        if not config.data[CONFIG] & CONFIG_OUTPUT_DISABLED:
            self._bite()

    def _bite(self) -> None:
        self._at.log("warning", "watchdog-bites", action=self._action)
        if self._action != "none":
            self._at.request(WatchdogBit(self._action))
