"""vmrun as its users have it: a wheel of this checkout, installed by the system's Python.

A developer's environment has coverage and an import hook for the link to the checkout, and starts
slower; the checkout's interpreter may be one that somebody built without optimization.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.process import RunFailed

CHECKOUT = Path(__file__).resolve().parent.parent
SYSTEM = "/usr/bin/python3"
BIN = "VMRUN_BENCH_PRODUCT"
"""Where the measuring half finds it: the folder that has ``vmrun`` and its ``python3``."""


def installed() -> str:
    """Build and install what the checkout is now; returns the folder of its commands.  Raises RunFailed."""
    place = CHECKOUT / "build" / "bench"
    python = place / "bin" / "python3"
    if not python.exists():
        _run([_interpreter(), "-m", "venv", "--without-pip", str(place)])
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    _run([*pip, "install", "--force-reinstall", "--no-deps", str(CHECKOUT)])
    _run([*pip, "install", str(CHECKOUT)])  # and what it depends on, if that is not there yet
    return str(python.parent)


def _interpreter() -> str:
    """The system's, where it can make an environment and compile for it; else the checkout's."""
    needed = "import ensurepip, sys, sysconfig, os; os.stat(sysconfig.get_path('include') + '/Python.h')"
    check = f"{needed}; sys.exit(sys.version_info < (3, 11))"
    if os.path.exists(SYSTEM):
        done = subprocess.run([SYSTEM, "-c", check], capture_output=True, check=False)
        if done.returncode == 0:
            return SYSTEM
    return sys.executable


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{' '.join(words[:4])} …: {done.stderr.strip()[-600:]}")


def path() -> str:
    """PATH with the product in front."""
    return f"{os.environ[BIN]}:{os.environ.get('PATH', os.defpath)}"
