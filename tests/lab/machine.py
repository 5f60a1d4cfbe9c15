"""One lab: vms/lab.toml run by vmrun itself, and the folder that it shares with this side."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner.artifacts.cache import cache_root

CHECKOUT = Path(__file__).resolve().parent.parent.parent
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("HOME", "LANG", "TERM", "XDG_STATE_HOME")
DIED = 70


class Lab:
    """``start`` it, ``wait`` for the command's end, ``close`` it."""

    def __init__(self, command: str, *, terminal: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmrun-lab-"))
        self.status: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "cwd").write_text(str(CHECKOUT))
        (self.folder / "env").write_text(_environment())
        (self.folder / "cache").write_text(cache_root())
        _compile(CHECKOUT / "tests" / "lab" / "keep_cpu.c", self.folder / "keep_cpu.so")
        (self.folder / "images").write_text(os.path.expanduser("~/.cache/vmrun/images"))
        if command:
            (self.folder / "command").write_text(command)
        if terminal:
            size = os.get_terminal_size()
            (self.folder / "tty").write_text(f"{size.lines} {size.columns}\n")

    def start(self, stdin: int = subprocess.DEVNULL, stdout: int | None = subprocess.DEVNULL) -> None:
        """Start the machine; what vmrun says about it goes to the folder."""
        words = [
            sys.executable, "-m", "runner.cli", "run", "vms/lab.toml",
            "--set", f"fs.lab.path={self.folder}",
            "--set", f'serial={{file="{self.folder}/console"}}',
            "--report", f"{self.folder}/report.json",
            *shlex.split(os.environ.get("VMRUN_LAB_OPTIONS", "")),
        ]  # fmt: skip
        with (self.folder / "said").open("wb") as said:
            self._process = subprocess.Popen(words, cwd=CHECKOUT, stdin=stdin, stdout=stdout, stderr=said)

    def wait(self, seconds: float | None = None) -> int | None:
        """The status of the command; None when it is not over by then."""
        assert self._process is not None
        try:
            self.status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return self.status

    def ended(self) -> bool:
        """Whether it is over; ``status`` is then the command's."""
        return self._process is not None and self.wait(0) is not None

    def reason(self) -> str:
        """Why it ended, in one word of runner.verdict.reasons; "" when nobody has said."""
        import json

        try:
            report = json.loads((self.folder / "report.json").read_text())
        except (OSError, ValueError):
            return ""
        return str(report.get("reason") or "")

    def said(self) -> str:
        """What vmrun said about the machine, and the last that its kernel said."""
        paths = (self.folder / "said", self.folder / "console")
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in paths if path.exists())

    def close(self) -> None:
        """End it if it runs, and forget it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _compile(source: Path, library: Path) -> None:
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)


def _environment() -> str:
    """Lines for the shell: what a command in the lab finds as its environment."""
    found = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith("VMRUN_")}
    found["PATH"] = f"{Path(sys.executable).parent}:{SYSTEM_PATH}"
    found["VMRUN_IN_LAB"] = "1"
    found["VMRUN_CACHE_DIR"] = cache_root()
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in found.items())


def main() -> int:
    """``make lab``: a shell, or one command whose output and status are ours."""
    command = " ".join(sys.argv[1:])
    terminal = not command and sys.stdin.isatty() and sys.stdout.isatty()
    if not command and not terminal:
        command = sys.stdin.read()  # as a shell would
    lab = Lab(command, terminal=terminal)
    try:
        if terminal:
            lab.start(sys.stdin.fileno(), None)
            status = lab.wait()
        else:
            status = _relayed(lab)
        if lab.reason() != "exit":
            sys.stderr.write(lab.said())
        return DIED if status is None else status
    finally:
        lab.close()


def _relayed(lab: Lab) -> int | None:
    """Run the command; what it writes comes out here as it is written."""
    merged = os.path.sameopenfile(1, 2)
    names = ("stdout",) if merged else ("stdout", "stderr")
    if merged:
        (lab.folder / "merged").touch()
    files = {fd: (lab.folder / name).open("w+b", buffering=0) for fd, name in enumerate(names, start=1)}
    lab.start()
    ended = False
    while not ended:
        ended = lab.wait(0.05) is not None
        for fd, file in files.items():
            while data := file.read(1 << 16):
                _write_all(fd, data)
    return lab.status


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    raise SystemExit(main())
