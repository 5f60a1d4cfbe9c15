"""A whole Debian 12 with systemd, made by tools/debian-image, as vms/debian.toml describes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.conftest import vmrun
from tests.guest.terminal import Terminal

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT = 420  # seconds: a whole systemd on one emulated CPU, while others use the machine

# What this kernel says on any machine, of the lab's emulated CPU, and of its speed.
SAID_ANYWHERE = (
    "CONFIG_IMA_DISABLE_HTABLE", "IBPB-extending microcode", "hw-vuln/srso", "hrtimer: interrupt took",
)  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Path:
    """The disk that the definition names; what is sent to the lab finds it made (tests.lab.prepare)."""
    if "VMRUN_IN_LAB" not in os.environ:
        subprocess.run([CHECKOUT / "tools/debian-image"], check=True)
    return Path(os.path.expanduser("~/.cache/vmrun/images/debian-12.img"))


@pytest.fixture
def debian(tmp_path: Path, image: Path) -> Callable[..., Terminal]:
    """``debian(words…)`` runs vms/debian.toml on a terminal; its report is found in ``tmp_path``."""
    report = str(tmp_path / "report.json")
    return lambda *words: Terminal("run", "--report", report, *words, "vms/debian.toml", cwd=CHECKOUT)


def _reason(tmp_path: Path) -> str:
    return str(json.loads((tmp_path / "report.json").read_text())["reason"])


def test_systemd_finds_nothing_wrong_and_switches_the_machine_off(debian, tmp_path):
    """No failed unit, no warning of the kernel about a device of ours, the CPUs and the PCI functions
    of the definition; `poweroff` is the end of the run."""
    with debian("--engine", "kvm") as machine:
        machine.log_in(BOOT)
        assert machine.run("systemctl is-system-running --wait", 120) == "running\n"
        assert machine.run("systemctl --failed --no-legend") == ""
        assert _complaints(machine.run("dmesg --level=emerg,alert,crit,err,warn")) == []
        _cpus_are_as_described(machine.run("lscpu"))
        _functions_are_sound(machine.run("lspci -vv 2>&1"))
        machine.type("poweroff\n")
        assert machine.end(90) == 0, machine.seen[-2000:]
    assert _reason(tmp_path) == "power-off"


def _complaints(text: str) -> list[str]:
    return [line for line in text.splitlines() if not any(words in line for words in SAID_ANYWHERE)]


def _cpus_are_as_described(text: str) -> None:
    said = dict(re.findall(r"^ *([^:\n]+): +(.+)$", text, re.M))
    wanted = {"CPU(s)": "2", "Thread(s) per core": "1", "Core(s) per socket": "2", "Socket(s)": "1"}
    assert wanted.items() <= said.items(), text
    assert said["Hypervisor vendor"] == "KVM"


def _functions_are_sound(text: str) -> None:
    functions = {block.split(" ", 1)[0]: block for block in text.strip().split("\n\n")}
    assert list(functions) == ["00:00.0", "00:01.0", "00:10.0"], text
    for slot in ("00:01.0", "00:10.0"):
        assert "MSI-X: Enable+" in functions[slot]
        assert "Kernel driver in use: virtio-pci" in functions[slot]
        assert len(re.findall(r"Region \d: Memory at [0-9a-f]{8} \(32-bit", functions[slot])) == 2
    for trouble in ("!!!", "Unknown header", "<access denied>", "<invalid", "[disabled]", "unassigned"):
        assert trouble not in text
    assert not re.search(r"<(TAbort|MAbort)\+|>SERR\+|PERR\+", text)


def test_from_qcow2_with_eight_cpus_beyond_the_hole_until_the_power_button(debian, image, tmp_path):
    """To the login prompt and in; `vmrun stop` presses the button, and systemd goes in order."""
    copy = tmp_path / "debian.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, copy], check=True)
    more = ("cpus=8", 'memory="5G"', f'disks.root.path="{copy}"', 'disks.root.format="qcow2"')
    words = [word for each in more for word in ("--set", each)]
    with debian("--engine", "kvm", "--name", "eight", *words) as machine:
        machine.log_in(BOOT)
        count, kibibytes = machine.run("nproc; awk '/^MemTotal/ {print $2}' /proc/meminfo").split()
        assert (int(count), int(kibibytes) >> 20) == (8, 4)
        stopped = vmrun("stop", "--grace", "90s", "eight", cwd=CHECKOUT, seconds=120)
        assert stopped.returncode == 0, stopped.stderr
        assert machine.end(10) == 0, machine.seen[-2000:]
    assert b"reboot: Power down" in machine.seen
    assert _reason(tmp_path) == "stopped"


def test_a_reboot_by_systemd_is_a_reset(debian, tmp_path):
    cmdline = 'cmdline="console=ttyS0 quiet systemd.unit=reboot.target"'
    with debian("--engine", "kvm", "--set", cmdline) as machine:
        assert machine.end(BOOT) == 0, machine.seen[-2000:]
    assert b"reboot: Restarting system" in machine.seen
    assert _reason(tmp_path) == "reset"


def test_the_same_disk_on_qemu_to_its_login_prompt(debian):
    """On the other engine, with the KVM that is there."""
    with debian("--engine", "qemu", "--set", "accelerator=kvm") as machine:
        machine.wait_for("debian login: ", BOOT)
