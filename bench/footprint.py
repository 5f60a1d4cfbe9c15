"""What a virtual machine's processes take of this machine: memory above the guest's own, CPU time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bench.process import family


class Mapping(NamedTuple):
    """One line of /proc/PID/smaps with what counts here; bytes."""

    size: int
    pss: int


def mappings(text: str) -> Iterator[Mapping]:
    """Of the text of /proc/PID/smaps (Documentation/filesystems/proc.rst)."""
    size = 0
    for line in text.splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) << 10
        elif line.startswith("Pss:"):
            yield Mapping(size, int(line.split()[1]) << 10)


def memory_above_guest(pids: Iterable[int], guest_bytes: int) -> int:
    """Bytes of PSS of all processes, without the mappings that are the guest's memory.

    These are as large as the guest's memory or larger, which no other mapping is that counts:
    a reservation of address space has no pages.
    """
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps") as file:
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        total += sum(each.pss for each in mappings(text) if each.size < guest_bytes)
    return total


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of a virtual machine's processes have used, guest time included."""
    total = 0
    for each in family(pid):
        try:
            threads = os.listdir(f"/proc/{each}/task")
            total += sum(_nanoseconds(each, thread) for thread in threads)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


def _nanoseconds(pid: int, thread: str) -> int:
    """Documentation/scheduler/sched-stats.rst: the first number is time on the CPU."""
    with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
        return int(file.read().split()[0])
