"""Running machines with lent functions in the lab, and looking at the lab's side of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
DEVICES = Path("/sys/bus/pci/devices")
READER, DISK, CARD, PAIR = "0000:00:05.0", "0000:00:06.0", "0000:00:07.0", ("0000:00:0d.0", "0000:00:0d.1")
RESETTABLE = "0000:01:00.0"

HEAD = """
kernel = { deb = "linux-image-amd64" }
cmdline = "console=ttyS0 quiet"
memory = "512M"
serial = "tty"
timeout = "240s"
"""


class Ran(NamedTuple):
    """A run that is over: its status, what the guest said, what vmrun said, and its report."""

    status: int
    guest: str
    said: str
    report: dict[str, Any]


def command(file: Path | str, *options: str) -> list[str]:
    return [sys.executable, "-m", "runner.cli", "run", *options, str(file)]


def vmrun(file: Path | str, tmp_path: Path, *options: str, seconds: float = 280) -> Ran:
    """One whole run, with a deadline."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        command(file, "--report", str(report), *options), cwd=CHECKOUT, capture_output=True, timeout=seconds,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    told = json.loads(report.read_text()) if report.exists() else {}
    return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(), told)


def define(tmp_path: Path, text: str, name: str = "machine") -> Path:
    file = tmp_path / f"{name}.toml"
    file.write_text(HEAD + text)
    return file


def binding(address: str) -> tuple[str, str]:
    """Driver and override of a function now."""
    driver = DEVICES / address / "driver"
    override = (DEVICES / address / "driver_override").read_text().strip()
    return (driver.resolve().name if driver.exists() else "", override.replace("(null)", ""))


def bindings(*addresses: str) -> list[tuple[str, str]]:
    return [binding(address) for address in addresses]


def interrupts(guest: str, name: str) -> dict[str, tuple[int, str]]:
    """Of the lines of /proc/interrupts that a guest printed: {name: (count, kind)}."""
    found = {}
    for line in guest.splitlines():
        words = line.split()
        if len(words) > 3 and words[0].rstrip(":").isdigit() and words[-1].startswith(name):
            counts = [int(word) for word in words[1:] if word.isdigit()]
            found[words[-1]] = (sum(counts), " ".join(words[1 + len(counts) : -1]))
    return found


class PowerWatch(threading.Thread):
    """Collects the power states that a function of the host is seen in."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._file = DEVICES / address / "power_state"
        self._over = threading.Event()
        self.seen: set[str] = set()

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.seen.add(self._file.read_text().strip())

    def __enter__(self) -> PowerWatch:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()


def _opens(pid: str, path: str) -> bool:
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(os.readlink(fd))
    return any(link.endswith(path) for link in links)


class Started:
    """A run that goes on: wait for words of it, kill one of its processes.

    ``dies``: the supervisor kills itself before that write to sysfs.
    """

    def __init__(self, file: Path, tmp_path: Path, *options: str, dies: int | None = None) -> None:
        words = command(file, *options)
        if dies is not None:
            words[1:3] = ["-m", "tests.vfio.dying", str(dies)]
        self._said = (tmp_path / "said").open("w+b")
        self._guest = (tmp_path / "guest").open("w+b")
        self.process = subprocess.Popen(
            words, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=self._guest, stderr=self._said
        )  # fmt: skip

    def text(self) -> str:
        return "".join(os.pread(file.fileno(), 1 << 20, 0).decode() for file in (self._said, self._guest))

    def until(self, words: str, seconds: float = 120) -> None:
        """Wait until vmrun or the guest has said so."""
        end = time.monotonic() + seconds
        while words not in self.text():
            assert self.process.poll() is None, f"it ended without {words!r}:\n{self.text()}"
            assert time.monotonic() < end, f"nobody said {words!r}:\n{self.text()}"
            time.sleep(0.02)

    def vm_process(self, has: str = "") -> int:
        """The pid of the VM process: our child's only child, or the one that has this file open."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        end = time.monotonic() + 60
        while not (found := [int(pid) for pid in path.read_text().split() if not has or _opens(pid, has)]):
            assert time.monotonic() < end, f"there is no VM process:\n{self.text()}"
            time.sleep(0.01)
        return found[0]

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._said.close()
        self._guest.close()
