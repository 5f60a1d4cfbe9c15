"""A small process that makes the terminal sane when the supervisor is killed with SIGKILL.

It sleeps in ``read`` on a pipe whose other end only the supervisor has, so it wakes when
that process has ended, in whichever way.  It restores the terminal only if it is still
exactly as raw as we had made it: a shell that was quicker keeps its own settings.
It sits in a session of its own, so that a signal to the terminal's process group, SIGKILL
included, does not reach it; a session that has no controlling terminal may still set one
(``tty_check_change`` in Linux' ``drivers/tty/tty_jobctrl.c``).
"""

from __future__ import annotations

import os
import termios

from runner.host.terminal import Attributes
from runner.light import signal, suppress


class Guard:
    """The supervisor's side: the pipe's end and the process to reap."""

    def __init__(self, pid: int, hold: int) -> None:
        self._pid = pid
        self._hold = hold

    @classmethod
    def start(cls, fd: int, before: Attributes, made: Attributes) -> Guard | None:
        """Fork the guard; None when no process can be had (the other restores remain)."""
        wait, hold = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:
            os.close(wait)
            os.close(hold)
            return None
        if pid == 0:
            _guard(fd, wait, before, made)
        os.close(wait)
        return cls(pid, hold)

    def close(self) -> None:
        """Wake the guard, which finds the terminal restored and ends; reap it."""
        os.close(self._hold)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _guard(fd: int, wait: int, before: Attributes, made: Attributes) -> None:
    """The guard's whole life.  Never returns, and never runs the parent's exit handlers."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        keep = sorted((fd, wait))
        for low, high in zip([0, *(f + 1 for f in keep)], [*keep, 1 << 20], strict=True):
            if low < high:  # os.closerange(0, 0) of CPython 3.11 closes everything
                os.closerange(low, high)
        while os.read(wait, 1):
            pass
        if termios.tcgetattr(fd) == _as_set(fd, made):
            termios.tcsetattr(fd, termios.TCSANOW, before)
    except (OSError, termios.error):
        pass
    finally:
        os._exit(0)


def _as_set(fd: int, made: Attributes) -> Attributes:
    """``made`` as the kernel shows it: the speeds are the terminal's own."""
    now = termios.tcgetattr(fd)
    return [*made[:4], *now[4:6], made[6]]
