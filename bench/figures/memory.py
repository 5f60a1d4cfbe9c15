"""Memory of a virtual machine's processes above the guest's own, of the first and of a second one."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from bench.figures.boot import DEADLINE, MARKER, RUN
from bench.footprint import memory_above_guest
from bench.machines import Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program, family
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "memory"
TITLE = "Memory above the guest's own"
IN_QUICK = False
NEEDS_KVM = True
METHOD = """\
PSS of all processes of a virtual machine (from /proc/PID/smaps), without the mappings that are the
guest's memory, two seconds after its init was there; then a second virtual machine is started beside
it, and what the sum of both has grown by is the second's."""
METRICS = (
    Metric("first", "first machine", "MB", goals=(Goal(30.0),)),
    Metric("further", "each further one", "MB", goals=(Goal(15.0),)),
)


def prepare() -> None:
    """The guest's files."""
    from bench.guests import work

    work(NAME, RUN)


def measure(bench: Bench) -> None:
    """Two at a time of each monitor, in turns."""
    guest = bench.guest(NAME, RUN)
    contestants = [
        Contestant(machine.name, partial(_two, bench, machine, guest))
        for machine in bench.machines(VMRUN, Q35)
    ]
    bench.interleave(contestants, Plan(3, 0))


def _two(bench: Bench, machine: Machine, guest: Guest) -> Sample:
    sums: list[float] = []
    with ExitStack() as keep:
        running: list[Program] = []
        for _ in range(2):
            program = Program(machine.words(guest, bench.folder))
            keep.callback(program.close, machine.patience)
            program.wait_for(MARKER, DEADLINE)
            running.append(program)
            time.sleep(2.0)
            pids = [pid for each in running for pid in family(each.pid)]
            sums.append(memory_above_guest(pids, guest.memory_mib << 20) / 1e6)
    return {"first": sums[0], "further": sums[1] - sums[0]}
