"""Disks under load and under trouble, as a stock Linux sees them and as the images are afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.conftest import vmrun
from tests.guest.processes import vm_process

pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

JOBS = """
[global]
rw=randrw
bssplit=4k/60:16k/20:64k/20
size=2m
offset_increment=4m
numjobs=4
ioengine=libaio
iodepth=16
direct=1
fsync=16
randseed=7
verify=crc32c
verify_fatal=1
group_reporting=1
[verified]
"""
MACHINE = """
[disks.raw]
path = "raw.img"
format = "raw"
queues = 2
[disks.kept]
path = "kept.qcow2"
format = "qcow2"
[disks.thrown]
path = "thrown.img"
format = "raw"
ephemeral = true
[disks.overlaid]
path = "overlaid.qcow2"
format = "qcow2"
ephemeral = true
"""
FILES = """files = { "/bin/fio" = "/usr/bin/fio", "/jobs" = "jobs.fio" }\n"""
LOAD = """
set -e
for disk in vda vdb vdc vdd; do
  fio --filename=/dev/$disk /jobs > /tmp/said 2>&1 || { cat /tmp/said; dmesg | tail; exit 9; }
  grep -q 'err= 0' /tmp/said
  echo verified $disk
done
echo 3 > /proc/sys/vm/drop_caches
for disk in vda vdb; do md5sum /dev/$disk; done
"""
FULL = """
! dd if=/dev/zero of=/dev/{disk} bs=1M count=16 conv=fsync 2>/tmp/said
cat /tmp/said
dd if=/dev/{disk} of=/dev/null bs=1M count=2 2>/dev/null
echo alive
"""
FULL_DISK = """
[disks.full]
path = "full/full.img"
format = "raw"
"""


@pytest.fixture
def small(tmp_path: Path):
    """A file system with less room than the disk on it claims."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(folder)], check=True)
    (folder / "full.img").touch()
    os.truncate(folder / "full.img", 16 << 20)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_every_kind_of_disk_holds_what_fio_writes_and_a_full_host_is_an_io_error(run, tmp_path, small):
    """Four jobs at random, mixed, with fsyncs: each block read back is the one that was written; images that
    are kept hold it, images of ephemeral disks do not change by a bit; ENOSPC ends a request, not
    the guest."""
    (tmp_path / "jobs.fio").write_text(JOBS)
    (tmp_path / "raw.img").write_bytes(bytes(16 << 20))
    _qemu_img("create", "-q", "-f", "qcow2", "kept.qcow2", "16M", cwd=tmp_path)
    (tmp_path / "thrown.img").write_bytes(os.urandom(16 << 20))
    _qemu_img("convert", "-O", "qcow2", "thrown.img", "overlaid.qcow2", cwd=tmp_path)
    before = [_digest(tmp_path / name) for name in ("thrown.img", "overlaid.qcow2")]
    outcome = run(
        LOAD + FULL.format(disk="vde"), modules=("virtio_pci", "virtio_blk"), more=MACHINE + FULL_DISK,
        initramfs=FILES, cpus=2, memory="512M",
    )  # fmt: skip
    assert outcome.status == 0, outcome.out + outcome.err
    assert re.findall(r"verified (\w+)", outcome.out) == ["vda", "vdb", "vdc", "vdd"]
    assert before == [_digest(tmp_path / name) for name in ("thrown.img", "overlaid.qcow2")]
    _qemu_img("check", "-q", "kept.qcow2", cwd=tmp_path)
    _qemu_img("convert", "-O", "raw", "kept.qcow2", "kept.img", cwd=tmp_path)
    seen = dict(re.findall(r"([0-9a-f]{32})  /dev/(\w+)", outcome.out))
    for name in ("raw.img", "kept.img"):
        assert hashlib.md5((tmp_path / name).read_bytes()).hexdigest() in seen, name
    assert "Input/output error" in outcome.out
    assert "alive" in outcome.out
    assert "No space left on device" in outcome.err  # told to the user, with the disk's name


@pytest.mark.usefixtures("small")
def test_a_full_host_is_an_io_error_for_a_guest_of_qemu_too(run):
    """By itself QEMU stops the machine, and nobody would ever let it go on."""
    outcome = run(
        "set -e" + FULL.format(disk="vda"), modules=("virtio_pci", "virtio_blk"), more=FULL_DISK,
        engine="qemu", options=("--set", "accelerator=kvm"),
    )  # fmt: skip
    assert outcome.status == 0, outcome.out + outcome.err
    assert "Input/output error" in outcome.out
    assert "alive" in outcome.out
    assert "No space left on device" in outcome.err


JOURNAL = """
[disks.data]
path = "data.img"
format = "raw"
[initramfs]
modules = ["virtio_pci", "virtio_blk", "ext4"]
run = '''
set -e
mount -t ext4 /dev/vda /tmp
{work}
'''
"""
WRITES = """
n=0
dd if=/dev/urandom of=/noise bs=64k count=64 2>/dev/null
while n=$((n + 1)); do
  dd if=/noise of=/tmp/noise.$((n % 8)) bs=64k 2>/dev/null
  echo record $n > /tmp/record
  dd if=/tmp/record of=/tmp/$n bs=64 conv=fsync 2>/dev/null
  echo synced $n
done
"""
READS = """
n=0
while n=$((n + 1)); [ -e /tmp/$n ]; do [ "$(cat /tmp/$n)" = "record $n" ] || echo damaged $n; done
echo found $((n - 1))
umount /tmp
dmesg | grep -c 'recovery complete'
"""
HEAD = 'kernel = {{ deb = "linux-image-cloud-amd64" }}\ncmdline = "console=ttyS0 quiet"\nmemory = "256M"\n'


def test_what_was_synced_outlives_the_vm_process(tmp_path):
    """SIGKILL in the middle of writes: the journal of ext4 recovers, and each fsync that the guest has seen
    acknowledged left what it promised."""
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "data.img", "64M"], cwd=tmp_path, check=True)
    (tmp_path / "write.toml").write_text(HEAD.format() + JOURNAL.format(work=WRITES))
    (tmp_path / "read.toml").write_text(HEAD.format() + JOURNAL.format(work=READS))
    with (tmp_path / "console").open("w+b") as console:
        writer = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "--engine", "kvm", "write.toml"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
        child = vm_process(writer.pid)
        deadline = time.monotonic() + 120
        while b"synced 20\n" not in (said := _said(tmp_path / "console")):
            assert time.monotonic() < deadline, said
            assert writer.poll() is None, said
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        assert writer.wait(20) == 70
    acknowledged = int(re.findall(rb"synced (\d+)\n", _said(tmp_path / "console"))[-1])
    after = vmrun("--engine", "kvm", "read.toml", cwd=tmp_path)
    assert after.returncode == 0, after.stdout + after.stderr
    assert "damaged" not in after.stdout
    found = re.search(r"found (\d+)\n1\n", after.stdout.replace("\r", ""))
    assert found, after.stdout
    assert int(found[1]) >= acknowledged
    subprocess.run(["/sbin/e2fsck", "-fn", "data.img"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def _said(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r", b"")


def _qemu_img(*words: str, cwd: Path) -> None:
    subprocess.run(["qemu-img", *words], cwd=cwd, check=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
