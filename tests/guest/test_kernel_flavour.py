"""The virtio drivers of another kind of kernel: Debian's PREEMPT_RT, whose interrupts are threads."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
MACHINE = """
[disks.raw]
path = "raw.img"
format = "raw"
queues = 2
[net.lan]
backend = "tap"
tap = "vmrt0"
[rng]
[vsock]
cid = 23
[console]
ports = [{ name = "log", target = { file = "port.log" } }]
"""
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console",
    "vmw_vsock_virtio_transport", "af_packet",
)  # fmt: skip
FILES = 'files = { "/peer" = "peer" }\n'
WORK = """
set -e
uname -v
echo memory $(awk '/^MemTotal/ {print $2}' /proc/meminfo)
dd if=/dev/hwrng of=/noise bs=64k count=1 iflag=fullblock 2>/dev/null
echo entropy $(wc -c < /noise)
for n in 1 2 3 4; do dd if=/noise of=/dev/vda bs=64k seek=$n conv=fsync 2>/dev/null & done
wait
echo 3 > /proc/sys/vm/drop_caches
echo noise $(md5sum < /noise)
ip addr add 10.78.0.2/24 dev eth0
ip link set eth0 up
wget -q -O - http://10.78.0.1:8078/file | md5sum
for port in /sys/class/virtio-ports/*; do
  [ "$(cat $port/name 2>/dev/null)" = log ] && cat /noise > /dev/${port##*/}
done
/peer connect 2 6023 from-the-guest
grep -c virtio /proc/interrupts
dmesg -r | grep '^<[0-4]>' | sed 's/^/complaint: /'
"""
# Of the lab's emulated CPU, and of its speed: the serial port's thread alone can be too busy.
SAID_ANYWHERE = (
    "IBPB-extending microcode", "hw-vuln/srso", "hrtimer: interrupt took", "RT throttling activated",
)  # fmt: skip


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[None]:
    """A tap, and a server behind it."""
    for words in ("tuntap add vmrt0 mode tap", "addr add 10.78.0.1/24 dev vmrt0", "link set vmrt0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    server = subprocess.Popen(["busybox", "httpd", "-f", "-p", "10.78.0.1:8078", "-h", str(tmp_path)])
    yield
    server.terminate()
    server.wait()
    subprocess.run(["ip", "link", "del", "vmrt0"], check=True)


@pytest.fixture
def heard() -> Iterator[list[bytes]]:
    """What the guest says by vsock; it is said back."""
    words: list[bytes] = []
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_HOST, 6023))
    listener.listen()
    listener.settimeout(120)

    def answer() -> None:
        stream, _ = listener.accept()
        with stream:
            words.append(stream.recv(64))
            stream.sendall(b"heard " + words[0])

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield words
    listener.close()


@pytest.mark.parametrize("engine", ["kvm", "qemu"])
def test_its_drivers_work_with_disk_network_entropy_console_and_vsock(run, tmp_path, lan, heard, engine):
    """Bytes arrive as they were sent, with memory on both sides of the PCI window, and the kernel
    complains of nothing.
    """
    (tmp_path / "raw.img").write_bytes(bytes(1 << 20))
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    subprocess.run(["cc", "-static", "-o", tmp_path / "peer", HERE / "vsock_peer.c"], check=True)
    outcome = run(
        WORK, deb="linux-image-rt-amd64", engine=engine, modules=MODULES, more=MACHINE, initramfs=FILES,
        cpus=2, memory="3584M",
        options=("--timeout", "270s", *(() if engine == "kvm" else ("--set", "accelerator=kvm"))),
    )  # fmt: skip
    assert outcome.status == 0, outcome.out + outcome.err
    out = outcome.out
    assert "PREEMPT_RT" in out
    assert 3300 < _number("memory", out) >> 10 < 3584
    assert _number("entropy", out) == 65536
    noise = (tmp_path / "port.log").read_bytes()
    assert f"noise {hashlib.md5(noise).hexdigest()}" in out
    image = (tmp_path / "raw.img").read_bytes()
    assert [image[n << 16 : (n + 1) << 16] == noise for n in range(6)] == [False, *[True] * 4, False]
    assert hashlib.md5((tmp_path / "file").read_bytes()).hexdigest() in out
    assert heard == [b"from-the-guest"]
    assert "heard from-the-guest" in out
    complaints = re.findall(r"complaint: (.*)", out)
    assert [line for line in complaints if not any(words in line for words in SAID_ANYWHERE)] == []


def _number(word: str, out: str) -> int:
    found = re.search(rf"^{word} (\d+)", out, re.M)
    assert found, out
    return int(found[1])
