"""One machine with every device, asked by stock Linux drivers; once on each engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guest.machine import Machine, resident, until

pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

HERE = Path(__file__).parent
MIB = 1 << 20
TEXT = """
kernel = { deb = "linux-image-amd64" }
cmdline = "console=ttyS0 quiet"
cpus = 2
memory = "512M"
serial = { file = "serial.log" }
debugcon = { file = "debugcon.log" }
timeout = "900s"
[rng]
[balloon]
[watchdog]
[net.lan]
backend = "tap"
tap = "vmlab0"
queues = 2
mtu = 1400
[net.user]
backend = "user"
forwards = [
  { host = 8201, guest = 5201 },
  { host = 8201, guest = 5201, protocol = "udp" },
]
[fs.work]
path = "work"
"""
DISKS = """
[disks.native]
path = "{disks.native}"
format = "raw"
direct = true
[disks.thrown]
path = "{disks.fine}/disk.img"
format = "raw"
direct = true
ephemeral = true
"""
PMEM = """
[pmem.kept]
path = "kept.pmem"
size = "16M"
"""
MODULES = (
    "virtio_blk", "virtio_rng", "virtio_balloon", "virtio_net", "virtiofs", "virtio_pmem", "nd_pmem",
    "i6300esb", "af_packet",
)  # fmt: skip
MORE_PORTS = '{ name = "log", target = { file = "port.log" } }, { name = "line", target = "pty" }'
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
"""


@pytest.fixture(scope="module")
def fsx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fsx") / "fsx"
    subprocess.run(["cc", "-O1", "-static", "-o", str(path), str(HERE / "fsx.c")], check=True)
    return path


class Disks(NamedTuple):
    """``native``: a disk of the host with sectors of 4096 bytes; ``coarse``: a folder on another such
    disk; ``fine``: one on a disk with sectors of 512.
    """

    native: str
    coarse: Path
    fine: Path


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    folder = tmp_path_factory.mktemp("disks")
    with ExitStack() as keep:

        def made(name: str, sector: int) -> str:
            with (folder / name).open("wb") as file:
                file.truncate(24 * MIB)
            words = ["losetup", "--sector-size", str(sector), "-f", "--show", str(folder / name)]
            device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            keep.callback(subprocess.run, ["losetup", "-d", device], check=True)
            return device

        def mounted(name: str, sector: int) -> Path:
            device, place = made(name, sector), folder / f"{name}.mounted"
            place.mkdir()
            subprocess.run(["mkfs.ext4", "-q", device], check=True)
            subprocess.run(["mount", device, str(place)], check=True)
            keep.callback(subprocess.run, ["umount", str(place)], check=True)
            (place / "disk.img").write_bytes(bytes(range(256)) * (1 << 13))
            return place

        yield Disks(made("native", 4096), mounted("coarse", 4096), mounted("fine", 512))


@pytest.fixture(scope="module", params=["kvm", "qemu"])
def machine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fsx: Path,
    default_route: None,
    disks: Disks,
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    (folder / "work").mkdir()
    (folder / "lease").write_text(LEASE)
    (folder / "lease").chmod(0o755)
    with (folder / "kept.pmem").open("wb") as file:
        file.write(b"put there by the host")
        file.truncate(16 * MIB)
    files = {"/fsx": str(fsx), "/lease": "lease", "/usr/bin/iperf3": str(shutil.which("iperf3"))}
    table = ", ".join(f"{json.dumps(guest)} = {json.dumps(host)}" for guest, host in files.items())
    text = TEXT + DISKS.format(disks=disks) + (PMEM if request.param == "kvm" else "")
    with Machine(
        folder, text, name=f"all-{request.param}", engine=request.param, modules=MODULES,
        files=f"files = {{ {table} }}\n", ports=MORE_PORTS,
    ) as made:  # fmt: skip
        subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", "vmlab0"], check=True)
        made.sh("mkdir /work && mount -t virtiofs work /work")
        made.sh("ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up && ip link set eth1 up")
        made.sh("udhcpc -i eth1 -n -q -f -s /lease 2>&1")
        yield made


def test_entropy_comes_from_the_host(machine):
    assert machine.sh("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    sums = {machine.sh("dd if=/dev/hwrng bs=4096 count=16 2>/dev/null | tee /r | md5sum; wc -c </r")
            for _ in range(2)}  # fmt: skip
    assert len(sums) == 2
    assert all(words.split()[-1] == "65536" for words in sums)


