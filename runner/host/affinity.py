"""Which CPUs of this host a thread of ours can run on: those that are there and in our cpuset.

The kernel is asked by trying (sched_setaffinity(2)), since what it allows is not what the current
mask has, and it drops CPUs from a set in silence as long as one is left.
"""

from __future__ import annotations

import os

from runner.errors import HostError
from runner.light import suppress
from runner.typed import Iterable, Sequence

MOST = 8192  # NR_CPUS of a kernel for x86-64 at most (arch/x86/Kconfig)


def absent(cpus: Iterable[int]) -> tuple[int, ...]:
    """Those that no thread of ours can run on, in order; this thread runs where it did before."""
    before = os.sched_getaffinity(0)
    try:
        return tuple(cpu for cpu in sorted(set(cpus)) if not _can_run_on(cpu))
    finally:
        with suppress(OSError):  # a cpuset that has shrunk meanwhile
            os.sched_setaffinity(0, before)


def run_anywhere() -> None:
    """The calling thread runs wherever the process may (sched_setaffinity(2)).

    A queue is started by the virtual CPU whose driver asks for it, and a new thread inherits the affinity of
    its maker: it would share that CPU with the guest that waits for it.
    """
    with suppress(OSError):  # a cpuset that has shrunk meanwhile
        os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))


def refuse_absent(affinity: Sequence[Sequence[int]]) -> None:
    """Raise HostError for the first vCPU that was given a CPU which this host has not."""
    missing = absent(cpu for places in affinity for cpu in places)
    for number, places in enumerate(affinity):
        wrong = [cpu for cpu in places if cpu in missing]
        if wrong:
            raise HostError(
                f"vCPU {number} is to run on CPU {', '.join(map(str, wrong))} of this host, "
                "which is not there, or not in the cpuset of this process",
                hint=f"cpus.affinity can name {spelled(os.sched_getaffinity(0))} here",
            )


def spelled(cpus: Iterable[int]) -> str:
    """``0-3, 8``, as the kernel writes sets of CPUs."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _can_run_on(cpu: int) -> bool:
    if cpu >= MOST:
        return False
    try:
        os.sched_setaffinity(0, (cpu,))
    except OSError:
        return False
    return True
