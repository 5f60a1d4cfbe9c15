"""Watching over one guest from its start to its end.

One thread.  Whatever happens (a signal, the deadline, a dead VM process, a reader that
went away) becomes one :class:`Ending`; what it means is :mod:`runner.verdict`'s business.
"""

from __future__ import annotations

import gc
from time import monotonic_ns

from runner.host.process_end import how_it_ended
from runner.host.process_time import cpu_seconds
from runner.host.signals import FATAL
from runner.light import signal, suppress
from runner.supervisor.ending import Ending, Intent
from runner.supervisor.loop import Loop, Timer
from runner.supervisor.panic_watch import PanicWatch
from runner.typed import TYPE_CHECKING, Callable, Mapping

if TYPE_CHECKING:
    from runner.backends.stdio import StandardStreams
    from runner.definition.model import Expect, Json
    from runner.engine.protocol import Event, GuestProcess
    from runner.host.helper_process import Helper
    from runner.host.signals import Signals
    from runner.supervisor.balloon import Balloon
    from runner.supervisor.console import Console
    from runner.supervisor.endpoint import Tell
    from runner.supervisor.expectation_watch import ExpectationWatch

QUIT_PATIENCE = 1.0  # seconds a VM process gets to end itself before it is killed
EXPECTED_GRACE = 60.0  # seconds from the power button to the end, when all that was expected is there
FLUSH_PATIENCE = 1.0  # seconds a slow reader gets for the last output
SNAPSHOT_PATIENCE = 0.5  # seconds the VM process gets to say what its CPUs do
PANIC_QUIET = 3.0  # seconds without output after a panic's closing line
SPINS = 0.05  # share of a CPU from which on a guest counts as busy; ticks alone stay below
WINDOW = 10.0  # seconds before the deadline in which silence and idleness are judged


