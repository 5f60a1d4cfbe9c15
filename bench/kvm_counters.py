"""KVM's own counters of what its guests cost (Documentation/virt/kvm, "debugfs")."""

from __future__ import annotations

import os
import subprocess

FOLDER = "/sys/kernel/debug/kvm"
COUNTED = ("exits", "io_exits", "mmio_exits", "halt_exits", "pf_fixed")


def available() -> bool:
    """Whether they can be read; debugfs is mounted if it is not and we may."""
    if not os.path.isdir(FOLDER):
        subprocess.run(
            ["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], capture_output=True, check=False
        )
    return os.access(os.path.join(FOLDER, "exits"), os.R_OK)


def read() -> dict[str, float]:
    """The counters of all guests that live now; those that this kernel does not have are left out."""
    found: dict[str, float] = {}
    for name in COUNTED:
        try:
            with open(os.path.join(FOLDER, name)) as file:
                found[name] = float(file.read())
        except OSError:
            continue
    return found
