"""The user's terminal: raw while the guest runs, as before afterwards, whatever happens.

Three things restore it: the supervisor's own ending, ``atexit``, and, when the supervisor
is killed with SIGKILL, a guard process (:mod:`runner.host.terminal_guard`).
"""

from __future__ import annotations

import os
import termios

from runner.light import suppress
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.host.terminal_guard import Guard

Attributes = list[int | list[bytes | int]]


def raw(attributes: Attributes) -> Attributes:
    """``cfmakeraw(3)`` of ``attributes``: every byte as typed, nothing echoed or translated.

    Output is raw too: the guest's own terminal driver has translated its newlines, and
    a program that has set the guest's terminal raw means what it sends.
    """
    iflag, oflag, cflag, lflag, *speeds = (value for value in attributes[:6] if isinstance(value, int))
    cc = attributes[6]
    characters = list(cc) if isinstance(cc, list) else []
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, *speeds, characters]


class Terminal:
    """A terminal open at ``fd``, and the attributes it had when we came."""

    raw_ones = 0
    """How many terminals of this process are raw now."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_raw = False
        self._before: Attributes = termios.tcgetattr(fd)
        self._guard: Guard | None = None

    @classmethod
    def at(cls, fd: int) -> Terminal | None:
        """The terminal at ``fd``, or None when there is none."""
        try:
            return cls(fd)
        except (termios.error, OSError):
            return None

    def in_foreground(self) -> bool:
        """Whether we may read it and set it up: not as a background job."""
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # ENOTTY: not our controlling terminal, so no job control on it
            return True

    def make_raw(self) -> bool:
        """Enter raw mode; False in the background or when the terminal is gone."""
        if not self.in_foreground():
            return False
        try:
            if not self.is_raw:  # a shell may have changed it since we saw it last
                self._keep_safe(termios.tcgetattr(self.fd))
            termios.tcsetattr(self.fd, termios.TCSANOW, raw(self._before))
        except (termios.error, OSError):
            return False
        self._set_raw(True)
        return True

    def restore(self) -> None:
        """Back to what it was.  Idempotent; a terminal that is gone is no error."""
        if not self.is_raw:
            return
        self._set_raw(False)
        with suppress(termios.error, OSError):
            termios.tcsetattr(self.fd, termios.TCSANOW, self._before)

    def window(self) -> tuple[int, int]:
        """(columns, rows); (0, 0) when nobody knows."""
        try:
            columns, rows = os.get_terminal_size(self.fd)
        except OSError:
            return 0, 0
        return columns, rows

    def close(self) -> None:
        """Restore, and let the guard go."""
        self.restore()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _set_raw(self, is_raw: bool) -> None:
        Terminal.raw_ones += int(is_raw) - int(self.is_raw)
        self.is_raw = is_raw

    def _keep_safe(self, before: Attributes) -> None:
        """Before the first change: whatever ends this process, ``before`` comes back."""
        if self._guard is not None and before == self._before:
            return
        import atexit

        from runner.host.terminal_guard import Guard

        if self._guard is None:
            atexit.register(self.restore)
        else:
            self._guard.close()
        self._before = before
        self._guard = Guard.start(self.fd, before, raw(before))