def test_each_port_of_the_console_leads_where_the_file_says(machine):
    """Beside the agent's socket, a file and a pseudo-terminal, which carries both ways."""
    assert machine.sh("named; ls /dev/virtio-ports").split() == ["agent", "line", "log"]
    machine.sh("seq 20000 > /dev/virtio-ports/log")
    found = re.search(r"console\.line is at (/dev/pts/\d+)", machine.said())
    assert found, machine.said()
    with open(found[1], "r+b", buffering=0) as line:
        machine.sh("(head -n 1 </dev/virtio-ports/line >/got; echo heard >/dev/virtio-ports/line) >&- 2>&- &")
        line.write(b"from the host\n")
        assert line.readline() == b"heard\n"
    assert machine.sh("cat /got") == "from the host\n"
    assert (machine.folder / "port.log").read_text() == "".join(f"{number}\n" for number in range(1, 20001))


def test_the_serial_port_loses_nothing(machine):
    """Stock Linux finds a 16550A and fills its FIFO as it likes."""
    assert " uart:16550A port:000003F8 irq:4 " in machine.sh("grep ^0: /proc/tty/driver/serial")
    machine.sh("seq 10000 10600 > /dev/ttyS0", 120)  # a line is some interrupts of two CPUs: 5 to 20 ms
    expected = "".join(f"{number}\n" for number in range(10000, 10601))
    log = machine.folder / "serial.log"
    said = until(lambda: log.read_text().replace("\r", ""), lambda found: found.endswith("10600\n"))
    assert said.endswith(expected)


def test_port_0xe9_takes_bytes_and_tells_that_it_is_there(machine):
    for letter in "debug":  # one at a time: the file's next byte is the next port
        machine.sh(f"printf {letter} | dd of=/dev/port bs=1 seek=233 conv=notrunc 2>/dev/null")
    assert machine.sh("dd if=/dev/port bs=1 skip=233 count=1 2>/dev/null | od -An -tx1").split() == ["e9"]
    assert until((machine.folder / "debugcon.log").read_bytes, lambda found: len(found) > 4) == b"debug"


def _total(machine: Machine) -> int:
    return int(machine.sh("awk '/^MemTotal/ {print $2}' /proc/meminfo")) << 10


def test_memory_goes_to_the_host_and_comes_back(machine):
    """Free pages that are reported, and a balloon that is inflated and deflated, change what the
    VM process really has; the guest's own total says the same of the balloon.
    """
    use = "dd if=/dev/zero of=/big bs=1M count=160 2>/dev/null"
    pid, total = machine.vm_pid(), _total(machine)
    machine.sh(use)
    used = resident(pid)
    machine.sh("rm /big")
    reported = until(lambda: resident(pid), lambda now: now < used - 120 * MIB)
    machine.sh(use)
    assert resident(pid) > reported + 120 * MIB
    machine.sh("rm /big")
    asked = machine.vmrun("balloon", machine.name, "256M", "--wait", "90s")
    assert (asked.returncode, asked.stdout) == (0, "256 MiB given back, 256 MiB asked for\n"), asked
    assert total - _total(machine) == 256 * MIB
    inflated = resident(pid)
    assert inflated < used - 120 * MIB
    asked = machine.vmrun("balloon", machine.name, "0", "--wait", "90s")
    assert (asked.returncode, asked.stdout) == (0, "0 bytes given back, 0 bytes asked for\n"), asked
    assert _total(machine) == total
    machine.sh("dd if=/dev/zero of=/big bs=1M count=200 2>/dev/null")
    assert resident(pid) > inflated + 120 * MIB
    machine.sh("rm /big")


def _iperf(run: Callable[[str], str], words: str) -> None:
    """Data flows for three seconds one way, and then the other; each from another CPU."""
    for cpu, way in enumerate(("", " -R"), start=1):
        told = json.loads(run(f"taskset {cpu} iperf3 -J -t 3 {words}{way}"))
        assert "error" not in told, told["error"]
        received = told["end"]["sum_received"]
        assert received["bytes"] > MIB // 4, received
        assert received["seconds"] > 2, received


@pytest.fixture
def listening() -> Iterator[Callable[[str], None]]:
    """``listening("10.77.0.1")`` has an iperf3 there until the test's end."""
    with ExitStack() as keep:

        def listen(address: str) -> None:
            words = ["iperf3", "-s", "-B", address]
            server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            keep.callback(server.wait)
            keep.callback(server.terminate)

        yield listen


