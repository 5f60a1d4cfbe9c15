"""The processes of a run."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

CONFINED = re.compile(r"^Threads:\s+([2-9]|\d\d+)$.*^Seccomp:\s+2$", re.MULTILINE | re.DOTALL)
"""Of proc(5)'s status: the VM process confines itself last of all, and then its vCPUs' threads begin."""


def vm_process(pid: int) -> int:
    """The VM process of the supervisor ``pid``, once the guest runs in it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in children:
                if CONFINED.search(Path(f"/proc/{child}/status").read_text()):
                    return int(child)
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("no VM process with a running vCPU")


def hear(vmrun: subprocess.Popen[str], words: str) -> None:
    """Wait until the guest has said ``words``."""
    assert vmrun.stdout is not None
    said = ""
    for line in vmrun.stdout:
        said += line
        if words in line:
            return
    raise AssertionError(f"it has ended without {words!r}:\n{said}\n{vmrun.communicate()[1]}")
