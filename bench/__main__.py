"""``python -m bench``: measure, then write docs/benchmarks.md, its plots and bench/results.json."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import figures, product
from bench.document import document, goals, table
from bench.place import Here, Record, measured
from bench.plots import plot
from bench.results import Outcome, outcome, rows
from bench.session import Figure

CHECKOUT = Path(__file__).resolve().parent.parent
SAMPLES = Path("bench/samples.jsonl")
QUICK = "--quick"


def main() -> int:
    """Status 1 when a figure failed, 64 for a figure that does not exist."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and the lab ends with us
    names = _names(given)
    if unknown := [name for name in names if name not in figures.NAMES]:
        print(f"bench: no figure {', '.join(unknown)}; there are {', '.join(figures.NAMES)}", file=sys.stderr)
        return 64
    out = Path(given.out) if given.out else None if given.quick else CHECKOUT
    began = time.monotonic()
    records = [] if given.redraw else _measure(names, _options(given))
    if out is not None:
        records = _with_earlier(out / SAMPLES, records, names if not given.redraw else [])
        write(out, records)
    show(names, records)
    print(f"bench: {time.monotonic() - began:.0f} s")
    return int(any(record["kind"] in ("failed", "died") for record in records))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure vmrun beside others.")
    add = parser.add_argument
    add(QUICK, action="store_true", help="the start of a machine only; writes nothing")
    add("--only", metavar="NAMES", help="some figures: " + ",".join(figures.NAMES))
    add("--rounds", metavar="N", type=int, default=0, help="so many counted rounds instead of the usual")
    add("--out", metavar="FOLDER", help="where docs/ and bench/ are written; the checkout")
    add("--redraw", action="store_true", help="measure nothing; write everything from the samples anew")
    return parser.parse_args()


def _names(given: argparse.Namespace) -> list[str]:
    if given.only:
        return str(given.only).split(",")
    return [name for name in figures.NAMES if not given.quick or figures.figure(name).IN_QUICK]


def _options(given: argparse.Namespace) -> list[str]:
    """What the measuring half is told."""
    return [*([QUICK] if given.quick else []), *([f"--rounds={given.rounds}"] if given.rounds else [])]


def _measure(names: Sequence[str], options: list[str]) -> list[Record]:
    """Prepare outside, measure where it belongs."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="vmrun-bench-programs-") as programs:
        os.environ["VMRUN_BENCH_PROGRAMS"] = programs
        os.environ[product.BIN] = product.installed()
        ready = [name for name in names if _prepared(name, records)]
        inside = [name for name in ready if figures.figure(name).NEEDS_KVM]
        outside = [name for name in ready if name not in inside]
        if outside:
            records += measured(outside, options, programs, _tell, Here)
        if inside:
            records += measured(inside, options, programs, _tell)
    return records


def _prepared(name: str, records: list[Record]) -> bool:
    try:
        figures.figure(name).prepare()
    except Exception as error:  # the figure fails, and the others go on
        records.append({"kind": "failed", "figure": name, "why": str(error)})
        _tell(records[-1])
        return False
    return True


def _tell(record: Record) -> None:
    """What has just been measured, for who waits."""
    who = f"{record['who']} " if "who" in record else ""
    match record["kind"]:
        case "sample":
            values = ", ".join(f"{key} {value:.4g}" for key, value in record["values"].items())
            turn = f"{record['round']}" if record["round"] else "warm-up"
            print(f"bench: {record['figure']} {turn}: {who}{values}", file=sys.stderr)
        case "begin" | "end" | "remark" | "beat":
            return
        case kind:
            print(f"bench: {record['figure']}: {who}{kind} {record.get('why', '')}", file=sys.stderr)


def _with_earlier(path: Path, records: list[Record], new: Sequence[str]) -> list[Record]:
    """The samples of figures that were not measured now stay what they were."""
    if not path.exists():
        return records
    earlier = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in earlier if record["figure"] not in new] + records


def write(out: Path, records: Sequence[Record]) -> None:
    """Samples, results, document and plots."""
    shown = [figures.figure(name) for name in figures.NAMES]
    outcomes = [outcome(name, records) for name in figures.NAMES]
    drawn = [of.name for figure, of in zip(shown, outcomes, strict=True) if _drawn(figure, of, out)]
    (out / "bench").mkdir(parents=True, exist_ok=True)
    (out / SAMPLES).write_text("".join(json.dumps(record) + "\n" for record in records))
    found = [
        row
        for figure, of in zip(shown, outcomes, strict=True)
        for row in rows(figure.NAME, figure.METRICS, of)
    ]
    (out / "bench" / "results.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (out / "docs").mkdir(parents=True, exist_ok=True)
    (out / "docs" / "benchmarks.md").write_text(document(shown, outcomes, drawn))


def _drawn(figure: Figure, measured: Outcome, out: Path) -> bool:
    try:
        path = out / "docs" / "benchmarks" / f"{figure.NAME}.svg"
        return plot(figure.TITLE, figure.METRICS, measured, path)
    except ModuleNotFoundError as error:
        print(f"bench: no plots without {error.name} (pip install 'vmrun[bench]')", file=sys.stderr)
        return False


def show(names: Sequence[str], records: Sequence[Record]) -> None:
    """The tables on standard output."""
    shown = [figures.figure(name) for name in names]
    outcomes = [outcome(name, records) for name in names]
    for figure, of in zip(shown, outcomes, strict=True):
        print(f"\n{figure.TITLE}\n")
        print(f"failed: {of.failed}" if of.failed else table(figure.METRICS, of))
        if of.missing:
            print(f"not installed: {', '.join(of.missing)}")
    print("\n" + goals(shown, outcomes))


if __name__ == "__main__":
    sys.exit(main())
