"""Whole runs with the card reader, killed: the reader goes back to the host's driver each time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.recovery import recover
from runner.host.survey import survey

pytestmark = pytest.mark.vfio

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "vms/lab/cardreader.toml"
SECONDS = 60.0


class Reader:
    """The lab's card reader, as sysfs tells of it."""

    def __init__(self) -> None:
        (function,) = [
            one for one in survey(qemu_version=False).pci if (one.vendor, one.device) == ("1b36", "0007")
        ]
        self.path = Path("/sys/bus/pci/devices") / function.address

    def driver(self) -> str:
        link = self.path / "driver"
        return os.readlink(link).rpartition("/")[2] if link.is_symlink() else ""

    def is_as_before(self) -> bool:
        return (
            self.driver() == "sdhci-pci" and (self.path / "driver_override").read_text().strip() == "(null)"
        )

    def wait_for(self, driver: str) -> None:
        until = time.monotonic() + SECONDS
        while self.driver() != driver:
            assert time.monotonic() < until, f"the reader stays on {self.driver() or 'no driver'}"
            time.sleep(0.01)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("VMRUN_STATE_DIR", str(tmp_path / "state"))
    return this_host()


@pytest.fixture
def run(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has just taken the reader."""
    reader = Reader()
    assert reader.is_as_before()
    command = [sys.executable, "-m", "runner.cli", "run", "--engine", "kvm", str(DEFINITION)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        reader.wait_for("vfio-pci")
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("delay", [0.0, 0.5, 4.0])
def test_supervisor_killed_the_next_start_restores(
    host: Host, run: subprocess.Popen[bytes], delay: float
) -> None:
    """While the host is prepared, the VM process starts, its devices are opened, and the guest runs."""
    time.sleep(delay)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=SECONDS)
    until = time.monotonic() + SECONDS
    while not Reader().is_as_before():
        complaints = [one.complaint for one in recover(host) if one.complaint]
        assert time.monotonic() < until, complaints
        time.sleep(0.1)
    assert [name for name in os.listdir(host.folder) if name != "lock"] == []


@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_vm_process_killed_the_supervisor_restores(
    host: Host, run: subprocess.Popen[bytes], delay: float
) -> None:
    """Its end is noticed, said, and met with the host as it was before."""
    until = time.monotonic() + SECONDS
    while not children(run.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(delay)
    for child in children(run.pid):
        os.kill(child, signal.SIGKILL)
    run.communicate(timeout=SECONDS)
    assert run.returncode not in (0, None)
    assert Reader().is_as_before()
    assert [name for name in os.listdir(host.folder) if name != "lock"] == []
