"""The processes of a run."""

from __future__ import annotations

import os
import time


def vm_process(pid: int) -> int:
    """The VM process of the supervisor ``pid``, once the guest runs in it (it has vCPU threads)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                children = file.read().split()
            for child in children:
                if len(os.listdir(f"/proc/{child}/task")) > 1:
                    return int(child)
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("no VM process with a running vCPU")
