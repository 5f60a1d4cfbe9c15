"""Stock guests with functions of the lab: what they do with them, and that the lab has them back."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.vfio.passing import (
    CARD,
    CHECKOUT,
    DEVICES,
    DISK,
    PAIR,
    READER,
    RESETTABLE,
    PowerWatch,
    bindings,
    command,
    define,
    interrupts,
    vmrun,
)

pytestmark = pytest.mark.vfio

E1000_FULL_DUPLEX = 1  # of the status register (8254x software developer's manual, 13.4.2)
GREETING = b"put on the card by the lab itself"[:32]


@pytest.mark.parametrize("engine", ["kvm", "qemu"])
def test_card_reader(engine: str, tmp_path: Path) -> None:
    """Both engines: the guest's sdhci-pci announces the card, reads what was put on it, writes and reads
    16 MiB by DMA with interrupts by wire; afterwards the host's sdhci-pci has the reader.
    """
    with Path("/dev/mmcblk0").open("r+b", buffering=0) as card:
        card.write(GREETING.ljust(512, b"\0"))
        os.fsync(card.fileno())
    before = bindings(READER)
    words = ("--engine", engine, "--set", 'accelerator="kvm"')
    ran = vmrun("vms/lab/cardreader.toml", tmp_path, *words)
    assert ran.status == 0, ran.said + ran.guest
    lines = ran.guest.replace("\r", "").splitlines()
    assert lines[:2] == ["QEMU!", GREETING.decode()]
    assert "16 MiB written and read back: equal" in lines
    ((count, kind),) = interrupts(ran.guest, "mmc").values()
    assert count > 16
    assert "IO-APIC" in kind
    assert "fasteoi" in kind
    assert bindings(READER) == before == [("sdhci-pci", "")]
    assert f"{READER} is back with sdhci-pci" in ran.said


def test_disks_and_a_network_card(tmp_path: Path) -> None:
    """Three functions at once, two CPUs, 4.5 GiB: MSI-X on each, DMA above the hole, FLR behind a root port,
    sleep and wake-up, INTx of a function that had MSI-X before; its ports answer, and its ROM is the one
    that the host sees.
    """
    ours = (DISK, CARD, RESETTABLE)
    before = bindings(*ours)
    rom = _rom(CARD)
    with PowerWatch(CARD) as watch:
        ran = vmrun("vms/lab/disks.toml", tmp_path, "--engine", "kvm")
    assert ran.status == 0, ran.said + ran.guest
    lines = ran.guest.replace("\r", "").splitlines()
    for name, size in (
        ("disk", 32),
        ("resettable", 32),
        ("resettable after its reset", 4),
        ("disk after its sleep", 4),
    ):
        assert f"{name}: {size} MiB written and read back: equal" in lines
    assert any(line.endswith(" was reset") for line in lines)
    _above_the_hole(lines)
    messages = interrupts(ran.guest, "nvme")
    for disk in ("nvme0", "nvme1"):
        assert sum(count for name, (count, _) in messages.items() if name.startswith(f"{disk}q")) > 20
    assert all("PCI-MSI" in kind for _, kind in messages.values())
    _frames_with_each_kind_of_interrupt(lines)
    (ports,) = [line.split() for line in lines if line.startswith("ports: ")]
    assert ports[2] == "00000008,"
    assert int(ports[-1], 16) & E1000_FULL_DUPLEX, ports
    assert f"ROM: {rom}  -" in lines
    assert "D3hot" in watch.seen
    assert bindings(*ours) == before == [("nvme", ""), ("e1000e", ""), ("nvme", "")]


def _frames_with_each_kind_of_interrupt(lines: list[str]) -> None:
    """Of the network card, in the order in which the guest goes through them."""
    starts = [number for number, line in enumerate(lines) if line.endswith(" frames sent")]
    said = {lines[at].split(":")[0]: "\n".join(lines[at:to]) for at, to in pairwise([*starts, len(lines)])}
    assert list(said) == ["MSI-X", "after its sleep", "INTx"]
    assert all(int(text.split(" frames")[0].split()[-1]) > 1 for text in said.values()), said
    assert "PCI-MSI" in interrupts(said["MSI-X"], "eth0")["eth0-tx-0"][1]
    ((name, (count, on)),) = interrupts(said["INTx"], "eth0").items()
    assert name == "eth0"
    assert count > 1
    assert "IO-APIC" in on


def _rom(address: str) -> str:
    """A checksum of what the guest reads of the option ROM: its beginning, and a part far behind."""
    file = DEVICES / address / "rom"
    file.write_text("1")
    data = file.read_bytes()
    file.write_text("0")
    assert data[:2] == b"\x55\xaa"
    return hashlib.sha256(data[: 2 << 10] + data[64 << 10 : 66 << 10]).hexdigest()


def _above_the_hole(lines: list[str]) -> None:
    """While 32 MiB that DMA used came from above 4 GiB, nothing was taken from below."""
    free: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line.startswith("free "):
            _, when, zone, pages = line.split()
            free[when, zone] += int(pages)
    taken = {zone: free["before", zone] - free["after", zone] for zone in ("DMA32", "Normal")}
    assert taken["Normal"] >= 32 << 8, taken
    assert taken["DMA32"] < 1 << 8, taken


MINE = f"""
[devices.disk]
driver = "vfio"
host = "{DISK}"

