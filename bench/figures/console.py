"""Consoles: how fast the guest's output arrives on standard output."""

from __future__ import annotations

import time
from functools import partial

from bench.machines import CMDLINE, Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program, RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "console"
TITLE = "Consoles: 10 MB written by the guest"
IN_QUICK = False
NEEDS_KVM = True
TOTAL = 10_000_000
LONGEST = 15.0
METHOD = f"""\
The guest writes {TOTAL // 1_000_000} MB of text lines to its console, and what arrives on the monitor's
standard output is counted, for at most {LONGEST:.0f} s: bytes a second from the first byte to the last.
`lost` is what of the whole has not arrived, where the guest came to its end in that time."""
METRICS = (
    Metric("serial", "serial port", "kB/s", True, goals=(Goal(2.0, (Q35.name,)),)),
    Metric("virtio", "virtio-console", "kB/s", True, goals=(Goal(1.0, (Q35.name,)),)),
    Metric("serial_lost", "lost on the serial port", "bytes"),
    Metric("virtio_lost", "lost on virtio-console", "bytes"),
)
DEADLINE = 60.0
BEGIN, END = b"bench: begin\n", b"bench: end"
LINE = "The quick brown fox jumps over the lazy dog, 0123456789 times and never again.\n"
RUN = f"""\
stty -opost
line='{LINE.strip()}'
for i in $(seq 100); do echo "$line"; done > /tmp/100
for i in $(seq 125); do cat /tmp/100; done > /tmp/all
echo '{BEGIN.decode().strip()}'
for i in $(seq {TOTAL // (len(LINE) * 12500)}); do cat /tmp/all; done
echo '{END.decode()}'
exec sleep 1000
"""
SENT = TOTAL // (len(LINE) * 12500) * len(LINE) * 12500
MODULES = ("virtio_pci", "virtio_console")


def prepare() -> None:
    """The files of both guests."""
    from bench.guests import work

    for facts in _guests_facts().values():
        work(NAME, RUN, **facts)


def _guests_facts() -> dict[str, dict[str, object]]:
    virtio = {"modules": MODULES, "console": True, "cmdline": CMDLINE.replace("ttyS0", "hvc0")}
    return {"serial": {}, "virtio": virtio}


def measure(bench: Bench) -> None:
    """Both monitors in turns, each with both consoles."""
    guests = {key: bench.guest(f"{NAME}-{key}", RUN, **facts) for key, facts in _guests_facts().items()}
    machines = list(bench.machines(VMRUN, Q35))
    for key, guest in guests.items():
        contestants = [
            Contestant(machine.name, partial(_write, bench, machine, guest, key)) for machine in machines
        ]
        bench.interleave(contestants, Plan(3, 1))


def _write(bench: Bench, machine: Machine, guest: Guest, key: str) -> Sample:
    program = Program(machine.words(guest, bench.folder))
    try:
        begin = program.wait_for(BEGIN, DEADLINE)
        return _flow(program, begin.offset, key)
    finally:
        program.close(machine.patience)


def _flow(program: Program, offset: int, key: str) -> Sample:
    """Bytes a second from here to the end marker or the time that is given."""
    began = time.monotonic()
    until, last, looked = began + LONGEST, began, offset
    while (end := program.output.find(END, looked)) < 0:
        looked = max(offset, len(program.output) - len(END))  # to look at all of it would be the load
        if not program.ready(until):
            break
        if not program.read(until):
            raise RunFailed(f"{program.words[0]} ended while the guest wrote; {program.complaint()[:300]}")
        last = time.monotonic()
    arrived = (end if end >= 0 else len(program.output)) - offset
    sample = {key: arrived / 1000 / max(last - began, 1e-6)}
    return {**sample, f"{key}_lost": float(SENT - arrived)} if end >= 0 else sample
