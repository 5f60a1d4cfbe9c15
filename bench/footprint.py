"""What a virtual machine's processes take of this machine: memory above the guest's own, CPU time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bench.process import family

IOCTL, KVM_RUN = "16", "0xae80"
"""As /proc/PID/syscall writes them: the number of the system call, and its second argument."""


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
    return sum(cpu_by_thread(pid).values())


def cpu_by_thread(pid: int) -> dict[str, float]:
    """The same by folder of /proc, from the first number of Documentation/scheduler/sched-stats.rst."""
    return {thread: int(words[0]) / 1e9 for thread, words in _of_threads(pid, "schedstat")}


def guest_threads(pid: int) -> set[str]:
    """Folders in /proc of the threads that are in KVM_RUN now: those of an idle guest's CPUs wait there."""
    return {
        thread for thread, words in _of_threads(pid, "syscall") if words[0] == IOCTL and words[2] == KVM_RUN
    }


def _of_threads(pid: int, name: str) -> Iterator[tuple[str, list[str]]]:
    """What /proc says in ``name`` about each thread of a virtual machine's processes."""
    for each in family(pid):
        try:
            for thread in os.listdir(f"/proc/{each}/task"):
                folder = f"/proc/{each}/task/{thread}"
                with open(f"{folder}/{name}") as file:
                    words = file.read().split()
                if len(words) >= 3:  # "running" has no arguments
                    yield folder, words
        except (FileNotFoundError, ProcessLookupError):
            continue