def _on_the_host(command: str) -> str:
    return subprocess.run(command.split(), capture_output=True, text=True, timeout=60, check=False).stdout


def _no_errors(machine: Machine, interface: str) -> None:
    kept = machine.sh(f"cd /sys/class/net/{interface}/statistics && cat *_errors tx_dropped")
    assert set(kept.split()) == {"0"}, kept


def test_a_tap_of_two_queues_carries_data_both_ways(machine, listening):
    """With vhost-net, on two CPUs, with the interface's MTU; both queues have moved something."""
    listening("10.77.0.1")
    assert "without vhost-net" not in machine.said()
    assert machine.sh("cat /sys/class/net/eth0/mtu").strip() == "1400"
    assert Path("/sys/class/net/vmlab0/mtu").read_text().strip() == "1400"
    _iperf(machine.sh, "-P 2 -c 10.77.0.1")
    _no_errors(machine, "eth0")
    listed = machine.sh("ls /sys/class/net/eth0/queues").split()
    assert listed == ["rx-0", "rx-1", "tx-0", "tx-1"]
    listed = machine.sh("grep $(basename $(readlink /sys/class/net/eth0/device))-.*put /proc/interrupts")
    counts = {line.split()[-1]: sum(map(int, line.split()[1:3])) for line in listed.splitlines()}
    assert len(counts) == 4
    assert min(counts.values()) > 20, counts


def test_passt_carries_data_both_ways_and_through_its_forwards(machine, listening):
    """The guest to the host's loopback (by the gateway's address), and the host to the guest."""
    listening("127.0.0.1")
    _iperf(machine.sh, "-c 10.66.0.1")
    machine.sh("iperf3 -s -D -I /iperf.pid")
    until(lambda: machine.sh("netstat -ltn"), lambda said: ":5201" in said)
    _iperf(_on_the_host, "-c 127.0.0.1 -p 8201")
    told = json.loads(_on_the_host("iperf3 -J -u -b 2M -t 2 -c 127.0.0.1 -p 8201"))
    assert "error" not in told, told["error"]
    assert told["end"]["sum"]["lost_percent"] < 50, told["end"]["sum"]
    machine.sh("kill $(cat /iperf.pid)")
    _no_errors(machine, "eth1")


NAMES = (
    b"plain", b"with space ", b"new\nline", b"tab\t", b"quote'\"", b"back\\slash", b"comma,colon:=", b"-dash",
    b"...", b"$(touch no)", "Zürich\N{SNOWMAN}".encode(), b"no utf-8 \xff\xfe", b"\x01\x7f", b"n" * 255,
)  # fmt: skip


def test_a_shared_folder_under_random_load(machine):
    """What the guest has written, read, truncated and mapped is on the host byte for byte."""
    said = machine.sh("/fsx /work/fsx 1 400 && md5sum </work/fsx", 200)
    assert said.startswith("400 operations")
    assert md5((machine.folder / "work/fsx").read_bytes()).hexdigest() == said.split()[-2], said


def test_file_names_of_odd_bytes_pass_both_ways(machine):
    """Every byte but the slash and zero may be in a name."""
    here = os.fsencode(machine.folder / "work")
    os.mkdir(here + b"/host")
    for name in NAMES:
        with open(here + b"/host/" + name, "wb") as file:
            file.write(name)
    machine.sh('mkdir /work/guest; cd /work/host; for n in * ...; do cp -- "$n" "../guest/$n"; done')
    assert set(os.listdir(here + b"/guest")) == set(NAMES)
    assert all(Path(os.fsdecode(here + b"/guest/" + name)).read_bytes() == name for name in NAMES)


def test_a_shared_folder_has_no_way_out(machine):
    """A link that leads outside of the folder is followed by nobody on the host: in the guest it leads
    to the guest's own files, and for its server there is nothing outside.
    """
    secret = machine.folder / "secret"
    secret.write_text("the host's secret")
    for name, target in (("absolute", str(secret)), ("relative", "../secret"), ("folder", "..")):
        (machine.folder / "work" / name).symlink_to(target)
    machine.sh("! cat /work/absolute && ! cat /work/relative && ! cat /work/folder/secret")
    machine.sh(f"mkdir -p {secret.parent}; echo guest > /work/absolute; echo guest >/work/relative")
    machine.sh(f"ln -s {secret} /work/made; ! grep host /work/made; rm /work/made")
    assert secret.read_text() == "the host's secret"
    outside = [os.stat("/").st_ino, secret.parent.stat().st_ino]
    roots = [os.stat(f"/proc/{pid}/root").st_ino for pid in _processes("virtiofsd", machine)]
    inside = (machine.folder / "work").stat().st_ino
    assert inside in roots
    assert inside not in outside


