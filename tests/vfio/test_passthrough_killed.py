"""SIGKILL of either process at any point: the reader is back on its driver, without an override.

Without the supervisor nobody is left to do it, so the next start does, or ``vmrun host restore``;
without the VM process the supervisor does, and its status says what happened.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.host.passthrough.state import state_folder
from tests.vfio.passing import CHECKOUT, DEVICES, READER, Started, binding, define

pytestmark = pytest.mark.vfio

MACHINE = f"""
[devices.reader]
driver = "vfio"
host = "{READER}"
allow_no_reset = true

[initramfs]
modules = ["sdhci_pci", "mmc_block"]
run = \"\"\"
for i in $(seq 100); do true 2>/dev/null < /dev/mmcblk0 && break; sleep 0.1; done
echo "the guest has $(cat /sys/block/mmcblk0/device/name)"
while true; do dd if=/dev/zero of=/dev/mmcblk0 bs=1M seek=32 count=8 conv=fsync; done 2>/dev/null
\"\"\"
"""
LENT, FIRST_BYTE, BACK = "is lent to the guest", "the guest has QEMU!", "is back with sdhci-pci"
HOST = ("sdhci-pci", "")
TAKING = 3  # writes that take a function: override, unbind, probe; one more gives it back


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start the machine; ``dies``: its supervisor kills itself before that write to sysfs."""
    file = define(tmp_path, MACHINE, "killed")
    started: list[Started] = []

    def begin(dies: int | None = None, engine: str = "kvm") -> Started:
        options = ("--engine", engine, *(["--set", 'accelerator="kvm"'] if engine == "qemu" else []))
        started.append(Started(file, tmp_path, *options, dies=dies))
        return started[-1]

    assert binding(READER) == HOST
    yield begin
    for one in started:
        one.close()
    assert binding(READER) == HOST
    assert os.listdir(state_folder()) == ["lock"]


def group_of_reader() -> str:
    return f"/dev/vfio/{(DEVICES / READER / 'iommu_group').resolve().name}"


def next_start() -> None:
    """Any start of vmrun, here of a file that is not there."""
    words = [sys.executable, "-m", "runner.cli", "run", "/nowhere.toml"]
    said = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert BACK in said.stderr


def restore() -> None:
    """By hand, twice: the second time there is nothing to do."""
    words = [sys.executable, "-m", "runner.cli", "host", "restore"]
    for _ in range(2):
        done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("write", "left", "mend"), [
    (0, HOST, None),
    (1, ("sdhci-pci", "vfio-pci"), next_start),
    (2, ("", "vfio-pci"), restore),
])  # fmt: skip
def test_supervisor_killed_while_it_takes(
    start: Callable[..., Started], write: int, left: tuple[str, str], mend: Callable[[], None] | None
) -> None:
    """Before each of the writes that take the reader; nothing has been changed before the first."""
    started = start(dies=write)
    assert started.wait() == -signal.SIGKILL
    assert binding(READER) == left
    (mend or restore)()


@pytest.mark.parametrize(("words", "mend"), [(LENT, restore), (FIRST_BYTE, next_start)])
def test_supervisor_killed_while_lent(
    start: Callable[..., Started], words: str, mend: Callable[[], None]
) -> None:
    """Before the guest runs, and in the middle of its DMA: the VM process dies with its supervisor."""
    started = start()
    started.until(words)
    vm = os.pidfd_open(started.vm_process())
    started.kill(started.process.pid)
    assert started.wait() == -signal.SIGKILL
    assert binding(READER) == ("vfio-pci", "vfio-pci")
    assert _ends(vm)
    mend()
    os.close(vm)


