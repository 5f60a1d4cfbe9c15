"""Where the measuring half runs: here, where a stock kernel runs under KVM; else in one lab.

A figure that takes the lab down with it is a failed figure; the rest is measured in a new lab.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from bench import product

Record = dict[str, Any]
Tell = Callable[[Record], None]

LOAD = "load_of_the_host"
"""Key of an "end" line: the load average outside.  Above what the bench itself makes, others were at work."""

START_SECONDS = 120.0
SILENT_SECONDS = 300.0
"""Longer than any single run may take; a place that says nothing for so long is dead."""


class Place(Protocol):
    """A running measuring half."""

    folder: Path

    def ended(self) -> bool: ...

    def said(self) -> str: ...

    def close(self) -> None: ...


class Here:
    """A process on this machine."""

    def __init__(self, words: list[str], programs: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmrun-bench-here-"))
        environment = {**os.environ, "PATH": product.path(), "VMRUN_BENCH_PROGRAMS": programs}
        with (self.folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "bench.inside", str(self.folder / "results"), *words]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class InLab:
    """A process in a lab of its own."""

    def __init__(self, words: list[str], programs: str) -> None:
        from tests.lab.machine import Lab

        quoted = " ".join(words)
        self._lab = Lab(
            f"VMRUN_BENCH_PROGRAMS=/lab/programs PATH={os.environ[product.BIN]}:$PATH "
            f"exec {sys.executable} -m bench.inside /lab/results {quoted} > /lab/log 2>&1"
        )
        self.folder = self._lab.folder
        shutil.copytree(programs, self.folder / "programs")
        self._lab.start()

    def ended(self) -> bool:
        return self._lab.ended()

    def said(self) -> str:
        log = self.folder / "log"
        text = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        return f"{text}\n{self._lab.said()}".strip()

    def close(self) -> None:
        self._lab.close()


def runs_stock_kernels() -> bool:
    """Whether this machine's own KVM will do."""
    from runner.host.survey import survey

    return survey(pci=False, qemu_version=False).kvm.usable


def measured(
    names: list[str],
    options: list[str],
    programs: str,
    tell: Tell,
    place: Callable[[list[str], str], Place] | None = None,
) -> list[Record]:
    """Everything that was written down about the figures.  ``tell`` hears of each line as it comes."""
    make = place or (Here if runs_stock_kernels() else InLab)
    records: list[Record] = []
    left = list(names)
    while left:
        before = len(records)
        for record in _from(make, [*options, *left], programs):
            if record["kind"] == "end":
                record[LOAD] = round(os.getloadavg()[0], 1)
            records.append(record)
            tell(record)
        over = {record["figure"] for record in records if record["kind"] in ("end", "died")}
        left = [name for name in left if name not in over]
        if len(records) == before + 1:  # not even a beginning: the next one would be no better
            for name in left:
                records.append({**records[-1], "figure": name})
                tell(records[-1])
            break
    return records


def _from(make: Callable[[list[str], str], Place], words: list[str], programs: str) -> Iterator[Record]:
    """The lines of one place, and at its early end one that says so."""
    current = next(word for word in words if not word.startswith("-"))
    running = make(words, programs)
    try:
        for record in _lines(running):
            current = record["figure"] or current
            finished = record["kind"] == "end"
            yield record
            if finished:
                rest = words[words.index(current) + 1 :]
                if not rest:
                    return
                current = rest[0]
        yield {"kind": "died", "figure": current, "why": _last_words(running)}
    finally:
        running.close()


def _last_words(running: Place) -> str:
    state = "ended" if running.ended() else f"said nothing for {SILENT_SECONDS:.0f} s"
    return f"the machine that measured it {state}: {running.said()[-1500:]}"


def _lines(running: Place) -> Iterator[Record]:
    """Until it has ended or is silent for too long."""
    path, position, patience = running.folder / "results", 0, START_SECONDS
    heard = time.monotonic()
    while True:
        ended = running.ended()
        data = path.read_bytes()[position:] if path.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        position += len(complete)
        for line in complete.splitlines():
            heard, patience = time.monotonic(), SILENT_SECONDS
            yield json.loads(line)
        if ended and not complete:
            return
        if time.monotonic() - heard > patience:
            return
        if not complete:
            time.sleep(0.2)
