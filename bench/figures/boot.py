"""From exec to the first line of init, cold, and what KVM counted until then."""

from __future__ import annotations

from functools import partial

from bench import kvm_counters
from bench.machines import MICROVM, MINIMAL, Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench
from runner.graph.shorter_boot import PARAMETERS

NAME = "boot"
TITLE = "Start: from exec to the first line of init"
IN_QUICK = True
NEEDS_KVM = True
METHOD = """\
One vCPU, 256 MiB. Every monitor boots the same uncompressed kernel (the `vmlinux` out of Debian's
`-cloud-` package, from vmrun's cache) with the same initramfs and the command line
`console=ttyS0 quiet`; kvmtool, which loads no ELF file, gets the package's bzImage, and microvm
also `tsc_early_khz=`. The clock starts before the program is executed and stops when its standard
output has the first line that the initramfs writes. The files are in the page cache. Exits are
KVM's counters at that moment. microsandbox has a kernel, an init and a root file system of its own; its
clock stops at the first line of the program that it runs, which it hands on when that has ended. The
second row has the parameters of `shorten_boot` on everybody's command line, where one can be given: what a
guest gains that asks for them."""
METRICS = (
    Metric("seconds", "exec to init", "s", goals=(
        Goal(0.7, (Q35.name, MICROVM.name)), Goal(0.9, ("kvmtool",)), Goal(1.35, (MINIMAL.name,)),
    )),
    Metric("short", "the same, with shorten_boot", "s"),
    Metric("exits", "exits to init", "exits", goals=(Goal(7500),)),
    Metric("io_exits", "of these, port I/O", "exits"),
    Metric("pf_fixed", "page faults of the guest's memory", "faults"),
)  # fmt: skip
MARKER = b"bench: init is here"
RUN = f"echo '{MARKER.decode()}'\nexec sleep 1000\n"
DEADLINE = 60.0


def prepare() -> None:
    """The guest's files and the lower bound."""
    from bench.guests import work
    from bench.lower_bound import program

    work(NAME, RUN)
    program()


def measure(bench: Bench) -> None:
    """All monitors in turns."""
    guest = bench.guest(NAME, RUN)
    counted = kvm_counters.available()
    short = guest._replace(name="boot-short", cmdline=f"{guest.cmdline} {' '.join(PARAMETERS.values())}")
    guests = (guest,) if bench.quick else (guest, short)
    contestants = [
        Contestant(machine.name, partial(_boots, bench, machine, guests, counted))
        for machine in bench.with_others(VMRUN, Q35, MICROVM, MINIMAL)
        if not (bench.quick and machine.own_kernel)
    ]
    bench.interleave(contestants, Plan(3, 1, 70.0, least=1) if bench.quick else Plan(10, 2))


def _boots(bench: Bench, machine: Machine, guests: tuple[Guest, ...], counted: bool) -> Sample:
    if machine.own_kernel:  # it takes no command line, and its program and VM end with that line
        return _boot(bench, machine, guests[0], counted=False)
    sample = _boot(bench, machine, guests[0], counted)
    for short in guests[1:]:
        sample["short"] = _boot(bench, machine, short, counted=False)["seconds"]
    return sample


def _boot(bench: Bench, machine: Machine, guest: Guest, counted: bool) -> Sample:
    program = Program(machine.words(guest, bench.folder))
    try:
        seen = program.wait_for(MARKER, DEADLINE)
        return {"seconds": seen.seconds, **(kvm_counters.read(program.pid) if counted else {})}
    finally:
        program.close(machine.patience)
