"""What a number depends on beside the programs: machine, kernel, versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time


def circumstances() -> dict[str, str]:
    """For the small print under each table."""
    from runner import __version__

    lab = "the lab" if os.environ.get("VMRUN_IN_LAB") else "this host"
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "in": f"{lab}, {os.cpu_count()} × {_cpu()}, Linux {_kernel(platform.release())}",
        "vmrun": __version__,
        "Python": _first_line("python3", "--version").removeprefix("Python "),  # the product's, first in PATH
        "QEMU": _first_line("qemu-system-x86_64", "--version").removeprefix("QEMU emulator version "),
    }


def _kernel(release: str) -> str:
    """Version, and the distribution's own number and flavour; not what somebody called his own build."""
    found = re.match(r"\d+(\.\d+)*(-\d+(-[a-z0-9]+)*)?", release)
    return found[0] if found else release


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        found = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _first_line(program: str, option: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "installed"
    return done.stdout.splitlines()[0] if done.stdout else "installed"
