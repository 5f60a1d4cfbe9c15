"""The disk's data path in C against hostile rings (device-bugs 1 to 8) and honest requests."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
import time
from contextlib import suppress

import pytest

from runner.errors import HostError
from runner.host.disk import DiskQueues, RingAddresses
from runner.host.memory import Ram

SIZE, DESC, AVAIL, USED, DATA, INNER = 8, 0x1000, 0x2000, 0x3000, 0x10000, 0x8000
NEXT, WRITE, INDIRECT = 1, 2, 4
CAPACITY = 1 << 20


class Disk:
    """One queue over a file, driven by hand."""

    def __init__(self, path, flags=0, align=0, ram=2 << 20, readonly=False):
        path.write_bytes(b"\xa5" * CAPACITY)
        self.file = os.open(path, os.O_RDWR | flags)
        self.ram = Ram(((0, ram),))
        self.queues = DiskQueues(
            self.ram, self.file, queues=1, capacity=CAPACITY, readonly=readonly, discards=True,
            serial=b"serial", align=align,
        )  # fmt: skip
        self.kick, self.call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.broken: list[int] = []
        self.told = threading.Event()
        self.index = 0

    def start(self):
        def on_broken(_queue, number):
            self.broken.append(number)
            self.told.set()

        self.queues.start(
            RingAddresses(0, SIZE, DESC, AVAIL, USED), kick=self.kick, call=self.call, indirect=True,
            event_idx=False, write_through=False, on_broken=on_broken,
        )  # fmt: skip

    def desc(self, number, address, length, flags=0, following=0, table=DESC):
        self.ram.write(table + 16 * number, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, *heads, jump=0):
        for head in heads:
            self.ram.write(AVAIL + 4 + 2 * (self.index % SIZE), struct.pack("<H", head))
            self.index += 1
        self.index += jump
        self.ram.write(AVAIL + 2, struct.pack("<H", self.index & 0xFFFF))
        os.eventfd_write(self.kick, 1)

    def request(self, kind, sector, data=b"", room=0):
        """Header, data or room, status in descriptors 0 to 2; the status byte after the interrupt."""
        self.ram.write(DATA, struct.pack("<IIQ", kind, 0, sector))
        self.ram.write(DATA + 0x1000, data or bytes(room))
        self.ram.write(DATA + 0x8000, b"\xff")
        middle = len(data) or room
        self.desc(0, DATA, 16, NEXT, 1 if middle else 2)
        self.desc(1, DATA + 0x1000, middle, NEXT | (WRITE if room else 0), 2)
        self.desc(2, DATA + 0x8000, 1, WRITE)
        self.offer(0)
        assert select.select([self.call], [], [], 10)[0]
        os.eventfd_read(self.call)
        return self.ram.read(DATA + 0x8000, 1)[0]

    def close(self):
        self.queues.stop()
        self.ram.close()
        for fd in (self.file, self.kick, self.call):
            os.close(fd)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "image")
    made.start()
    yield made
    made.close()


def test_what_is_written_is_read_back_and_flushed(disk):
    assert disk.request(1, 4, data=b"x" * 512) == 0
    assert disk.request(4, 0) == 0
    assert disk.request(0, 4, room=512) == 0
    assert disk.ram.read(DATA + 0x1000, 512) == b"x" * 512
    assert os.pread(disk.file, 512, 2048) == b"x" * 512
    assert disk.request(8, 0, room=20) == 0
    assert disk.ram.read(DATA + 0x1000, 6) == b"serial"


@pytest.fixture
def direct(tmp_path):
    """Past the page cache where the file system can; with sectors of 4096 bytes."""
    try:
        made = Disk(tmp_path / "image", os.O_DIRECT, 4096)
    except OSError:
        made = Disk(tmp_path / "image", 0, 4096)
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("at", [0, 1, 512, 4095])
@pytest.mark.parametrize("length", [4096, 65536, 3 * 65536 + 4096])
def test_parts_that_o_direct_would_not_take_arrive_all_the_same(direct, at, length):
    """A request that begins inside a page, in two parts that are no sectors, longer than its buffer."""
    data = bytes(range(251)) * (length // 251 + 1)
    for kind, flags in ((1, NEXT), (0, NEXT | WRITE)):
        start = DATA + 0x10000 + at
        direct.ram.write(DATA, struct.pack("<IIQ", kind, 0, 16))
        direct.ram.write(start, data[:length] if kind else bytes(length))
        direct.desc(0, DATA, 16, NEXT, 1)
        direct.desc(1, start, 1000, flags, 2)
        direct.desc(2, start + 1000, length - 1000, flags, 3)
        direct.desc(3, DATA + 0x8000, 1, WRITE)
        direct.offer(0)
        assert select.select([direct.call], [], [], 10)[0]
        os.eventfd_read(direct.call)
        assert direct.ram.read(DATA + 0x8000, 1) == b"\0"
        assert direct.ram.read(start, length) == data[:length]
        with open(f"/proc/self/fd/{direct.file}", "rb") as file:
            assert file.read()[8192:][:length] == data[:length]


@pytest.mark.parametrize(
    ("kind", "sector", "room"), [(0, CAPACITY // 512, 512), (0, 1 << 60, 512), (0, 0, 100)]
)
def test_a_request_outside_the_disk_is_an_error_and_no_more(disk, kind, sector, room):
    assert disk.request(kind, sector, room=room) == 1
    assert disk.request(0, 0, room=512) == 0


def test_a_read_only_disk_is_never_written(tmp_path):
    """Whatever the driver was told: not by a write, not by zeroes, not by a discard."""
    disk = Disk(tmp_path / "image", readonly=True)
    disk.start()
    segment = struct.pack("<QII", 0, 8, 0)
    assert disk.request(1, 0, data=b"x" * 512) == 1
    assert disk.request(13, 0, data=segment) == 2
    assert disk.request(11, 0, data=segment) == 2
    assert disk.request(0, 0, room=512) == 0
    assert os.pread(disk.file, CAPACITY, 0) == b"\xa5" * CAPACITY
    disk.close()


def test_after_a_failed_flush_every_flush_fails(disk):
    """Nobody can tell what was lost, though the file works again; reads and writes go on."""
    kept = os.dup(disk.file)
    reader, writer = os.pipe()
    os.dup2(writer, disk.file)  # a pipe cannot be flushed
    assert disk.request(4, 0) == 1
    os.dup2(kept, disk.file)
    assert disk.request(1, 0, data=b"y" * 512) == 0
    assert disk.request(4, 0) == 1
    assert disk.queues.errors() == (1, errno.EINVAL)
    for fd in (kept, reader, writer):
        os.close(fd)


def test_an_unknown_request_is_refused(disk):
    assert disk.request(99, 0) == 2


def loops(disk):
    disk.desc(0, DATA, 0, NEXT, 1)
    disk.desc(1, DATA, 0, NEXT, 0)
    disk.offer(0)


def nested(disk):
    disk.desc(0, INNER, 16, INDIRECT)
    disk.desc(0, INNER, 16, INDIRECT, table=INNER)
    disk.offer(0)


def oversized(disk):
    disk.desc(0, INNER, 16 * (SIZE + 1), INDIRECT)
    disk.offer(0)


def uneven(disk):
    disk.desc(0, INNER, 17, INDIRECT)
    disk.offer(0)


def outside(disk):
    disk.desc(0, (2 << 20) - 8, 16, NEXT, 1)
    disk.offer(0)


def wrapping(disk):
    disk.desc(0, 0xFFFFFFFFFFFFFFF8, 0xFFFFFFFF, NEXT, 1)
    disk.offer(0)


def strange_head(disk):
    disk.offer(SIZE)


def strange_next(disk):
    disk.desc(0, DATA, 16, NEXT, 500)
    disk.offer(0)


def jumping(disk):
    disk.offer(jump=SIZE + 1)


def readable_after_writable(disk):
    disk.desc(0, DATA, 16, WRITE | NEXT, 1)
    disk.desc(1, DATA, 16)
    disk.offer(0)


def no_status(disk):
    disk.desc(0, DATA, 16)
    disk.offer(0)


def twice(disk):
    """Device-bugs 3 and 8: the head comes again while its read is under way."""
    disk.ram.write(DATA, struct.pack("<IIQ", 0, 0, 0))
    disk.desc(0, DATA, 16, NEXT, 1)
    disk.desc(1, DATA + 0x1000, 512, NEXT | WRITE, 2)
    disk.desc(2, DATA + 0x8000, 1, WRITE)
    disk.offer(0, 0)


@pytest.mark.parametrize(
    ("attack", "number"),
    [
        (loops, errno.ELOOP), (nested, errno.ELOOP), (oversized, errno.EOVERFLOW), (uneven, errno.EOVERFLOW),
        (outside, errno.EFAULT), (wrapping, errno.EFAULT), (strange_head, errno.ERANGE),
        (strange_next, errno.ERANGE), (jumping, errno.ERANGE), (readable_after_writable, errno.EPROTO),
        (no_status, errno.EPROTO), (twice, errno.EBUSY),
    ],
)  # fmt: skip
def test_a_broken_rule_ends_the_queue_with_its_errno(disk, attack, number):
    attack(disk)
    assert disk.told.wait(60)
    assert disk.broken == [number]


def test_row_5_a_chain_of_more_than_4_gib_ends_the_queue(tmp_path):
    """Device-bugs 5: the used ring has 32 bits for a length; memory that nobody touches costs nothing."""
    disk = Disk(tmp_path / "image", ram=1 << 30)
    disk.start()
    for number in range(6):
        disk.desc(number, 0, 1 << 30, WRITE | NEXT, number + 1)
    disk.offer(0)
    assert disk.told.wait(60)
    assert disk.broken == [errno.EOVERFLOW]
    disk.close()


@pytest.mark.parametrize("address", [2 << 20, 0xFFFFFFFFFFFFF000])
def test_a_ring_outside_ram_is_refused(tmp_path, address):
    disk = Disk(tmp_path / "image")
    with pytest.raises(OSError, match="queue 0"):
        disk.queues.start(
            RingAddresses(0, SIZE, address, AVAIL, USED), kick=disk.kick, call=disk.call, indirect=True,
            event_idx=False, write_through=False, on_broken=lambda *_: None,
        )  # fmt: skip
    disk.close()


def again(disk):
    """The driver resets the device and sets its queue up anew."""
    disk.queues.stop()
    with suppress(BlockingIOError):
        os.eventfd_read(disk.call)
    disk.index = 0
    disk.told.clear()
    disk.ram.write(AVAIL, bytes(4))
    disk.ram.write(USED, bytes(4))
    disk.start()


@pytest.mark.parametrize("attack", [loops, twice, no_status])
def test_a_disk_that_a_driver_broke_serves_the_next_one(disk, attack):
    """What one service has waited for is over with it: the next one would take it for its own end."""
    for _ in range(3):
        attack(disk)
        assert disk.told.wait(10)
        again(disk)
        assert disk.request(0, 0, room=512) == 0


def test_a_disk_that_was_reset_while_idle_serves_the_next_driver(disk):
    for _ in range(3):
        time.sleep(0.01)  # it sleeps, and waits for the doorbell
        again(disk)
        assert disk.request(0, 0, room=512) == 0


def test_an_ephemeral_disk_whose_map_does_not_fit_is_a_fault_and_no_crash(tmp_path):
    """A sparse image may say any size; the map has one bit for 64 KiB."""
    with open(tmp_path / "image", "w+b") as image, pytest.raises(HostError, match="does not fit into memory"):
        DiskQueues(
            Ram(((0, 2 << 20),)), image.fileno(), queues=1, capacity=(1 << 63) - 512, readonly=False,
            discards=True, overlay=image.fileno(),
        )  # fmt: skip
