"""qcow2 disks by the real qemu-storage-daemon, driven through their rings without a guest."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.backends import Opened, block, qcow2
from runner.definition.model import Memory
from runner.devices import virtio_blk
from runner.devices.ports import OffloadedQueue
from runner.engine.protocol import Resources
from runner.errors import HostError
from runner.graph.model import EngineChoice, Node
from runner.graph.plan import _memory
from runner.host import helper_process
from runner.wire import virtio
from runner.wire import virtio_blk as blk
from tests.unit.served_machine import PATIENCE, Attachment, Bell, Machine

HIGH = 1 << 32
DESCRIPTORS, DRIVER, DEVICE = 0x1000, 0x2000, HIGH + 0x3000
HEADER, DATA, STATUS = 0x10000, 0x20000, HIGH + 0x9000
SIZE = 64 << 20


class Graph:
    """As much of one as a backend looks at."""

    engine = EngineChoice("kvm", "kvm", ())

    def __init__(self, options: dict[str, Any]) -> None:
        self.claim = virtio_blk.claim("disks.a", options).backends[0]
        self.nodes = (Node("virtio_blk", "a", "disks", options, virtio_blk.claim("disks.a", options)),)


class Disk:
    """An opened disk with its one queue in use."""

    def __init__(self, opened: Opened, graph: Graph) -> None:
        self.opened = opened
        self.machine = Machine(layout=((0, 4 << 20), (HIGH, 4 << 20)))
        fds = {name: os.dup(fd) for name, fd in opened.fds.items()}
        self.backend: Any = block.attach(graph.claim, Resources(fds), self.machine)  # type: ignore[arg-type]
        self.attachment = Attachment()
        self.backend.join(self.attachment)
        self.bell = Bell()
        self._asked = 0
        self._closed = False

    def start(self, features: int = virtio.F_VERSION_1 | blk.F_FLUSH) -> None:
        queue: Any = OffloadedQueue(0, 128, DESCRIPTORS, DRIVER, DEVICE, 0, self.bell, lambda: None)  # type: ignore[arg-type]
        self._asked = 0
        self.machine.ram.write(DRIVER, bytes(4))  # type: ignore[arg-type]
        self.machine.ram.write(DEVICE, bytes(4))  # type: ignore[arg-type]
        self.backend.start(features, [queue])

    def ask(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> tuple[int, bytes]:
        """One request; its status and what was read."""
        ram: Any = self.machine.ram
        ram.write(HEADER, blk.HEADER.pack(kind, 0, sector))
        ram.write(DATA, data or b"?" * room)
        ram.write(STATUS, b"\xff")
        chain = [
            (HEADER, blk.HEADER.size, 1),
            (DATA, len(data) or room, 1 | (2 if room else 0)),
            (STATUS, 1, 2),
        ]
        chain = [row for row in chain if row[1]]
        for number, (address, length, flags) in enumerate(chain):
            ram.write(DESCRIPTORS + 16 * number, struct.pack("<QIHH", address, length, flags, number + 1))
        ram.write(DRIVER + 4 + 2 * (self._asked % 128), struct.pack("<H", 0))
        self._asked += 1
        ram.write(DRIVER, struct.pack("<HH", 0, self._asked))
        os.eventfd_write(self.bell.fd, 1)
        deadline = time.monotonic() + PATIENCE
        while struct.unpack("<H", ram.read(DEVICE + 2, 2))[0] != self._asked:
            assert time.monotonic() < deadline, "the request was not answered"
            time.sleep(0.0005)
        return ram.read(STATUS, 1)[0], ram.read(DATA, room)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.backend.close()
            self.opened.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a, b.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE)], check=True)
    return path


@pytest.fixture
def opened(image: Path) -> Iterator[Any]:
    """``opened(**options)`` is a :class:`Disk` on the image."""
    disks: list[Disk] = []

    def make(**options: Any) -> Disk:
        words = {"path": {"text": image.name, "resolved": str(image)}, "format": "qcow2", **options}
        graph = Graph(words)
        disks.append(Disk(block.open_host(graph.claim, graph), graph))  # type: ignore[arg-type]
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


def refused(image: Path, **options: Any) -> HostError:
    words = {"path": {"text": image.name, "resolved": str(image)}, "format": "qcow2", **options}
    with pytest.raises(HostError) as raised:
        block.open_host(Graph(words).claim, Graph(words))  # type: ignore[arg-type]
    return raised.value


def read(image: Path, offset: int, length: int) -> bytes:
    """What qemu-img finds in the image."""
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(image)], check=True)
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)], check=True)
    return raw.read_bytes()[offset : offset + length]


@pytest.mark.parametrize(
    "options",
    [{}, {"direct": True}, {"cache": "writethrough"}, {"queues": 4}],
    ids=["plain", "direct", "through", "mq"],
)
def test_what_is_written_is_read_again_and_stands_in_the_image(
    opened: Any, image: Path, options: dict[str, Any]
) -> None:
    disk = opened(**options)
    assert (disk.backend.capacity, disk.backend.block_size, disk.backend.readonly) == (SIZE, 512, False)
    assert disk.backend.queue_count == options.get("queues", 1)
    disk.start()
    assert not disk.bell.heard_here, "the daemon hears the doorbell, and nobody else"
    data = os.urandom(64 << 10)
    assert disk.ask(blk.T_OUT, 4096, data) == (0, b"")
    assert disk.ask(blk.T_FLUSH)[0] == 0
    assert disk.ask(blk.T_IN, 4096, room=len(data)) == (0, data)
    assert disk.ask(blk.T_IN, SIZE // 512, room=512)[0] == blk.S_IOERR
    disk.close()
    assert read(image, 4096 * 512, len(data)) == data


def test_a_flushed_write_survives_the_daemons_violent_end(opened: Any, image: Path) -> None:
    """An acknowledged FLUSH means that it is in the file."""
    disk = opened()
    disk.start()
    data = os.urandom(4096)
    assert disk.ask(blk.T_OUT, 8, data)[0] == 0
    assert disk.ask(blk.T_FLUSH)[0] == 0
    os.kill(disk.opened.helpers[0].pid, signal.SIGKILL)
    disk.opened.helpers[0].has_ended(PATIENCE)
    assert read(image, 8 * 512, 4096) == data


@pytest.mark.parametrize("features", [0, blk.F_FLUSH])
def test_a_driver_that_cannot_flush_finds_each_write_safe(opened: Any, image: Path, features: int) -> None:
    """§5.2.5: without FLUSH a write is in the image when it is answered; with it, after a flush."""
    disk = opened()
    disk.start()
    disk.ask(blk.T_OUT, 0, b"0" * 512)
    disk.backend.stop(lambda: None)
    disk.bell = Bell()
    disk.start(virtio.F_VERSION_1 | features)
    data = os.urandom(4096)
    assert disk.ask(blk.T_OUT, 1 << 12, data)[0] == 0
    os.kill(disk.opened.helpers[0].pid, signal.SIGKILL)
    disk.opened.helpers[0].has_ended(5)
    raw = image.with_suffix(".raw")
    subprocess.run(
        ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(image), str(raw)], check=True
    )
    assert (raw.read_bytes()[512 << 12 :][:4096] == data) == (not features)


def test_an_ephemeral_disk_leaves_the_image_as_it_was(opened: Any, image: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    disk = opened(ephemeral=True)
    disk.start()
    assert disk.ask(blk.T_OUT, 8, b"x" * 512)[0] == 0
    assert disk.ask(blk.T_IN, 8, room=512) == (0, b"x" * 512)
    assert disk.ask(blk.T_FLUSH)[0] == 0
    disk.close()
    assert hashlib.sha256(image.read_bytes()).digest() == before
    assert sorted(image.parent.iterdir()) == [image]


def test_a_read_only_disk_is_written_by_nobody(opened: Any, image: Path) -> None:
    disk = opened(readonly=True)
    disk.start(virtio.F_VERSION_1)
    assert disk.backend.features & blk.F_RO
    assert disk.ask(blk.T_OUT, 8, b"x" * 512)[0] == blk.S_IOERR
    assert disk.ask(blk.T_IN, 8, room=512) == (0, bytes(512))


def test_the_disk_can_be_stopped_and_started_again(opened: Any) -> None:
    """A driver that is loaded anew finds the same disk, with fresh rings."""
    disk = opened()
    disk.start()
    disk.ask(blk.T_OUT, 8, b"y" * 512)
    stopped: list[bool] = []
    disk.backend.stop(lambda: stopped.append(True))
    assert stopped == [True]
    disk.bell = Bell()
    disk.start()
    assert disk.ask(blk.T_IN, 8, room=512) == (0, b"y" * 512)


def test_a_daemon_that_dies_is_noticed_at_once(opened: Any) -> None:
    disk = opened()
    disk.start()
    said: list[str] = []
    disk.backend.on_broken = said.append
    os.kill(disk.opened.helpers[0].pid, signal.SIGKILL)
    disk.opened.helpers[0].has_ended(PATIENCE)
    disk.machine.until(lambda: said)
    assert said == ["qemu-storage-daemon of disks.a has gone"]
    disk.backend.stop(lambda: said.append("stopped"))
    assert said[-1] == "stopped"


def test_nothing_in_an_image_names_another_file_even_if_the_check_were_fooled(
    opened: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """device-bugs 18, row of the daemon: what it opens is said by us, and there is no backing file."""
    below = tmp_path / "below.raw"
    below.write_bytes(b"secret".ljust(512) * 2048)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", "raw", str(image)]
    subprocess.run(words, check=True)
    monkeypatch.setattr(qcow2, "refuse_references", lambda fd, name: None)
    disk = opened(readonly=True)
    disk.start(virtio.F_VERSION_1)
    assert disk.ask(blk.T_IN, 0, room=512) == (0, bytes(512))


def test_the_daemon_is_confined(opened: Any) -> None:
    """No new privileges, and as root no capability but one."""
    pid = opened().opened.helpers[0].pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) & ~(1 << 1) == 0, "CAP_DAC_OVERRIDE at most"


def test_the_second_user_of_an_image_is_told_who_has_it(opened: Any, image: Path) -> None:
    """And qemu-img, too, finds it locked; the daemon's end frees it."""
    disk = opened()
    assert "is in use by process" in str(refused(image))
    said = subprocess.run(["qemu-img", "check", str(image)], capture_output=True, text=True, check=False)
    assert "lock" in said.stderr
    disk.close()
    subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)


