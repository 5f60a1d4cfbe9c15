"""Disks, folders, networks and sockets that other processes serve, with stock Linux drivers."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import SECONDS
from tests.guest.processes import hear

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
BULK = bytes(range(256)) * 1024  # 256 KiB
MACHINE = """
[disks.kept]
path = "kept.qcow2"
format = "qcow2"
queues = 2
[disks.thrown]
path = "thrown.qcow2"
format = "qcow2"
ephemeral = true
[disks.read]
path = "read.qcow2"
format = "qcow2"
readonly = true
[fs.work]
path = "work, in it"
[fs.given]
path = "given"
readonly = true
[net.user]
backend = "user"
forwards = [{ host = 8022, guest = 22 }]
[vsock]
cid = 17
socket = "vsock.sock"
"""
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtiofs", "vmw_vsock_virtio_transport", "af_packet",
)  # fmt: skip
FILES = 'files = { "/peer" = "peer", "/lease" = "lease" }\n'
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo lease $ip from $router
"""
WORK = """
set -e
ip link set eth0 up
udhcpc -i eth0 -n -q -f -s /lease 2>/dev/null
nc -ll -p 22 -e /bin/cat &
/peer listen 5000 &
dd if=/dev/urandom of=/w bs=1M count=2 2>/dev/null
for disk in vda vdb; do
  dd if=/w of=/dev/$disk bs=64k seek=7 conv=fsync 2>/dev/null
  echo 3 > /proc/sys/vm/drop_caches
  dd if=/dev/$disk bs=64k skip=7 count=32 2>/dev/null | cmp - /w
done
! dd if=/w of=/dev/vdc bs=512 count=1 conv=fsync 2>/dev/null
dd if=/dev/vdc bs=6 count=1 2>/dev/null; echo
mkdir /a /b
mount -t virtiofs work /a
mount -t virtiofs given /b
cp /w /a/written
cp /a/from-host /a/back
cat /b/from-host
! touch /b/refused 2>/dev/null
umount /a
echo written $(md5sum < /w)
wget -q -O - http://$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'):8077/file | md5sum
/peer connect 2 6000 from-the-guest
/peer connect 2 6001 nobody-there || echo refused
mount -t virtiofs work /a
until [ -e /a/done ]; do sleep 1; done
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's program for vsock."""
    path = tmp_path_factory.mktemp("peer") / "peer"
    subprocess.run(["cc", "-static", "-o", str(path), str(HERE / "vsock_peer.c")], check=True)
    return path


