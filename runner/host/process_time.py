"""How much CPU time a process wants, its guest's included."""

from __future__ import annotations

import os


def cpu_seconds(pid: int) -> float | None:
    """CPU time of all living threads, plus the time they waited for a CPU; None when it is gone.

    The wait counts, so that a guest that spins on a crowded host does not look idle.  Time in
    guest mode is run time like any other.  From ``/proc/PID/task/*/schedstat`` (nanoseconds,
    Documentation/scheduler/sched-stats.rst); where the kernel has none, user and system time
    of proc(5)'s stat.
    """
    folder = f"/proc/{pid}/task"
    try:
        threads = os.listdir(folder)
        waits = [_words(f"{folder}/{thread}/schedstat") for thread in threads]
        return sum(int(words[0]) + int(words[1]) for words in waits) / 1e9
    except (OSError, IndexError):
        pass
    try:
        fields = _words(f"/proc/{pid}/stat")
    except OSError:
        return None
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _words(path: str) -> list[bytes]:
    """The words of a small file of /proc; a process name in parentheses is one of them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    head, name, tail = text.rpartition(b")")
    return [*head.split(b" (", 1), *tail.split()] if name else text.split()
