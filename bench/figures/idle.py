"""CPU time while the guest does nothing."""

from __future__ import annotations

import time
from functools import partial

from bench.figures.boot import DEADLINE, MARKER, RUN
from bench.footprint import cpu_seconds
from bench.machines import Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "idle"
TITLE = "CPU time with an idle guest"
IN_QUICK = False
NEEDS_KVM = True
SECONDS = 20.0
SETTLING = 5.0
METHOD = f"""\
CPU time of all threads of all processes of the virtual machine over {SECONDS:.0f} s, guest time
included, {SETTLING:.0f} s after its init went to sleep."""
METRICS = (Metric("share", "CPU time", "% of a core", goals=(Goal(0.1),)),)


def prepare() -> None:
    """The guest's files."""
    from bench.guests import work

    work(NAME, RUN)


def measure(bench: Bench) -> None:
    """One after the other."""
    guest = bench.guest(NAME, RUN)
    contestants = [
        Contestant(machine.name, partial(_idle, bench, machine, guest))
        for machine in bench.machines(VMRUN, Q35)
    ]
    bench.interleave(contestants, Plan(3, 0))


def _idle(bench: Bench, machine: Machine, guest: Guest) -> Sample:
    program = Program(machine.words(guest, bench.folder))
    try:
        program.wait_for(MARKER, DEADLINE)
        time.sleep(SETTLING)
        before, began = cpu_seconds(program.pid), time.monotonic()
        time.sleep(SECONDS)
        used = cpu_seconds(program.pid) - before
        return {"share": 100 * used / (time.monotonic() - began)}
    finally:
        program.close(machine.patience)
