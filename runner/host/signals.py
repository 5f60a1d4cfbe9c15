"""Signals, by phase: before the guest they interrupt, from then on they are noted.

While definitions are loaded and artifacts fetched, a signal raises :class:`Interrupted`
wherever the program is.  While the host is prepared, the guest runs and the host is
restored, a signal is only noted and wakes the loop, so that no step is left half done.
A signal that was ignored when the program started (nohup, a background job of a plain
shell) stays ignored.
"""

from __future__ import annotations

import os
from time import monotonic_ns

from runner.light import contextmanager, signal
from runner.typed import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    from types import FrameType

FATAL = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXCPU,
)
"""All that would end the process and could leave a terminal raw."""

NUDGE = 0.25
"""Seconds after which a blocking call is interrupted once more, so that no signal is slept through.

Python runs a handler between two instructions.  A signal that comes after the last look and
before a system call blocks would wait for that call's end; a timer's signal ends it.
"""

SWALLOWED_NS = 2_000_000_000
"""Cleaning up after an interrupt may take this long before it is taken for lost and raised anew."""

JOB = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Interrupted(BaseException):
    """A signal ends the command; not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {name(number)}")
        self.number = number


def name(number: int) -> str:
    """``15`` → ``"SIGTERM"``."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


class Signals:
    """The process's signal handlers from :meth:`install` to :meth:`close`."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self._deferred = False
        self._raised = self._raised_ns = 0
        self._previous: dict[int, object] = {}
        self._wake_read = self._wake_write = -1

    def install(self) -> None:
        """Take over; from here a fatal signal raises Interrupted."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in FATAL:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._take(number)
        self._take(signal.SIGALRM)
        self.nudge()

    def nudge(self) -> None:
        """Start the timer; a forked process does not inherit it."""
        signal.setitimer(signal.ITIMER_REAL, NUDGE, NUDGE)

    def watch_jobs(self) -> None:
        """Also note stop, continue and window size: when the terminal is ours.

        SIGTTIN and SIGTTOU are ignored then: restoring a terminal must not stop us.
        """
        for number in JOB:
            self._take(number)
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            self._previous.setdefault(number, signal.signal(number, signal.SIG_IGN))

    def ignores(self, number: int) -> bool:
        """Whether the signal was ignored when the program started."""
        return signal.getsignal(number) is signal.SIG_IGN

    def defer(self) -> None:
        """From here signals are noted and nothing is interrupted."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._deferred = True

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """For one long step among those that are not to be interrupted: it may be."""
        self._deferred = False
        self.nudge()
        try:
            self.check()
            yield
        finally:
            self.defer()

    def check(self) -> None:
        """Between two steps: raise Interrupted for a fatal signal that has been noted."""
        for number in self._noted:
            if number in FATAL:
                raise Interrupted(number)

    @property
    def wake_fd(self) -> int:
        """Readable after a signal."""
        return self._wake_read

    def noted(self) -> list[int]:
        """Signals since the last call, in order."""
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass
        numbers, self._noted = self._noted, []
        return numbers

    def stop_ourselves(self) -> None:
        """Do what SIGTSTP would have done; returns after SIGCONT."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def close(self) -> None:
        """Give the handlers back."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._wake_read = self._wake_write = -1

    def _take(self, number: int) -> None:
        self._previous.setdefault(number, signal.signal(number, self._handle))

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            self._nudged()
        elif self._deferred or number not in FATAL:
            self._noted.append(number)
        else:
            self._raised, self._raised_ns = number, monotonic_ns()
            raise Interrupted(number)

    def _nudged(self) -> None:
        """Our own timer.  It has interrupted what blocked, which is all that is wanted, unless
        an interrupt was raised long ago where Python ignores exceptions (a destructor)."""
        if self._raised and not self._deferred and monotonic_ns() - self._raised_ns > SWALLOWED_NS:
            self._raised_ns = monotonic_ns()
            raise Interrupted(self._raised)
