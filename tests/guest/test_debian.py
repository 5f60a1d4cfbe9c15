"""A whole Debian 12 with systemd, made by tools/debian-image, as vms/debian.toml describes it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.guest.conftest import vmrun
from tests.guest.terminal import Terminal

pytestmark = [pytest.mark.guest, pytest.mark.timeout(420)]

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT = 240  # seconds: a whole systemd on an emulated CPU

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
    """``debian(words…)`` runs vms/debian.toml, or another ``file``, on a terminal; its report is found in
    ``tmp_path``.
    """
    report = str(tmp_path / "report.json")

    def run(*words: str, file: str = "vms/debian.toml") -> Terminal:
        return Terminal("run", "--report", report, *words, file, cwd=CHECKOUT)

    return run


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


SERVER = """
extends = "{checkout}/vms/debian.toml"
cpus = {{ count = 8, topology = {{ sockets = 2, cores = 4, threads = 1 }} }}
[memory]
size = "5G"
zones = [{{ size = "3G", cpus = [0, 1, 2, 3] }}, {{ size = "2G", cpus = [4, 5, 6, 7] }}]
[disks.root]
path = "debian.qcow2"
format = "qcow2"
[net.lan]
backend = "user"
[fs.work]
path = "work"
[vsock]
cid = 24
"""
VSOCK_PORT, WEB_PORT = 6024, 8079
FETCH = f"""exec 3<>/dev/tcp/10.66.0.1/{WEB_PORT}
printf 'GET /file HTTP/1.0\\r\\n\\r\\n' >&3
sed '1,/^.$/d' <&3 | md5sum"""


@pytest.fixture
def server(image: Path, tmp_path: Path, default_route: None) -> Iterator[Path]:
    """A definition of a machine with more; its folder is the guest's, and at a web server of the host."""
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, tmp_path / "debian.qcow2"], check=True)
    work = tmp_path / "work"
    work.mkdir()
    (work / "file").write_text("".join(f"line {number}\n" for number in range(50_000)))
    peer = ["cc", "-static", "-o", work / "peer", Path(__file__).parent / "vsock_peer.c"]
    subprocess.run(peer, check=True)
    (tmp_path / "server.toml").write_text(SERVER.format(checkout=CHECKOUT))
    web = subprocess.Popen(["busybox", "httpd", "-f", "-p", f"127.0.0.1:{WEB_PORT}", "-h", str(work)])
    yield tmp_path / "server.toml"
    web.terminate()
    web.wait()


def _answer_by_vsock(heard: list[bytes]) -> None:
    """One connection is taken, and what it says is said back."""
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_HOST, VSOCK_PORT))
    listener.listen()
    listener.settimeout(BOOT)

    def answer() -> None:
        stream, _ = listener.accept()
        with listener, stream:
            heard.append(stream.recv(64))
            stream.sendall(b"heard " + heard[0])

    Thread(target=answer, daemon=True).start()


def _zones_are_as_described(text: str) -> None:
    said = dict(re.findall(r"^ *([^:\n]+): +(.+)$", text, re.M))
    wanted = {
        "CPU(s)": "8", "Thread(s) per core": "1", "Core(s) per socket": "4", "Socket(s)": "2",
        "NUMA node(s)": "2", "NUMA node0 CPU(s)": "0-3", "NUMA node1 CPU(s)": "4-7",
    }  # fmt: skip
    assert wanted.items() <= said.items(), text


def test_a_server_with_zones_qcow2_network_folder_and_vsock_until_the_power_button(debian, server, tmp_path):
    """What systemd finds it starts: the network has its address, and bytes pass by each way; memory is on
    both sides of the PCI window.  `vmrun stop` presses the button, and systemd goes in order.
    """
    heard: list[bytes] = []
    _answer_by_vsock(heard)
    with debian("--engine", "kvm", "--name", "eight", file=str(server)) as machine:
        machine.log_in(BOOT)
        assert machine.run("systemctl is-system-running --wait", 120) == "running\n"
        _zones_are_as_described(machine.run("lscpu"))
        sizes = machine.run("awk '/MemTotal/ {print $4}' /sys/devices/system/node/node[01]/meminfo").split()
        assert [round(int(size) / (1 << 20)) for size in sizes] == [3, 2]
        address = "ip -4 -o addr show scope global | grep ."
        assert " 10.66.0.9/24 " in machine.run(f"until {address}; do sleep 0.2; done")
        machine.run("mount -t virtiofs work /mnt && echo by-folder >/mnt/said")
        assert (tmp_path / "work" / "said").read_text() == "by-folder\n"
        by_folder, by_network = machine.run(f"md5sum </mnt/file\n{FETCH}").split("\n", 1)
        assert by_folder == by_network.strip()
        assert "heard by-vsock" in machine.run(f"/mnt/peer connect 2 {VSOCK_PORT} by-vsock")
        assert heard == [b"by-vsock"]
        assert _complaints(machine.run("umount /mnt; dmesg --level=emerg,alert,crit,err,warn")) == []
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
