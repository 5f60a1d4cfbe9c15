"""``python -m bench``: measure, then write docs/benchmarks.md, its plots and bench/results.json."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from bench import figures
from bench.place import Record, measured


def main() -> int:
    """Status 1 when a figure failed."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure vmrun beside others.")
    parser.add_argument("--quick", action="store_true", help="only the start of a machine, three runs")
    parser.add_argument("--only", metavar="NAMES", help="these figures: " + ",".join(figures.NAMES))
    given = parser.parse_args()
    names = [name for name in figures.NAMES if not given.quick or figures.figure(name).IN_QUICK]
    if given.only:
        names = given.only.split(",")
    with tempfile.TemporaryDirectory(prefix="vmrun-bench-programs-") as programs:
        os.environ["VMRUN_BENCH_PROGRAMS"] = programs
        for name in names:
            figures.figure(name).prepare()
        records = measured(names, ["--quick"] if given.quick else [], programs, _tell)
    return int(any(record["kind"] in ("failed", "died") for record in records))


def _tell(record: Record) -> None:
    print(record, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