class Supervisor:
    """One run.  :meth:`watch` gives it the guest that has been started, :meth:`run` does the rest."""

    guest: GuestProcess

    def __init__(self, signals: Signals, tell: Tell, timeout: float | None = None) -> None:
        self.loop = Loop()
        self.consoles: list[Console] = []
        self.helpers: list[Helper] = []
        self.streams: StandardStreams | None = None
        self.expect: Expect | None = None
        self._expected: ExpectationWatch | None = None
        self.balloon: Balloon | None = None
        self.window_of = ""  # the virtio-console that wants to know the terminal's size
        self.state = "running"
        self.phases: list[tuple[str, int]] = []
        self._signals = signals
        self._tell = tell
        self._timeout = timeout
        self._told: Mapping[str, Json] | None = None
        self._intent: Intent | None = None
        self._over = False
        self._cpus: Mapping[str, Json] | None = None
        self._on_cpus: Callable[[], None] | None = None
        self._started_ns = self._last_output_ns = monotonic_ns()
        self._said = 0
        self._busy: float | None = None
        self._panic = PanicWatch()
        self._panic_timer: Timer | None = None
        self._sample: tuple[float, int] | None = None

    def watch(self, guest: GuestProcess, consoles: list[Console], helpers: list[Helper]) -> None:
        """The guest has been started just now; ``helpers`` serve its devices."""
        self.guest = guest
        self.consoles = consoles
        self.helpers = helpers
        self._started_ns = self._last_output_ns = monotonic_ns()

    def run(self) -> Ending:
        """Until the guest has ended; its process is closed and the last output flushed."""
        try:
            self._begin()
            gc.freeze()  # cli/run.py has stopped the collector for the time of the start
            gc.enable()
            while not self._over:
                self.loop.turn()
            return self._finish()
        finally:
            self.guest.close()
            for console in self.consoles:
                console.close()

    def end(self, reason: str, signal: int = 0, detail: str = "") -> None:
        """End the guest now; asked a second time, without patience."""
        if self.state in ("quitting", "flushing") or self._told is not None:
            self._over = True
            return
        if self._intent is None or self._intent.reason == "stopped":
            self._intent = Intent(reason, signal, detail)
        self.state = "quitting"
        self.ask("quit")
        self.loop.after(QUIT_PATIENCE, self._give_up)

    def stop(self, grace: float) -> None:
        """Press the power button, and end the guest when it has not gone after ``grace`` seconds."""
        if self._intent is not None:
            return
        if self.state == "paused":
            self.ask("resume")
        self._intent = Intent("stopped")
        self.state = "stopping"
        self.ask("power-button")
        self.loop.after(grace, lambda: self.end("stopped", detail="it did not react to the power button"))

    def pause(self) -> None:
        """Hold the virtual CPUs."""
        self.ask("pause")

    def resume(self) -> None:
        """Let them go on."""
        self.ask("resume")

    def command(self, name: str) -> None:
        """What Ctrl-A and a letter asked for."""
        if name == "end":
            self.end("stopped", detail="Ctrl-A x")
        elif name == "power-button":
            self.ask("power-button")
        elif name == "snapshot-state":
            self._snapshot(self._say_cpus)
        elif name == "next-console" and self.streams is not None:
            number = self.streams.next_console()
            names = [c.name for c in self.consoles]
            self._tell("info", f"keys go to {names[number]}" if number < len(names) else "keys go on")
        else:
            from runner.supervisor.keys import HELP

            for line in HELP.splitlines():
                self._tell("notice", line)

    def output_gone(self, error: OSError) -> None:
        """Standard output takes nothing more."""
        if isinstance(error, BrokenPipeError):
            self.end("output-closed")
        else:
            self._tell("warning", f"standard output: {error.strerror}; further output is dropped")

    def hangup(self) -> None:
        """The terminal has gone; under nohup the guest does without."""
        if not self._signals.ignores(signal.SIGHUP):
            self.end("signal", signal=signal.SIGHUP, detail="the terminal was closed")

    def _begin(self) -> None:
        self.loop.on_readable(self._signals.wake_fd, self._signalled)
        if self.streams is not None and self.streams.holds_terminal:
            self._signals.watch_jobs()
            self._tell_window()
        self.loop.on_readable(self.guest.pidfd, self._died)
        self.loop.on_readable(self.guest.events_fd, self._heard)
        self.loop.on_hangup(self.guest.events_fd, self._deaf)
        if self.helpers:
            self._watch_helpers()
        for console in self.consoles:
            console.listeners.append(self._output)
            if self.expect is not None and self.expect.console:
                console.listeners.append(self._looker(console.name))
            console.open(self.loop)
        if self._timeout is not None:
            self.loop.after(max(0.0, self._timeout - self._window()), self._take_sample)
            self.loop.after(self._timeout, self._deadline)
        self._signalled()  # what was noted while the guest was being started

    def _finish(self) -> Ending:
        """The process is gone or is killed now; the rest of its output still goes out."""
        died = how_it_ended(self.guest.pidfd)
        silent = (monotonic_ns() - self._last_output_ns) / 1e9
        self._hear()
        for fd in (self.guest.pidfd, self.guest.events_fd):
            self.loop.forget(fd)
        for helper in self.helpers:
            for fd in (helper.pidfd, helper.errors):
                self.loop.forget(fd)
        self.guest.close()
        for console in self.consoles:
            console.drain()
        self._flush()
        return Ending(
            told=self._told,
            intent=self._intent,
            died=died,
            silent=silent,
            busy=self._busy,
            cpus=self._cpus,
            output=self._last_output(),
            said=self._said,
            dropped=sum(console.undelivered for console in self.consoles) + self._dropped_inside(),
            phases=tuple(self.phases),
            seen=tuple(self._expected.seen) if self._expected is not None else (),
        )

    def _dropped_inside(self) -> int:
        """What the VM process says was lost before it came here; it may say anything."""
        told = self._told.get("dropped") if self._told is not None else None
        return max(told, 0) if isinstance(told, int) else 0

    def _last_output(self) -> bytes:
        """The last words of the console that has most to tell."""
        if not self.consoles:
            return b""
        return max(self.consoles, key=lambda console: console.eloquence).tail.last()

    def _flush(self) -> None:
        """Give slow readers a moment for what still waits; a signal ends the wait."""
        self.state = "flushing"
        self._over = False
        self.loop.after(FLUSH_PATIENCE, self._give_up)
        while not self._over and any(e.waiting() for c in self.consoles for e in c.endpoints):
            self.loop.turn()

    def _signalled(self) -> None:
        for number in self._signals.noted():
            if number in FATAL:
                self.end("signal", signal=number)
            elif number == signal.SIGTSTP:
                self._suspend()
            elif number == signal.SIGCONT and self.streams is not None:
                self.streams.enter()
            elif number == signal.SIGWINCH:
                self._tell_window()

    def _tell_window(self) -> None:
        """The guest's console is as large as the terminal that shows it, from the start."""
        terminal = self.streams.terminal if self.streams is not None else None
        if terminal is None or not self.window_of:
            return
        columns, rows = terminal.window()
        if columns and rows:
            self.ask(f"window {self.window_of} {columns} {rows}")

    def _suspend(self) -> None:
        """A stop signal: the terminal goes back, the guest waits with us."""
        held = self.state == "paused"
        if not held:
            self.ask("pause")
        if self.streams is not None:
            self.streams.leave()
        self._signals.stop_ourselves()
        if self.streams is not None:
            self.streams.enter()
        if not held:
            self.ask("resume")

    def _watch_helpers(self) -> None:
        from runner.supervisor.helper_watch import HelperWatch

        for helper in self.helpers:
            HelperWatch(helper, self.loop, self._tell, self._has_ended, self._helper_lost)

    def _helper_lost(self, words: str) -> None:
        """A disk or folder whose program has died is gone for good: the run ends, and says why."""
        self.end("host-io", detail=words)

    def _has_ended(self) -> bool:
        """Whether the guest is gone: what serves it may go too then, and that is no news."""
        self._hear()
        return self._told is not None or self._intent is not None or bool(how_it_ended(self.guest.pidfd))

    def _heard(self) -> None:
        self._hear()

    def _deaf(self) -> None:
        """The VM process has closed its side: take what it said, and look no more."""
        self._hear()
        self.loop.forget(self.guest.events_fd)

    def _hear(self) -> None:
        for event in self.guest.events():
            self._meet(event)

    def _meet(self, event: Event) -> None:
        if event.kind == "phase":
            name, at = event.data.get("name"), event.data.get("at_ns")
            if isinstance(name, str) and isinstance(at, int):
                self.phases.append((name, at))
        elif event.kind == "end":
            if self._told is None:
                self._told = event.data
                self.loop.after(QUIT_PATIENCE, self._give_up)
        elif event.kind == "state":
            if self.state in ("running", "paused"):
                self.state = str(event.data.get("state", self.state))
        elif event.kind == "balloon":
            if self.balloon is not None:
                self.balloon.heard(event.data.get("bytes"))
        elif "cpus" in event.data:
            self._cpus = event.data
            if self._on_cpus is not None:
                self._on_cpus()
        else:
            from runner.supervisor.device_events import told

            level, words, fields = told(event.data)
            self._tell(level, words, **fields)

    def _died(self) -> None:
        self._over = True

    def _give_up(self) -> None:
        """Patience is at its end; closing the guest kills its process."""
        self._over = True

    def _output(self, data: bytes) -> None:
        self._last_output_ns = monotonic_ns()
        if not self._said:
            self.phases.append(("first-console-byte", self._last_output_ns))
        self._said += len(data)
        if self._panic_timer is not None:
            self._panic_timer.cancel()
            self._panic_timer = None
        if self._panic.add(data):
            self._take_sample()
            self._panic_timer = self.loop.after(PANIC_QUIET, self._panicked)

    def _looker(self, console: str) -> Callable[[bytes], None]:
        return lambda data: self._look(console, data)

    def _look(self, console: str, data: bytes) -> None:
        """Expected texts, and what to do when the last of them has been seen."""
        assert self.expect is not None
        if self._expected is None:
            from runner.supervisor.expectation_watch import ExpectationWatch

            self._expected = ExpectationWatch(self.expect.console)
        if self._expected.add(console, data) and self.expect.stop:
            self.stop(EXPECTED_GRACE)

    def _panicked(self) -> None:
        """Quiet since a panic's closing line: it is one if the CPUs spin, as Linux does then."""
        self._judge_busy()
        if self._busy is not None and self._busy >= SPINS:
            self._snapshot(lambda: self.end("panic"))

    def _window(self) -> float:
        return min(WINDOW, (self._timeout or 0.0) / 2)

    def _deadline(self) -> None:
        if self._intent is not None or self._told is not None:
            return
        self._judge_busy()
        silent = (monotonic_ns() - self._last_output_ns) / 1e9
        reason = "hang" if silent >= self._window() else "deadline"
        self._snapshot(lambda: self.end(reason))

    def _snapshot(self, then: Callable[[], None]) -> None:
        """Ask what the CPUs do, and go on when it is told or does not come."""
        timer: Timer | None = None

        def go_on() -> None:
            if self._on_cpus is go_on:
                self._on_cpus = None
                if timer is not None:
                    timer.cancel()
                then()

        self._on_cpus = go_on
        timer = self.loop.after(SNAPSHOT_PATIENCE, go_on)
        self.ask("snapshot-state")

    def _say_cpus(self) -> None:
        if self._cpus is None:
            self._tell("notice", "the VM process does not answer")
        else:
            from runner.verdict.cpus import cpu_lines

            for cpu in cpu_lines(self._cpus):
                self._tell("notice", cpu)

    def _take_sample(self) -> None:
        used = cpu_seconds(self.guest.pid)
        self._sample = None if used is None else (used, monotonic_ns())

    def _judge_busy(self) -> None:
        used = cpu_seconds(self.guest.pid)
        if self._sample is None or used is None:
            return
        before, at = self._sample
        self._busy = (used - before) / max((monotonic_ns() - at) / 1e9, 0.001)

    def ask(self, action: str) -> None:
        """A request to the VM process (:class:`runner.engine.protocol.GuestProcess`)."""
        with suppress(OSError):  # it is gone: its pidfd tells the rest
            self.guest.ask(action)
