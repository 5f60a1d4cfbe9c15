"""What a stock kernel gets by wire, by terminal and by the panic port, on our own engine."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.guest.machine import Machine, resident, until

MIB = 1 << 20
pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

SHARING = """
kernel = { deb = "linux-image-cloud-amd64" }
cmdline = "console=ttyS0 quiet pci=nomsi"
cpus = 2
memory = "256M"
serial = { file = "serial.log" }
timeout = "600s"
pvpanic = true
[balloon]
[rng]
slot = "00:18.0"
[disks.one]
path = "one.img"
format = "raw"
slot = "00:08.0"
[disks.two]
path = "two.img"
format = "raw"
slot = "00:10.0"
"""
WORK = """
dd if=/dev/urandom of=/w bs=1M count=4
for disk in vda vdb; do
  (for i in 1 2 3; do
    dd if=/w of=/dev/$disk bs=16k conv=fsync && echo 3 >/proc/sys/vm/drop_caches &&
      dd if=/dev/$disk bs=16k count=256 | cmp - /w && echo $disk equal >>/equal
  done) &
done
dd if=/dev/hwrng bs=512 count=64 | wc -c
wait
cat /equal; grep virtio /proc/interrupts
"""


def test_devices_eight_slots_apart_share_a_line_and_a_panic_is_told_at_once(tmp_path):
    """Without messages, three devices at work on one level-triggered line lose no interrupt.  Memory that
    nobody else maps goes back when its pages are reported.  And the kernel's panic comes by its port.
    """
    for name in ("one", "two"):
        (tmp_path / f"{name}.img").write_bytes(bytes(8 << 20))
    modules = ("virtio_blk", "virtio_rng", "virtio_balloon", "pvpanic_mmio")
    with Machine(tmp_path, SHARING, name="sharing", engine="kvm", modules=modules) as machine:
        said = machine.sh(WORK, 120)
        assert said.count("vda equal") == said.count("vdb equal") == 3, said
        assert "32768\n" in said
        lines = [line for line in said.splitlines() if "IO-APIC" in line]
        shared = [line for line in lines if line.count("virtio") == 3]
        assert len(shared) == 1, said
        assert re.match(r" *16: .* IO-APIC +16-fasteoi", shared[0]), shared
        used = resident(pid := machine.vm_pid())
        machine.sh("dd if=/dev/zero of=/big bs=1M count=80 2>/dev/null")
        assert resident(pid) > used + 40 * MIB
        used = resident(pid)
        machine.sh("rm /big")
        until(lambda: resident(pid), lambda now: now < used - 50 * MIB)
        machine.start("echo c >/proc/sysrq-trigger")
        began = time.monotonic()
        status, report = machine.end(60)
        assert (status, report["reason"]) == (134, "panic"), machine.said()
        assert report["detail"] == "pvpanic"
        assert time.monotonic() - began < 30


WINDOW = """
kernel = { deb = "linux-image-cloud-amd64" }
cmdline = "console=hvc0 quiet"
memory = "256M"
serial = "off"
console = "tty"
timeout = "600s"
[initramfs]
modules = ["virtio_pci", "virtio_console"]
run = "while sleep 0.5; do stty size; done <>/dev/hvc0 >&0 2>&0"
"""


def test_the_console_is_as_large_as_the_terminal_and_follows_it(tmp_path):
    """From the start, and when the window changes while the guest runs."""
    (tmp_path / "window.toml").write_text(WINDOW)
    ours, theirs = pty.openpty()
    _resize(ours, 31, 97)
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "--engine", "kvm", "window.toml"],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    os.close(theirs)
    try:
        _wait_for(ours, b"31 97")
        _resize(ours, 52, 133)
        process.send_signal(signal.SIGWINCH)
        _wait_for(ours, b"52 133")
        os.write(ours, b"\x01x")
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def _resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _wait_for(terminal: int, words: bytes) -> None:
    seen = b""
    deadline = time.monotonic() + 120
    while words not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 4096)
