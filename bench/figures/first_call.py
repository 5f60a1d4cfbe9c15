"""From exec to the first KVM call: what the interpreter and our own code cost before there is a VM."""

from __future__ import annotations

from functools import partial

from bench.footprint import cpu_seconds
from bench.kvm_calls import Watch, library, pretend_stock_kvm
from bench.machines import Q35, VMRUN
from bench.metrics import Goal, Metric
from bench.place import runs_stock_kernels
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "first_call"
TITLE = "Start: from exec to the first KVM call"
IN_QUICK = False
NEEDS_KVM = False
METHOD = """\
Outside the lab, a definition that was checked before. A preloaded library notes the time of the first
ioctl of KVM's kind and of `KVM_CREATE_VM`, and lets nothing go on from there; the goal counts up to the
latter, the harder one, and over a whole `python3 -I -S -c pass`. Where this host's KVM cannot run a
stock kernel, vmrun is shown another vendor module's name (in a mount namespace), since it would rightly
stop before. CPU time is that of all processes, and says more than the clock on a busy machine."""
BARE = "python3 -I -S -c pass"
METRICS = (
    Metric("seconds", "exec to KVM_CREATE_VM", "s", goals=(Goal(0.020, (BARE,), over=True),)),
    Metric("any", "exec to any KVM call", "s"),
    Metric("cpu", "CPU time until KVM_CREATE_VM, all processes", "s"),
)
DEADLINE = 20.0


def prepare() -> None:
    """The guest's files and the library."""
    from bench.guests import work

    work(NAME, "true\n")
    library()


def measure(bench: Bench) -> None:
    """vmrun, QEMU and the bare interpreter in turns."""
    guest = bench.guest(NAME, "true\n")
    if not runs_stock_kernels():
        pretend_stock_kvm()
    watch = Watch()
    contestants = [
        Contestant(machine.name, partial(_first_call, watch, machine.words(guest, bench.folder)))
        for machine in bench.machines(VMRUN, Q35)
    ]
    contestants.append(Contestant(BARE, partial(_whole, watch)))
    bench.interleave(contestants, Plan(30, 3))


def _first_call(watch: Watch, words: list[str]) -> Sample:
    program = watch.start(words)
    try:
        first, created = watch.times(program, DEADLINE)
        return {"seconds": created, "any": first, "cpu": cpu_seconds(program.pid)}
    finally:
        program.close()


def _whole(watch: Watch) -> Sample:
    with watch.start(BARE.split()) as program:
        return {"seconds": program.finish(DEADLINE), "cpu": program.cpu}
