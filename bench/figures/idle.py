"""CPU time while the guest does nothing."""

from __future__ import annotations

import time
from functools import partial

from bench import kvm_counters
from bench.figures.boot import DEADLINE, MARKER, RUN
from bench.footprint import cpu_by_thread, guest_threads
from bench.machines import MINIMAL, Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program, RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "idle"
TITLE = "CPU time with an idle guest"
IN_QUICK = False
NEEDS_KVM = True
SECONDS = 20.0
SETTLING = 5.0
HALTS = "halt_exits"
LOOKS = 4  # at which threads run the guest
METHOD = f"""\
CPU time of the threads of all processes of the virtual machine over {SECONDS:.0f} s, {SETTLING:.0f} s
after its init went to sleep. The first row has everything. A stock kernel that sleeps wakes up some times
a second all the same (to look at its clock, its memory and its statistics); what it does then, and what KVM
does for it, is on its CPU's thread and would be under any monitor: in the lab more than a millisecond each
time. How often is the third row. (The minimal VMM describes little of its machine, and its guest wakes up
more often.) The second row leaves the threads out that are in KVM_RUN while the guest sleeps: it is what the
monitor does by itself."""
METRICS = (
    Metric("share", "all threads", "% of a core", goals=(Goal(0.1),)),
    Metric("own", "threads that do not run the guest", "% of a core", goals=(Goal(0.1),)),
    Metric("halts", "times that the guest went back to sleep", "a second"),
)


def prepare() -> None:
    """The guest's files."""
    from bench.guests import work
    from bench.lower_bound import program

    work(NAME, RUN)
    program()


def measure(bench: Bench) -> None:
    """One after the other."""
    guest = bench.guest(NAME, RUN)
    counted = kvm_counters.available()
    contestants = [
        Contestant(machine.name, partial(_idle, bench, machine, guest, counted))
        for machine in bench.machines(VMRUN, Q35, MINIMAL)
    ]
    bench.interleave(contestants, Plan(3, 0))


def _idle(bench: Bench, machine: Machine, guest: Guest, counted: bool) -> Sample:
    program = Program(machine.words(guest, bench.folder))
    try:
        program.wait_for(MARKER, DEADLINE)
        time.sleep(SETTLING)
        running: set[str] = set()
        halts = _halts(program, counted)
        before, began = cpu_by_thread(program.pid), time.monotonic()
        for _ in range(LOOKS):
            time.sleep(SECONDS / LOOKS)
            running |= guest_threads(program.pid)
        after, took = cpu_by_thread(program.pid), time.monotonic() - began
        if not running:
            raise RunFailed(f"{program.words[0]}: no thread was seen in KVM_RUN")
        used = {thread: at - before.get(thread, 0.0) for thread, at in after.items()}
        slept = _halts(program, counted)
        rest = {} if halts is None or slept is None else {"halts": (slept - halts) / took}
        own = sum(seconds for thread, seconds in used.items() if thread not in running)
        return {"share": 100 * sum(used.values()) / took, "own": 100 * own / took, **rest}
    finally:
        program.close(machine.patience)


def _halts(program: Program, counted: bool) -> float | None:
    """How often the guest's CPU has been halted; None where this kernel does not tell."""
    return kvm_counters.read(program.pid).get(HALTS) if counted else None
