"""Twenty machines started at once."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from bench.figures.boot import MARKER, RUN
from bench.machines import Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program, RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "many"
TITLE = "Twenty machines at once"
IN_QUICK = False
NEEDS_KVM = True
WANTED = 20
METHOD = f"""\
{WANTED} machines of one definition, one vCPU and 256 MiB each, are started together (fewer where
memory does not allow it; the number is below the table); the clock stops when the last one's init is
there. Before that each monitor has run one alone, so that files are in the page cache and our definition
has been checked, as when it is not started for the first time."""
METRICS = (Metric("seconds", "until all have booted", "s", goals=(Goal(0.8, (Q35.name,)),)),)
DEADLINE = 900.0
RESERVE = 1 << 30  # bytes that stay free


def prepare() -> None:
    """The guest's files."""
    from bench.guests import work

    work(NAME, RUN)


def measure(bench: Bench) -> None:
    """All of one monitor, then all of the other, and again."""
    guest = bench.guest(NAME, RUN)
    free = available()
    count = min(WANTED, max(0, free - RESERVE) // ((guest.memory_mib + 60) << 20))
    if count < 2:
        raise RunFailed(f"{free >> 20} MiB of free memory are too little for two machines")
    bench.note("remark", machines_at_once=count)
    machines = list(bench.machines(VMRUN, Q35))
    for machine in machines:  # one alone: its files are read, and of ours the definition is checked, once
        _all(bench, machine, guest, 1)
    contestants = [Contestant(each.name, partial(_all, bench, each, guest, count)) for each in machines]
    bench.interleave(contestants, Plan(3, 0))


def available() -> int:
    """Bytes that programs can have without others being swapped out (MemAvailable of proc(5))."""
    with open("/proc/meminfo") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found["MemAvailable"].split()[0]) << 10


def _all(bench: Bench, machine: Machine, guest: Guest, count: int) -> Sample:
    began = time.monotonic()
    with ExitStack() as keep:
        running = []
        for _ in range(count):
            program = Program(machine.words(guest, bench.folder))
            keep.callback(program.close)
            running.append(program)
        for number, program in enumerate(running, start=1):
            program.wait_for(MARKER, DEADLINE - (program.began - began))
            bench.note("beat", booted=number)  # whoever waits for us hears that we live
        return {"seconds": time.monotonic() - began}
