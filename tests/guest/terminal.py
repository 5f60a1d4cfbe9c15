"""``vmrun`` on a terminal of its own, and somebody who sits at it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType


class Terminal:
    """A run of ``vmrun`` whose guest is typed to; ended, if it still runs, at the end of ``with``."""

    def __init__(self, *words: str, cwd: Path) -> None:
        ours, theirs = pty.openpty()
        self._fd = ours
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *words],
            cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
        os.close(theirs)
        self._mark = 0

    def wait_for(self, text: str, seconds: float) -> str:
        """What came up to and with ``text``, since the last thing that was waited for."""
        wanted = text.replace("\n", "\r\n").encode()
        deadline = time.monotonic() + seconds
        while (at := self.seen.find(wanted, self._mark)) < 0:
            if not self._read(deadline):
                raise AssertionError(f"no {text!r}; seen:\n{self.seen[-3000:].decode(errors='replace')}")
        found = self.seen[self._mark : at + len(wanted)]
        self._mark = at + len(wanted)
        return found.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def log_in(self, seconds: float) -> None:
        """As root, who has no password; the shell then repeats nothing, and nothing waits for a key."""
        self.wait_for("login: ", seconds)
        self.type("root\n")
        self.wait_for("# ", seconds)
        self.type("stty -echo; export TERM=dumb PAGER=cat SYSTEMD_PAGER=cat PS1=; echo se'ttled'\n")
        self.wait_for("settled\n", seconds)

    def run(self, command: str, seconds: float = 60) -> str:
        """What ``command`` prints in the guest's shell; AssertionError when its status is not 0."""
        self.type(f"{command}\necho 'status'-$?-end\n")
        said, _, status = self.wait_for("-end\n", seconds).rpartition("status-")
        assert status == "0-end\n", f"{command}: {status}\n{said}"
        return said

    def end(self, seconds: float) -> int:
        """The status of ``vmrun``, once it has ended by itself."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(1.0, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.seen += data
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        os.close(self._fd)
