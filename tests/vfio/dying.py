"""``python -m tests.vfio.dying N …``: vmrun that kills itself right before its N-th write to sysfs."""

from __future__ import annotations

import os
import signal
import sys

import runner.host.passthrough.host
from runner.cli import main
from runner.host.sysfs import HostSysfs


class DiesAt(HostSysfs):
    """The host's files, until one write too many."""

    left = int(sys.argv[1])

    def write(self, path: str, text: str) -> None:
        if DiesAt.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        DiesAt.left -= 1
        super().write(path, text)


if __name__ == "__main__":
    runner.host.passthrough.host.HostSysfs = DiesAt  # type: ignore[misc]
    sys.argv[1:2] = []
    raise SystemExit(main())
