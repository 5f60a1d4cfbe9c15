"""The bench's own C, compiled by gcc into a folder that goes with the process."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.process import RunFailed

HERE = Path(__file__).resolve().parent.parent


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="vmrun-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def compiled(source: str, name: str, *options: str) -> str:
    """Compile ``bench/<source>``; returns the path of the result.  Raises RunFailed."""
    given = os.environ.get("VMRUN_BENCH_PROGRAMS", "")
    path = os.path.join(given or _folder(), name)
    if os.path.exists(path):
        return path
    words = ["gcc", "-O2", "-Wall", "-Wextra", "-o", path, str(HERE / source), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"gcc cannot compile bench/{source}: {done.stderr.strip()[-500:]}")
    return path
