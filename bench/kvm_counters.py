"""KVM's own counters of what a guest costs: a folder of debugfs for each VM, ``PID-DESCRIPTOR``."""

from __future__ import annotations

import os
import subprocess

from bench.process import family

FOLDER = "/sys/kernel/debug/kvm"
COUNTED = ("exits", "io_exits", "mmio_exits", "halt_exits", "pf_fixed")


def available() -> bool:
    """Whether they can be read; debugfs is mounted if it is not and we may."""
    if not os.path.isdir(FOLDER):
        subprocess.run(
            ["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], capture_output=True, check=False
        )
    return os.access(os.path.join(FOLDER, "exits"), os.R_OK)


def read(pid: int) -> dict[str, float]:
    """The counters of the VMs of this process and of all that it has started.

    Other machines that run on this host do not count; counters that this kernel does not have are left out.
    """
    ours = {str(each) for each in family(pid)}
    folders = [name for name in os.listdir(FOLDER) if name.partition("-")[0] in ours]
    found: dict[str, float] = {}
    for folder in folders:
        for name in COUNTED:
            try:
                with open(os.path.join(FOLDER, folder, name)) as file:
                    found[name] = found.get(name, 0.0) + float(file.read())
            except OSError:
                continue
    return found
