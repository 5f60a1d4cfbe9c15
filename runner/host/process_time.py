"""CPU time that a process has used, its guest's included."""

from __future__ import annotations

import os


def cpu_seconds(pid: int) -> float | None:
    """User and system time of all threads (proc(5): stat, fields 14 and 15); None when it is gone.

    Time in guest mode is part of user time, so a guest that spins shows, one that halts does not.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:  # ESRCH: it ended in between
        return None
    finally:
        os.close(fd)
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold blanks
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