def _ends(pidfd: int) -> bool:
    """Whether a process is over within five seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(5000))


@pytest.mark.parametrize(("write", "left", "mend"), [
    (0, ("vfio-pci", "vfio-pci"), next_start),
    (1, ("vfio-pci", "sdhci-pci"), restore),
    (2, ("", "sdhci-pci"), next_start),
    (3, ("sdhci-pci", "sdhci-pci"), restore),
])  # fmt: skip
def test_supervisor_killed_while_it_gives_back(
    start: Callable[..., Started], write: int, left: tuple[str, str], mend: Callable[[], None]
) -> None:
    """Before each of the writes that give the reader back, after a signal has ended the run: the override is
    its driver's name until that has taken it.
    """
    started = start(dies=TAKING + write)
    started.until(LENT)
    started.kill(started.process.pid, signal.SIGTERM)
    assert started.wait() == -signal.SIGKILL
    assert binding(READER) == left
    mend()


def test_supervisor_killed_after_the_last_write(start: Callable[..., Started]) -> None:
    """The reader is back already."""
    started = start()
    started.until(LENT)
    started.kill(started.process.pid, signal.SIGTERM)
    started.until(BACK)
    started.kill(started.process.pid)
    started.wait()
    assert binding(READER) == HOST
    restore()


@pytest.mark.parametrize("words", ["vmrun: ", LENT, FIRST_BYTE])
def test_vm_process_killed(start: Callable[..., Started], words: str) -> None:
    """Before it has anything to do, while it starts the guest, and in the middle of DMA: the supervisor
    restores the host by itself and does not call it a success.
    """
    started = start()
    started.until(words)
    started.kill(started.vm_process())
    assert started.wait() not in (0, -signal.SIGKILL)
    assert binding(READER) == HOST
    assert "Traceback" not in started.text()
    assert "VM process" in started.text()


@pytest.mark.parametrize("which", ["supervisor", "qemu"])
def test_killed_with_the_engine_qemu(start: Callable[..., Started], which: str) -> None:
    """QEMU has the reader's group open by then: without its supervisor it dies and the next start gives the
    reader back, and without QEMU the supervisor does.
    """
    started = start(engine="qemu")
    started.until(LENT)
    qemu = started.vm_process(group_of_reader())
    vm = os.pidfd_open(qemu)
    started.kill(qemu if which == "qemu" else started.process.pid)
    status = started.wait()
    assert _ends(vm)
    os.close(vm)
    if which == "qemu":
        assert status not in (0, -signal.SIGKILL)
        assert "Traceback" not in started.text()
        assert BACK in started.text()
    else:
        assert binding(READER) == ("vfio-pci", "vfio-pci")
        next_start()


@pytest.mark.parametrize(("way", "engine"), [("unbound", "kvm"), ("unplugged", "kvm"), ("unbound", "qemu")])
def test_taken_back_by_the_host(start: Callable[..., Started], way: str, engine: str) -> None:
    """Somebody unbinds a lent reader, or takes it out: the kernel waits for us, so the run ends and says
    why, and the reader goes on to its own driver as soon as there is one; also where QEMU would keep it.
    """
    started = start(engine=engine)
    started.until(LENT)
    started.until(FIRST_BYTE)
    written = {
        "unbound": ("/sys/bus/pci/drivers/vfio-pci/unbind", READER),
        "unplugged": (f"/sys/bus/pci/devices/{READER}/remove", "1"),
    }
    path, text = written[way]
    with subprocess.Popen(["sh", "-c", f"echo {text} > {path}"]) as taking:
        assert started.wait(30) == 74
        assert taking.wait(30) == 0
    assert f"the host wants {READER} back" in started.text()
    if way == "unplugged":
        assert f"{READER} is not there any more" in started.text()
        Path("/sys/bus/pci/rescan").write_text("1")
    else:
        assert BACK in started.text()
    assert binding(READER) == HOST


def test_stopped_in_the_middle_of_dma(start: Callable[..., Started]) -> None:
    """SIGTERM: everything back within seconds, and the signal's status."""
    started = start()
    started.until(FIRST_BYTE)
    started.kill(started.process.pid, signal.SIGTERM)
    assert started.wait(20) == 128 + signal.SIGTERM
    assert binding(READER) == HOST
