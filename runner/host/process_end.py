"""How a child process ended."""

from __future__ import annotations

import os


def how_it_ended(pidfd: int) -> str:
    """ "killed by SIGKILL", "exited with 1", or "" while it lives or when it is not ours to wait for.

    The child stays to be reaped.
    """
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return ""
    if info is None:
        return ""
    if info.si_code == os.CLD_EXITED:
        return f"exited with {info.si_status}"
    from runner.host.signals import name

    return f"killed by {name(info.si_status)}"


def what_to_do(how: str) -> str:
    """The advice for an end that nobody here has asked for, "" when there is none."""
    return "the kernel's log says whether memory ran out: dmesg | tail" if "SIGKILL" in how else ""
