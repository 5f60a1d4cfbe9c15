"""The measuring half's notebook: every sample is a line of JSON as soon as it is known."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from bench.circumstances import circumstances
from bench.guests import work
from bench.machines import OTHERS, Guest, Machine, installed
from bench.metrics import Metric
from bench.process import Program
from bench.rounds import Contestant, Plan, Sample, interleave


class Figure(Protocol):
    """A module of :mod:`bench.figures`."""

    NAME: str
    TITLE: str
    METRICS: tuple[Metric, ...]
    METHOD: str
    IN_QUICK: bool
    NEEDS_KVM: bool  # a KVM that runs stock kernels; else it is measured on this host, whatever its KVM

    def prepare(self) -> None:
        """Build outside what would take long in a lab: initramfs images, programs."""

    def measure(self, bench: Bench) -> None:
        """Take the samples.  Raises whatever went wrong; the other figures are measured all the same."""


class Bench:
    """What a figure measures with."""

    def __init__(self, results: str, folder: str, *, quick: bool, rounds: int = 0) -> None:
        self.quick = quick
        self._rounds = rounds  # as asked for; 0: what the figure wants
        self.folder = folder
        self.figure = ""
        self._circumstances = circumstances()
        self._file = open(results, "a", buffering=1)  # noqa: SIM115  # goes with us

    def note(self, kind: str, **facts: Any) -> None:
        """One line."""
        self._file.write(json.dumps({"kind": kind, "figure": self.figure, **facts}) + "\n")

    def interleave(self, contestants: Sequence[Contestant], plan: Plan) -> None:
        """Measure them in turns, and write down each sample and each failure."""
        interleave(contestants, plan._replace(rounds=self._rounds or plan.rounds), self._tell)

    def _tell(self, who: str, number: int, sample: Sample | str) -> None:
        if isinstance(sample, str):
            self.note("failure", who=who, round=number, why=sample)
        else:
            self.note("sample", who=who, round=number, values=sample)

    def machines(self, *machines: Machine) -> Iterable[Machine]:
        """Those that are installed; the others are noted as missing."""
        for machine in machines:
            if installed(machine):
                yield machine
            else:
                self.note("missing", who=machine.name)

    def with_others(self, *machines: Machine) -> Iterable[Machine]:
        """The same, and every further monitor that can boot a kernel and an initramfs."""
        return self.machines(*machines, *OTHERS)

    def guest(self, name: str, run: str, **facts: Any) -> Guest:
        """The guest with its files, which the cache has."""
        return work(name, run, **facts)

    def said(self, machine: Machine, guest: Guest, marker: bytes, seconds: float) -> bytes:
        """What the guest has said until the marker came; it is ended then.  Raises RunFailed."""
        program = Program(machine.words(guest, self.folder))
        try:
            program.wait_for(marker, seconds)
        finally:
            program.close(machine.patience)
        return bytes(program.output)

    def measure(self, figure: Figure) -> None:
        """One figure from beginning to end; a fault of it ends only itself."""
        self.figure = figure.NAME
        began = time.monotonic()
        self.note("begin", **self._circumstances)
        try:
            figure.measure(self)
        except Exception as error:  # whatever it is, the other figures go on
            print(f"{figure.NAME}: {error!r}", file=sys.stderr)
            self.note("failed", why=f"{type(error).__name__}: {error}")
        self.note("end", seconds=round(time.monotonic() - began, 1))