def test_readers_share_an_image(opened: Any) -> None:
    first, second = opened(readonly=True), opened(ephemeral=True)
    for disk in (first, second):
        disk.start()
        assert disk.ask(blk.T_IN, 0, room=512)[0] == 0


def test_an_image_that_leads_elsewhere_is_refused(image: Path, tmp_path: Path) -> None:
    """device-bugs 18: no backing file and no data file that the definition does not name."""
    above, outside = tmp_path / "above.qcow2", tmp_path / "outside.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", above], check=True)
    data = f"data_file={tmp_path}/data.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", data, outside, "1M"], check=True)
    assert "rests on another file" in str(refused(above))
    assert "keeps its data in another file" in str(refused(outside))


def test_an_image_whose_tables_lie_outside_is_refused(image: Path) -> None:
    """device-bugs 18: tables bounded by the file, before the daemon sees it."""
    with image.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack(">Q", 1 << 40))
    assert "L1 table" in str(refused(image))


def test_a_raw_image_is_never_taken_for_what_a_guest_wrote_on_it(image: Path) -> None:
    """device-bugs 17, the other way round: what is stated to be qcow2 has to be."""
    image.write_bytes(bytes(SIZE))
    assert "does not begin with qcow2's signature" in str(refused(image))


@pytest.mark.parametrize(("has", "notes"), [(True, ()), (False, (qcow2.UNCONFINED,))])
def test_a_daemon_that_nothing_confines_is_told(
    has: bool, notes: tuple[str, ...], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Landlock it runs all the same, and the user knows (decision 0091)."""
    monkeypatch.setattr(helper_process, "has_landlock", lambda: has)
    assert opened().opened.notes == notes


def test_the_daemons_own_words_explain_why_it_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcow2, "refuse_references", lambda fd, name: None)
    image.write_bytes(b"no image")
    assert "qemu-storage-daemon exited with 1: " in str(refused(image))
    assert "qcow2" in str(refused(image))


def test_a_missing_daemon_is_told_with_its_package(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(image.parent))
    assert refused(image).hint == "apt-get install --no-install-recommends qemu-system-common"


def test_nothing_is_left_open_when_the_image_is_refused(image: Path) -> None:
    image.write_bytes(bytes(SIZE))
    before = len(os.listdir("/proc/self/fd"))
    refused(image)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("layout", "shared"), [("kvm", True), ("qemu", False)])
def test_memory_is_shared_for_a_qcow2_disk_on_our_own_engine_only(layout: str, shared: bool) -> None:
    graph = Graph({"path": {"text": "a", "resolved": "/a"}, "format": "qcow2"})
    memory, notes = _memory(Memory(256 << 20), graph.nodes, layout)
    assert memory.shared == shared
    assert len(notes) == shared
