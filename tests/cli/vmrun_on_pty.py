"""Run the fake vmrun as a user does: on a terminal, in a pipe, in the background."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds for what is to happen at all; a test that claims "within so many" says how many itself."""


def definition(folder: Path, text: str = "") -> str:
    """A small definition; ``text`` is added to it."""
    path = folder / "box.toml"
    path.write_text('kernel = "/boot/vmlinuz"\ncmdline = "console=ttyS0"\nmemory = "128M"\n' + text)
    return str(path)


def environment(folder: Path) -> dict[str, str]:
    """Registry, state and cache in the test's own folder."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def command(scenario: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.cli.fake_vmrun", scenario, *arguments]


class OnTerminal:
    """vmrun as the foreground job of a terminal of its own, as under a shell.

    ``before`` are the terminal's attributes when it starts; our side keeps the slave open,
    so that they can be looked at afterwards, as a shell would.
    """

    def __init__(self, folder: Path, *words: str) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            words,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment(folder),
            cwd=folder,
            start_new_session=True,
            preexec_fn=self._take_terminal,  # noqa: PLW1509  # no threads here
        )

    def _take_terminal(self) -> None:
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def wait_for(self, words: bytes) -> None:
        """Until the terminal has shown ``words``."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.output:
            assert time.monotonic() < deadline, f"no {words!r} in {self.output!r}"
            self._read(0.2)

    def wait(self) -> int:
        """Until vmrun has ended; returns its status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running; it said {self.output!r}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def is_sane(self) -> bool:
        """Exactly as it was; given a moment, since a guard process may be at it."""
        deadline = time.monotonic() + PATIENCE
        while termios.tcgetattr(self.slave) != self.before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def wait_raw(self) -> None:
        wait_until(self.is_raw)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, patience: float) -> bool:
        if not select.select([self.master], [], [], patience)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.output += data
        return bool(data)


def wait_until(holds: object, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def guest_of(pid: int) -> int:
    """The VM process: the first child (the terminal's guard comes later)."""
    wait_until(lambda: children(pid))
    return min(children(pid))


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that init has not reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def belonging_to(folder: Path) -> list[int]:
    """Processes that a test has started in its folder, and whatever they have started."""
    mark = f"XDG_RUNTIME_DIR={folder / 'run'}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if is_alive(pid)]
