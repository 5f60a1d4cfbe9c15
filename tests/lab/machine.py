"""One lab: a folder that both sides share, and the machine with the checkout in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab.boot import CACHE, CHECKOUT, arguments

PASSED_ON = ("HOME", "LANG", "TERM", "XDG_CACHE_HOME", "XDG_STATE_HOME")


class Lab:
    """``start`` it, ``wait`` for the command's end, ``close`` it."""

    def __init__(self, command: str, *, terminal: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmrun-lab-"))
        self.status: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "cwd").write_text(str(CHECKOUT))
        (self.folder / "modules").write_text(str(CACHE / "tree"))
        (self.folder / "env").write_text(_environment())
        if command:
            (self.folder / "command").write_text(command)
        if terminal:
            size = os.get_terminal_size()
            (self.folder / "tty").write_text(f"{size.lines} {size.columns}\n")
        for name, size in (("card", 64 << 20), ("disk", 256 << 20), ("disk2", 64 << 20)):
            with (self.folder / f"{name}.img").open("wb") as image:
                image.truncate(size)

    def start(self, stdin: int = subprocess.DEVNULL, stdout: int | None = subprocess.DEVNULL) -> None:
        """Start the machine."""
        self._exit, theirs = socket.socketpair()
        with (self.folder / "qemu").open("w") as errors:
            self._process = subprocess.Popen(
                arguments(self.folder, theirs.fileno()), pass_fds=[theirs.fileno()],
                stdin=stdin, stdout=stdout, stderr=errors,
            )  # fmt: skip
        theirs.close()
        self._exit.setblocking(False)

    def ended(self) -> bool:
        """Whether it is over; ``status`` is then the command's, or 70."""
        if self.status is None and self._process is not None:
            try:
                byte = self._exit.recv(1)
            except BlockingIOError:
                return False
            self.status = byte[0] if byte else 70
            self._process.terminate()
            self._process.wait()
        return self.status is not None

    def wait(self, seconds: float | None = None) -> int | None:
        """The status of the command; None when it is not over by then."""
        import select

        if not self.ended():
            select.select([self._exit], [], [], seconds)
            self.ended()
        return self.status

    def last_words(self) -> str:
        """The end of what QEMU and the lab's kernel said."""
        said = ""
        for name in ("qemu", "console"):
            path = self.folder / name
            said += path.read_text(errors="replace")[-2000:] if path.exists() else ""
        return said

    def close(self) -> None:
        """End it if it runs, and forget it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _environment() -> str:
    """Lines for the shell: what a command in the lab finds as its environment."""
    import shlex

    found = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith("VMRUN_")}
    found["PATH"] = f"{CHECKOUT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found["VMRUN_IN_LAB"] = "1"
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in found.items())


def main() -> int:
    """``make lab``: a shell, or one command whose status is ours."""
    command = " ".join(sys.argv[1:])
    terminal = not command and sys.stdin.isatty()
    lab = Lab(command, terminal=terminal)
    if terminal:
        subprocess.run(["stty", "raw", "-echo"], check=True)
    try:
        lab.start(sys.stdin.fileno() if terminal else subprocess.DEVNULL, None)
        status = lab.wait()
        if status == 70 and lab._process is not None and lab._process.returncode:
            sys.stderr.write(lab.last_words())
        return 70 if status is None else status
    finally:
        lab.close()
        if terminal:
            subprocess.run(["stty", "sane"], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