@pytest.fixture
def folder(tmp_path: Path, peer: Path) -> Path:
    """Images, folders and programs of :data:`MACHINE`."""
    for name in ("kept", "thrown", "read"):
        words = ["qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "64M"]
        subprocess.run(words, cwd=tmp_path, check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -s letters 0 512", "read.qcow2"],
        cwd=_with(tmp_path, "letters", b"sesame" + bytes(506)), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for name in ("work, in it", "given"):
        (tmp_path / name).mkdir()
        _with(tmp_path / name, "from-host", f"from the host: {name}\n".encode())
    _with(tmp_path, "lease", LEASE.encode()).joinpath("lease").chmod(0o755)
    (tmp_path / "peer").symlink_to(peer)
    return tmp_path


def _with(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder


class Peer(threading.Thread):
    """Something of the host that talks to the guest; ``result`` is what it returned or raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: object = "has not ended"
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except OSError as error:
            self.result = error

    def end(self) -> object:
        self.join(10)
        return self.result


def _echo(stream: socket.socket) -> bool:
    """Whether everything that is sent comes back, with reading and writing at once."""
    sender = threading.Thread(target=lambda: (stream.sendall(BULK), stream.shutdown(socket.SHUT_WR)))
    sender.start()
    back = b""
    while data := stream.recv(65536):
        back += data
    sender.join()
    return back == BULK


def _until(connect: Callable[[], socket.socket]) -> socket.socket:
    """A connection to a guest that may not listen yet."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _forwarded() -> object:
    """passt listens from the start, and hangs up as long as nobody does in the guest."""

    def connect() -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", 8022), 5)
        stream.sendall(b"?")
        if stream.recv(1) != b"?":
            raise ConnectionResetError
        stream.settimeout(60)
        return stream

    return _echo(_until(connect))


def _hybrid(path: Path) -> object:
    def connect() -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(60)
        stream.connect(str(path))
        stream.sendall(b"CONNECT 5000\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not (piece := stream.recv(1)):
                raise ConnectionResetError
            answer += piece
        assert re.fullmatch(rb"OK \d+\n", answer)
        return stream

    return _echo(_until(connect))


def _answer_once(listener: socket.socket) -> object:
    listener.listen(1)
    listener.settimeout(SECONDS)
    stream, _ = listener.accept()
    said = b""
    while data := stream.recv(100):
        said += data
    stream.sendall(b"heard " + said)
    stream.close()
    return said


def _digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_machine_whose_devices_are_all_served_by_others(run, folder, default_route):
    """qcow2 in each way, folders in both, a user network both ways, and vsock both ways, in one boot."""
    _with(folder, "file", os.urandom(256 << 10))
    before = {name: _digest(folder / f"{name}.qcow2") for name in ("thrown", "read")}
    web = subprocess.Popen(["busybox", "httpd", "-f", "-p", "127.0.0.1:8077", "-h", str(folder)])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "vsock.sock_6000"))
    peers = [Peer(_forwarded), Peer(lambda: _hybrid(folder / "vsock.sock"))]
    guest = Peer(lambda: _answer_once(listener))
    Peer(lambda: [each.join() for each in peers] and _with(folder / "work, in it", "done", b""))
    try:
        outcome = run(WORK, modules=MODULES, more=MACHINE, initramfs=FILES, cpus=2)
    finally:
        web.terminate()
        web.wait()
    assert outcome.status == 0, outcome.out + outcome.err
    assert [each.end() for each in peers] == [True, True]
    assert guest.end() == b"from-the-guest"
    out = outcome.out
    assert "lease 10.66.0.9 from 10.66.0.1" in out
    assert "sesame" in out
    assert "from the host: given" in out
    assert "heard from-the-guest" in out
    assert "refused" in out
    assert _digest(folder / "file") in out
    written = re.search(r"written ([0-9a-f]{32})", out)
    assert written
    assert _digest(folder / "work, in it" / "written") == written[1]
    assert (folder / "work, in it" / "back").read_text() == "from the host: work, in it\n"
    assert os.listdir(folder / "given") == ["from-host"]
    assert {name: _digest(folder / f"{name}.qcow2") for name in before} == before
    subprocess.run(["qemu-img", "check", "-q", "kept.qcow2"], cwd=folder, check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", "kept.qcow2", "kept.raw"], cwd=folder, check=True)
    image = (folder / "kept.raw").read_bytes()
    assert hashlib.md5(image[7 << 16 : (7 << 16) + (2 << 20)]).hexdigest() == written[1]
    assert not (folder / "vsock.sock").exists()
    assert _helpers() == []


def test_vsock_by_the_hosts_kernel(run, folder):
    """The host's programs reach the guest by its context id, and the guest the host."""
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_HOST, 6000))

    def connect() -> socket.socket:
        stream = socket.socket(socket.AF_VSOCK)
        stream.connect((19, 5000))
        return stream

    host, guest = Peer(lambda: _echo(_until(connect))), Peer(lambda: _answer_once(listener))
    work = "/peer listen 5000 & /peer connect 2 6000 from-the-guest; wait"
    outcome = run(work, modules=MODULES, more="[vsock]\ncid = 19\n", initramfs=FILES)
    assert outcome.status == 0, outcome.out + outcome.err
    assert (host.end(), guest.end()) == (True, b"from-the-guest")
    assert "heard from-the-guest" in outcome.out


def _helpers() -> list[str]:
    """Helper programs that run now."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        if name in ("qemu-storage-da", "virtiofsd", "passt", "passt.avx2"):  # 15 bytes
            found.append(f"{pid} {name}")
    return found


ALL_HELPERS = 3 + 2 * 2 + 1  # a daemon a disk, two processes a folder, passt


@pytest.fixture
def started(folder: Path, default_route: None) -> Iterator[subprocess.Popen[str]]:
    """The machine with every helper, once all of them and the guest run."""
    (folder / "vm.toml").write_text(
        'kernel = { deb = "linux-image-cloud-amd64" }\ncmdline = "console=ttyS0 quiet"\nmemory = "256M"\n'
        + MACHINE + '[initramfs]\nrun = "echo up; sleep 1000"\n'
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "--engine", "kvm", "vm.toml"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, text=True,
    )  # fmt: skip
    hear(process, "up")
    assert len(_helpers()) == ALL_HELPERS
    yield process
    process.kill()
    process.communicate()


def test_a_disk_whose_program_was_killed_ends_the_run_and_says_so(started):
    daemon = next(each for each in _helpers() if "storage" in each)
    os.kill(int(daemon.split()[0]), signal.SIGKILL)
    _, said = started.communicate(timeout=30)
    assert started.returncode == 74, said
    assert re.search(r"disks\.\w+: qemu-storage-daemon was killed by SIGKILL", said), said
    assert _helpers() == []


def test_helpers_end_with_a_supervisor_that_was_killed(folder, started):
    started.kill()
    started.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while _helpers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _helpers() == []
    subprocess.run(["qemu-img", "check", "-q", "kept.qcow2"], cwd=folder, check=True)
