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
ioctl of KVM's kind, of `KVM_CREATE_VM` and of the first `KVM_RUN`, and lets nothing go on from there. The
goal counts up to `KVM_CREATE_VM`, over a whole `python3 -I -S -c pass`; vmrun makes its VM before it has
read the definition (decision 0048), so what a start costs as a whole is the time to `KVM_RUN`: by then the
definition and the plan are known, the kernel is in memory and every device is there. Where this host's
KVM cannot run a stock kernel, vmrun is shown another vendor module's name (in a mount namespace), since it
would rightly stop before; QEMU, which cannot start a CPU there, is measured to `KVM_CREATE_VM`. CPU time is
that of all processes: on a busy machine it says more than the clock."""
BARE = "python3 -I -S -c pass"
METRICS = (
    Metric("seconds", "exec to KVM_CREATE_VM", "s", goals=(Goal(0.020, (BARE,), over=True),)),
    Metric("any", "exec to any KVM call", "s"),
    Metric("run", "exec to KVM_RUN", "s"),
    Metric("cpu", "CPU time until KVM_RUN, all processes", "s"),
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
    stock = runs_stock_kernels()
    if not stock:
        pretend_stock_kvm()
    watch = Watch()
    contestants = [
        Contestant(
            machine.name,
            partial(
                _to_run if stock or machine is VMRUN else _to_create,
                watch,
                machine.words(guest, bench.folder),
            ),
        )
        for machine in bench.machines(VMRUN, Q35)
    ]
    contestants.append(Contestant(BARE, partial(_whole, watch)))
    bench.interleave(contestants, Plan(30, 3))


def _to_run(watch: Watch, words: list[str]) -> Sample:
    program = watch.start(words)
    try:
        first, created, run = watch.times(program, DEADLINE)
        return {"seconds": created, "any": first, "run": run, "cpu": cpu_seconds(program.pid)}
    finally:
        program.close()


def _to_create(watch: Watch, words: list[str]) -> Sample:
    program = watch.start(words, early=True)
    try:
        first, created = watch.times(program, DEADLINE, early=True)
        return {"seconds": created, "any": first}
    finally:
        program.close()


def _whole(watch: Watch) -> Sample:
    with watch.start(BARE.split()) as program:
        return {"seconds": program.finish(DEADLINE), "cpu": program.cpu}
