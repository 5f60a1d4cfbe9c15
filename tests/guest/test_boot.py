"""Stock Debian kernels on our own engine: CPUs, memory, kernels, endings, devices."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from runner.artifacts.prepare import fetch
from runner.definition.model import KernelDeb
from runner.graph.model import Boot
from runner.host.survey import survey
from tests.guest.conftest import vmrun
from tests.guest.processes import hear, vm_process

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

CENSUS = "nproc; awk '/^MemTotal/ {print $2}' /proc/meminfo; uname -r; dmesg -r | grep '^<[0-3]>'; true"


@pytest.mark.parametrize(
    ("deb", "cpus", "memory", "least", "most"),
    [
        ("linux-image-cloud-amd64", 1, "128M", 60, 128),
        ("linux-image-cloud-amd64", 2, "512M", 400, 512),
        ("linux-image-amd64", 4, "6G", 5700, 6144),
    ],
)
def test_a_stock_kernel_sees_the_machine_of_the_file(run, deb, cpus, memory, least, most):
    outcome = run(CENSUS, deb=deb, cpus=cpus, memory=memory)
    assert outcome.status == 0, outcome.err
    count, kibibytes, release, *complaints = _after_boot(outcome.out)
    assert int(count) == cpus
    assert least <= int(kibibytes) // 1024 <= most
    assert release.endswith("-amd64")
    assert [line for line in complaints if not _harmless(line)] == []


def test_every_cpu_tells_the_same_of_this_host():
    """KVM's table of what a guest may have names the CPU that was asked; a plan that is remembered must hold
    on the next one."""
    before = os.sched_getaffinity(0)
    told = []
    try:
        for cpu in sorted(before):
            os.sched_setaffinity(0, {cpu})
            told.append(survey(pci=False).kvm)
    finally:
        os.sched_setaffinity(0, before)
    assert len(told) > 1
    assert told[0].cpuid
    assert told == told[:1] * len(told)


def _after_boot(text: str) -> list[str]:
    """From the census on; what the kernel said before it stands in dmesg again."""
    lines = [line for line in text.splitlines() if line.strip()]
    start = next(number for number, line in enumerate(lines) if re.fullmatch(r"\d+", line.strip()))
    return [line.strip() for line in lines[start:]]


def _harmless(line: str) -> bool:
    """What a kernel without PCI is known to say."""
    return "No config space access function" in line


def test_an_extracted_vmlinux_and_the_bzimage_boot_by_path(run, tmp_path):
    files = fetch(Boot(KernelDeb("linux-image-cloud-amd64"), None, ""))
    for number, kernel in enumerate((files.kernel, files.kernel_given)):
        (tmp_path / "by-path.toml").write_text(
            f'kernel = "{kernel}"\ncmdline = "console=ttyS0 quiet"\nmemory = "256M"\ntimeout = "120s"\n'
            f'[initramfs]\nrun = "exit {number + 3}"\n'
        )
        assert vmrun("--engine", "kvm", "by-path.toml", cwd=tmp_path).returncode == number + 3


def test_each_ending_of_a_stock_kernel_has_its_reason(run):
    panic = run("echo c > /proc/sysrq-trigger; sleep 60", words="panic=0")
    assert (panic.status, panic.report["reason"]) == (134, "panic"), panic.err
    reset = run("reboot -f")
    assert (reset.status, reset.report["reason"]) == (0, "reset"), reset.err
    off = run("poweroff -f")
    assert (off.status, off.report["reason"]) == (0, "power-off"), off.err
    silent = run("sleep 300", options=("--timeout", "25s"))
    assert (silent.status, silent.report["reason"]) == (124, "hang"), silent.err


DEVICES = """
[disks.plain]
path = "plain.img"
format = "raw"
serial = "plain-disk"
[disks.thrown]
path = "thrown.img"
format = "raw"
ephemeral = true
[disks.kept]
path = "kept.img"
format = "raw"
readonly = true
[rng]
"""
DISK_WORK = """
set -e
cat /sys/block/vda/serial; echo
dd if=/dev/urandom of=/w bs=1M count=8 2>/dev/null
for disk in vda vdb; do
  dd if=/w of=/dev/$disk bs=64k seek=7 conv=fsync 2>/dev/null
  echo 3 > /proc/sys/vm/drop_caches
  dd if=/dev/$disk bs=64k skip=7 count=128 2>/dev/null | cmp - /w