[initramfs]
modules = ["nvme"]
run = \"\"\"
for i in $(seq 50); do true 2>/dev/null < /dev/nvme0n1 && break; sleep 0.1; done
dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 2>/dev/null && echo "the disk can be read"
grep nvme /proc/interrupts
\"\"\"
"""
NOBODY, MINE_LOCKED = 65534, 640 << 20


@pytest.fixture
def bound_by_root() -> Iterator[None]:
    """``vmrun host bind``, and its node given to a user, as the guide says; all is undone."""
    host = [sys.executable, "-m", "runner.cli", "host"]
    subprocess.run([*host, "bind", DISK], cwd=CHECKOUT, check=True)
    group = (DEVICES / DISK / "iommu_group").resolve().name
    nodes = {Path(path): Path(path).stat() for path in ("/dev/vfio/vfio", "/dev/kvm")}
    os.chown(f"/dev/vfio/{group}", NOBODY, -1)
    for node in nodes:
        node.chmod(0o666)
    yield
    for node, before in nodes.items():
        node.chmod(stat.S_IMODE(before.st_mode))
    subprocess.run([*host, "unbind", DISK], cwd=CHECKOUT, check=True)


@pytest.mark.usefixtures("bound_by_root")
def test_an_ordinary_user_with_what_root_has_bound(tmp_path: Path) -> None:
    """Without a capability but to read this checkout: memory is locked within the limit, and the guest has
    MSI-X, which the user does not see on the host; the disk stays with vfio-pci.
    """
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    caps = [f"--{which}-caps=+dac_read_search" for which in ("inh", "ambient")]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *caps]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    done = subprocess.run(
        [*user, *command(define(tmp_path, MINE), "--engine", "kvm")], cwd=CHECKOUT, capture_output=True,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": cache}, timeout=280, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (MINE_LOCKED, MINE_LOCKED)),
    )  # fmt: skip
    said, guest = done.stderr.decode(), done.stdout.decode(errors="replace")
    assert done.returncode == 0, said + guest
    assert "the disk can be read" in guest
    messages = interrupts(guest, "nvme0")
    assert all("PCI-MSI" in kind for _, kind in messages.values())
    assert sum(count for count, _ in messages.values()) > 16
    assert "(the limit is 640 MiB)" in said
    assert f"{DISK} stays on vfio-pci" in said


FIO = """
[devices.usb]
driver = "vfio"
host = "{usb}"
allow_no_reset = true

[devices.neighbour]
driver = "vfio"
host = "{disk}"

[initramfs]
modules = ["nvme", "xhci_pci"]
files = {{ "/usr/bin/fio" = "{fio}" }}
run = \"\"\"
for i in $(seq 50); do true 2>/dev/null < /dev/nvme0n1 && break; sleep 0.1; done
fio --name=verified --filename=/dev/nvme0n1 --direct=1 --rw=randwrite --bs=16k --size=8M --ioengine=psync \
    --verify=crc32c --verify_fatal=1 --numjobs=1 --output-format=terse >/dev/null && echo "fio has verified"
grep nvme /proc/interrupts
cat /sys/bus/usb/devices/usb1/product
grep xhci /proc/interrupts
usb=$(readlink -f /sys/bus/pci/drivers/xhci_hcd/*:*)
echo "its messages: $(cat $usb/msi_irqs/*)"
\"\"\"
"""


def test_a_whole_group_with_an_unfamiliar_device(tmp_path: Path) -> None:
    """Two functions of one IOMMU group go to one guest: fio verifies on the disk, and a USB controller
    that nothing here was made for is driven by the guest, by MSI since it has no MSI-X.
    """
    usb, disk = PAIR
    fio = shutil.which("fio")
    assert fio is not None, "tools/packages test installs fio"
    before = bindings(*PAIR)
    ran = vmrun(define(tmp_path, FIO.format(usb=usb, disk=disk, fio=fio)), tmp_path, "--engine", "kvm")
    assert ran.status == 0, ran.said + ran.guest
    assert "fio has verified" in ran.guest
    assert sum(count for count, _ in interrupts(ran.guest, "nvme0").values()) > 512
    assert "xHCI Host Controller" in ran.guest
    ((_, kind),) = interrupts(ran.guest, "xhci").values()  # with nothing plugged in it has nothing to signal
    assert "PCI-MSI" in kind
    assert "its messages: msi" in ran.guest.replace("\r", "")
    assert bindings(*PAIR) == before