def _processes(name: str, machine: Machine) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_disk_of_the_host_is_shown_with_its_own_sectors(machine, disks):
    """4096 bytes each, on both engines, and what is written past both caches is there."""
    assert machine.sh("cat /sys/block/vda/queue/logical_block_size").strip() == "4096"
    machine.sh("dd if=/dev/urandom of=/w bs=4k count=64 && dd if=/w of=/dev/vda bs=64k seek=9 oflag=direct")
    machine.sh("dd if=/dev/vda bs=64k skip=9 count=4 iflag=direct 2>/dev/null | cmp - /w")
    assert machine.sh("md5sum </w").split()[0] == _digest(Path(disks.native), 9 << 16, 4 << 16)


def test_an_image_is_thrown_away_and_read_past_the_cache(machine, disks):
    """A write that fills a part of a cluster only leaves the rest of it as the image has it."""
    before = _digest(disks.fine / "disk.img", 0, 2 * MIB)
    machine.sh("dd if=/dev/urandom of=/w bs=512 count=3 && dd if=/w of=/dev/vdb bs=512 seek=201 oflag=direct")
    machine.sh("dd if=/dev/vdb bs=512 skip=201 count=3 iflag=direct 2>/dev/null | cmp - /w")
    said = machine.sh("dd if=/dev/vdb bs=512 skip=200 count=1 iflag=direct 2>/dev/null | od -An -tu1 -v")
    assert said.split()[:16] == [str(number) for number in range(16)]
    assert _digest(disks.fine / "disk.img", 0, 2 * MIB) == before


def test_an_image_that_cannot_be_had_past_the_cache_is_refused(machine, disks):
    """Before the start, with the reason; without `direct` nothing is wrong with it."""
    disk = f'[disks.coarse]\npath = "{disks.coarse}/disk.img"\nformat = "raw"\ndirect = true\n'
    kernel = 'kernel = { deb = "linux-image-amd64" }\nmemory = "64M"\n'
    (machine.folder / "coarse.toml").write_text(kernel + disk)
    engine = machine.name.removeprefix("all-")
    refused = machine.vmrun("run", "--engine", engine, "--set", "accelerator=kvm", "coarse.toml")
    assert refused.returncode == 69
    assert "O_DIRECT takes blocks of 4096 bytes" in refused.stderr


def _digest(path: Path, offset: int, length: int) -> str:
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(offset)
        return md5(file.read(length)).hexdigest()


def test_persistent_memory_is_the_file(machine):
    """What was there is read, what is written stays; QEMU has no such device, and says so by name."""
    if machine.name == "all-qemu":
        text = (machine.folder / "all-qemu.toml").read_text()
        (machine.folder / "pmem.toml").write_text(text.replace("[initramfs]", f"{PMEM}[initramfs]"))
        refused = machine.vmrun("run", "--engine", "qemu", "pmem.toml")
        assert refused.returncode == 65
        assert "the engine qemu has no `kept` (virtio_pmem)" in refused.stderr
        return
    assert machine.sh("dd if=/dev/pmem0 bs=21 count=1 2>/dev/null") == "put there by the host"
    machine.sh("dd if=/dev/urandom of=/w bs=1M count=3 && dd if=/w of=/dev/pmem0 bs=64k seek=5 conv=fsync")
    kept = (machine.folder / "kept.pmem").read_bytes()[5 << 16 :][: 3 * MIB]
    assert machine.sh("md5sum </w").split()[0] == md5(kept).hexdigest()


def test_a_machine_that_is_paused_is_not_bitten_and_one_that_hangs_is(machine):
    """Nobody feeds the watchdog any more: the run ends, with a reason of its own, and cleans up."""
    machine.sh("rmmod i6300esb && modprobe i6300esb heartbeat=20 && exec 9>/dev/watchdog")
    assert machine.vmrun("pause", machine.name).returncode == 0
    time.sleep(22)
    assert machine.process.poll() is None, machine.said()
    assert machine.vmrun("resume", machine.name).returncode == 0
    status, report = machine.end(90)
    assert (status, report["reason"]) == (124, "watchdog"), machine.said()
    assert "stopped feeding its watchdog" in machine.said()
    assert not Path("/sys/class/net/vmlab0").exists()