done
! dd if=/w of=/dev/vdc bs=512 count=1 conv=fsync 2>/dev/null
md5sum < /w
dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c
grep -c virtio /proc/interrupts
"""


def test_disks_hold_what_was_written_and_only_where_they_may(run, tmp_path):
    for name in ("plain", "thrown", "kept"):
        (tmp_path / f"{name}.img").write_bytes(name.encode() * 1000 + bytes(16 << 20))
    before = {name: _digest(tmp_path / f"{name}.img") for name in ("plain", "thrown", "kept")}
    outcome = run(DISK_WORK, modules=("virtio_pci", "virtio_blk", "virtio_rng"), more=DEVICES, cpus=2)
    assert outcome.status == 0, outcome.out + outcome.err
    after = {name: _digest(tmp_path / f"{name}.img") for name in before}
    assert [name for name in before if before[name] != after[name]] == ["plain"]
    written = re.search(r"[0-9a-f]{32}", outcome.out)
    image = (tmp_path / "plain.img").read_bytes()
    assert written
    assert hashlib.md5(image[7 << 16 : (7 << 16) + (8 << 20)]).hexdigest() == written[0]


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_cpu_feature_that_kvm_does_not_offer_is_told_before_anything_is_fetched(tmp_path):
    """No emulated CPU has AVX-512, so the lab's KVM has none for guests."""
    (tmp_path / "wide.toml").write_text(
        'kernel = { deb = "no-such-package" }\nengine = "kvm"\n'
        'cpus = { count = 1, features = ["+aes", "+avx512f"] }\n'
    )
    words = "this host's KVM does not offer `avx512f` to guests"
    refused = vmrun("wide.toml", cwd=tmp_path)
    assert refused.returncode == 69
    assert words in refused.stderr
    assert "leave it out of cpus.features" in refused.stderr
    assert words in vmrun("plan", "wide.toml", cwd=tmp_path).stdout


def test_the_second_user_of_a_disk_is_told_who_has_it(run, tmp_path):
    (tmp_path / "plain.img").write_bytes(bytes(1 << 20))
    disk = '[disks.plain]\npath = "plain.img"\nformat = "raw"\n'
    (tmp_path / "first.toml").write_text(
        'kernel = { deb = "linux-image-cloud-amd64" }\ncmdline = "console=ttyS0 quiet"\nmemory = "256M"\n'
        f'{disk}[initramfs]\nrun = "echo up; sleep 100"\n'
    )
    first = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "--engine", "kvm", "first.toml"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, text=True,
    )  # fmt: skip
    try:
        hear(first, "up")
        second = run("true", more=disk)
        assert second.status == 69
        assert re.search(r"plain\.img is in use by process \d+", second.err), second.err
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 128 + signal.SIGTERM


NETWORK = """
set -e
ip addr add 10.77.0.2/24 dev eth0
ip link set eth0 up
ping -c 2 -w 20 10.77.0.1
wget -q -O - http://10.77.0.1:8077/file | md5sum
"""


def test_a_tap_with_vhost_net_carries_a_file(run, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(4 << 20))
    for words in ("tuntap add vmt0 mode tap", "addr add 10.77.0.1/24 dev vmt0", "link set vmt0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    server = subprocess.Popen(["busybox", "httpd", "-f", "-p", "10.77.0.1:8077", "-h", str(tmp_path)])
    try:
        outcome = run(
            NETWORK,
            modules=("virtio_pci", "virtio_net"),
            more='[net.lan]\nbackend = "tap"\ntap = "vmt0"\n',
            options=("-v",),
        )
        assert outcome.status == 0, outcome.out + outcome.err
        assert hashlib.md5((tmp_path / "file").read_bytes()).hexdigest() in outcome.out
        assert "without vhost-net" not in outcome.err
    finally:
        server.terminate()
        server.wait()
        subprocess.run(["ip", "link", "del", "vmt0"], check=True)


@pytest.mark.parametrize("victim", ["vm-process", "supervisor"])
def test_killing_either_process_leaves_none_behind(tmp_path, victim):
    (tmp_path / "vm.toml").write_text(
        'kernel = { deb = "linux-image-cloud-amd64" }\nmemory = "256M"\n[initramfs]\nrun = "sleep 100"\n'
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "--engine", "kvm", "vm.toml"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, text=True,
    )  # fmt: skip
    child = vm_process(supervisor.pid)
    os.kill(child if victim == "vm-process" else supervisor.pid, signal.SIGKILL)
    _, err = supervisor.communicate(timeout=20)
    if victim == "vm-process":
        assert supervisor.returncode == 70
        assert "VM process" in err
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")
