"""The measuring half: runs where a stock kernel runs under KVM.

``python -m bench.inside [--quick] [--rounds=N] RESULTS FIGURE…`` appends lines of JSON to RESULTS.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

from bench.figures import figure
from bench.session import Bench


def main(words: list[str]) -> int:
    """Measure the figures that are named, one by one."""
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    results, *names = [word for word in words if not word.startswith("--")]
    folder = tempfile.mkdtemp(prefix="vmrun-bench-")
    _bring_programs(folder)
    bench = Bench(results, folder, quick="quick" in options, rounds=int(options.get("rounds", 0)))
    try:
        for name in names:
            bench.measure(figure(name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _bring_programs(folder: str) -> None:
    """What was compiled outside is run from here: the shared folder has no cache."""
    given = os.environ.get("VMRUN_BENCH_PROGRAMS")
    if given:
        here = shutil.copytree(given, os.path.join(folder, "programs"))
        os.environ["VMRUN_BENCH_PROGRAMS"] = here


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
