"""The disk's data path in C against hostile rings (device-bugs 1 to 8) and honest requests."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest

from runner.errors import HostError
from runner.host import disk as native
from runner.host.disk import DiskQueues
from runner.host.memory import Ram
from runner.host.ring import RingAddresses
from tests.unit.native_ring import (
    ATTACKS,
    AVAIL,
    DATA,
    DESC,
    NEXT,
    SIZE,
    USED,
    WRITE,
    NativeRing,
    loops,
)

CAPACITY = 1 << 20


class Disk(NativeRing):
    """One queue over a file, driven by hand."""

    def __init__(
        self, path, flags=0, align=0, ram=2 << 20, readonly=False, file=-1, capacity=CAPACITY, overlay=-1
    ):
        super().__init__(ram)
        if file < 0:
            path.write_bytes(b"\xa5" * CAPACITY)
        self.file = os.open(path, os.O_RDWR | flags) if file < 0 else file
        self.queues = DiskQueues(
            self.ram, self.file, queues=2, capacity=capacity, readonly=readonly, discards=True,
            serial=b"serial", align=align, overlay=overlay,
        )  # fmt: skip

    def start(self, write_through=False, number=0, indirect=True):
        self.queues.start(
            RingAddresses(number, SIZE, DESC, AVAIL, USED), kick=self.kick, call=self.call, indirect=indirect,
            event_idx=False, write_through=write_through, on_broken=self.on_broken,
        )  # fmt: skip

    def request(self, kind, sector, data=b"", room=0):
        """The status byte after the interrupt."""
        self.begin(kind, sector, data, room)
        return self.answer()

    def begin(self, kind, sector, data=b"", room=0):
        """Header, data or room, status in descriptors 0 to 2."""
        self.ram.write(DATA, struct.pack("<IIQ", kind, 0, sector))
        self.ram.write(DATA + 0x1000, data or bytes(room))
        self.ram.write(DATA + 0x8000, b"\xff")
        middle = len(data) or room
        self.desc(0, DATA, 16, NEXT, 1 if middle else 2)
        self.desc(1, DATA + 0x1000, middle, NEXT | (WRITE if room else 0), 2)
        self.desc(2, DATA + 0x8000, 1, WRITE)
        self.offer(0)

    def answer(self):
        assert self.interrupted()
        return self.ram.read(DATA + 0x8000, 1)[0]

    def close(self):
        self.queues.close()
        self.close_ring()
        os.close(self.file)


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
        assert direct.interrupted()
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
    again(disk, number=1)
    assert disk.request(4, 0) == 1, "the kernel tells of a lost write once, and not each queue"
    for fd in (kept, reader, writer):
        os.close(fd)


def test_an_unknown_request_is_refused(disk):
    assert disk.request(99, 0) == 2


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


@pytest.mark.parametrize(("attack", "number"), [*ATTACKS, (no_status, errno.EPROTO), (twice, errno.EBUSY)])
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


def again(disk, **how):
    """The driver resets the device and sets its queue up anew, or another one in its place."""
    disk.queues.stop()
    with suppress(BlockingIOError):
        os.eventfd_read(disk.call)
    disk.index = 0
    disk.told.clear()
    disk.ram.write(AVAIL, bytes(4))
    disk.ram.write(USED, bytes(4))
    disk.start(**how)


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


def written_here():
    """Bytes that threads of ours have written by calls of their own: not what io_uring's workers write."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar"))


LONG = 16384  # more than whatever else this process writes meanwhile


def test_a_buffered_write_is_made_by_the_queues_own_thread(disk):
    """A worker of io_uring costs several times what the copy does."""
    before = written_here()
    assert disk.request(1, 8, data=b"w" * LONG) == 0
    assert written_here() - before >= LONG
    assert os.pread(disk.file, LONG, 4096) == b"w" * LONG


def test_after_a_slow_write_the_next_ones_are_io_urings(tmp_path, monkeypatch):
    """A page cache with too much in it makes a writer wait, and nobody else may wait with it."""
    monkeypatch.setattr(native, "SLOW_NS", -(LONG * 10) % (1 << 64))  # the sum is 0: every write is slow
    disk = Disk(tmp_path / "image")
    disk.start()
    assert disk.request(1, 0, data=b"1" * LONG) == 0
    before = written_here()
    assert disk.request(1, 8, data=b"2" * LONG) == 0
    assert written_here() - before < LONG
    assert os.pread(disk.file, LONG, 4096) == b"2" * LONG
    disk.close()


@pytest.mark.parametrize(("align", "write_through"), [(512, False), (0, True)])
def test_a_write_that_waits_for_the_medium_is_io_urings(tmp_path, align, write_through):
    """O_DIRECT, and a driver that relies on every write being safe."""
    disk = Disk(tmp_path / "image", align=align)
    disk.start(write_through)
    before = written_here()
    assert disk.request(1, 0, data=b"d" * LONG) == 0
    assert written_here() - before < LONG
    assert os.pread(disk.file, LONG, 0) == b"d" * LONG
    disk.close()


def test_a_full_file_system_is_an_error_and_the_queue_lives(tmp_path):
    """ENOSPC of a write made at once: IOERR, counted, told, and the next request is served."""
    disk = Disk(tmp_path, file=os.open("/dev/full", os.O_RDWR))
    disk.start()
    assert disk.request(1, 0, data=b"x" * 512) == 1
    assert disk.queues.errors() == (1, errno.ENOSPC)
    assert os.eventfd_read(disk.queues.notice) == 1
    assert disk.request(0, 0, room=512) == 0
    disk.close()


def test_a_write_of_which_a_part_fits_is_an_error(disk):
    """The file may grow by a little more than half of it: what is not all written is not told as written."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    os.truncate(disk.file, 4096)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 + LONG // 2 + 1000, old[1]))
    try:
        assert disk.request(1, 8, data=b"p" * LONG) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert disk.queues.errors() == (1, errno.EFBIG)
    assert disk.request(1, 8, data=b"q" * LONG) == 0
    assert os.pread(disk.file, CAPACITY, 4096) == b"q" * LONG


@pytest.fixture
def slow(tmp_path):
    """A disk whose reads are under way until the test writes into ``slow.far``."""
    near, far = socket.socketpair()
    disk = Disk(tmp_path, file=near.detach())
    disk.far = far
    yield disk
    far.close()
    disk.close()


def test_a_reset_waits_for_what_is_under_way(slow):
    """Guest memory is still written to: the queue is over when the read is, and not before."""
    slow.start()
    slow.begin(0, 0, room=512)
    stopped = threading.Thread(target=slow.queues.stop)
    stopped.start()
    stopped.join(0.2)
    assert stopped.is_alive()
    slow.far.send(b"z" * 512)
    stopped.join(10)
    assert not stopped.is_alive()
    assert slow.ram.read(DATA + 0x1000, 512) == b"z" * 512
    assert slow.ram.read(DATA + 0x8000, 1) == b"\0"


def test_a_head_in_flight_is_refused_while_its_read_is_under_way(slow):
    """Device-bugs 8, with a read that certainly has not ended."""
    slow.start()
    slow.begin(0, 0, room=512)
    slow.offer(0)
    slow.told.wait(0.2)
    slow.far.send(b"z" * 512)
    assert slow.told.wait(10)
    assert slow.broken == [errno.EBUSY]


def test_a_queue_that_waits_for_a_disk_leaves_the_cpu_to_others(slow):
    """Looking at the ring without a pause is for a driver that will soon ask again."""
    slow.start()
    time.sleep(0.1)
    slow.queues._blks[0].spin.most_ns = 60 * 10**9  # and the request opens the window so far
    slow.begin(0, 0, room=512)
    time.sleep(0.1)
    assert slow.queues._blks[0].spin.window_ns == 60 * 10**9
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    slow.far.send(b"z" * 512)
    assert slow.answer() == 0


def test_a_driver_that_never_ceases_cannot_keep_the_queue_from_its_end(tmp_path):
    """Its ring is never empty: there are always two large writes, and an answer is offered again at once."""
    size = 32 << 20
    disk = Disk(tmp_path / "image", ram=2 * size, capacity=size)
    disk.ram.write(DATA, struct.pack("<IIQ", 1, 0, 0))
    for head in (0, 3):
        disk.desc(head, DATA, 16, NEXT, head + 1)
        disk.desc(head + 1, size, size, NEXT, head + 2)
        disk.desc(head + 2, DATA + 0x8000 + head, 1, WRITE)
    disk.start()
    stopped = threading.Thread(target=disk.queues.stop)
    over = time.monotonic() + 6

    def flood():
        disk.offer(0, 3)
        seen = 0
        while stopped.ident is None or (stopped.is_alive() and time.monotonic() < over):
            used = disk.used
            for at in range(seen, used):
                disk.offer(disk.returned(at))
            seen = used
            time.sleep(0.001)

    driver = threading.Thread(target=flood)
    driver.start()
    time.sleep(0.1)
    stopped.start()
    stopped.join(4)
    in_time = not stopped.is_alive()
    driver.join()
    disk.close()
    assert in_time


def name_of(thread):
    with open(f"/proc/self/task/{thread}/comm") as file:
        return file.read()


def test_a_queue_does_not_share_the_cpu_of_the_one_who_started_it(tmp_path):
    """A virtual CPU that is bound to a CPU of the host starts its disk's queue, which is bound to none."""
    disk, threads = Disk(tmp_path / "image"), set(os.listdir("/proc/self/task"))
    before = os.sched_getaffinity(0)

    def bound():
        os.sched_setaffinity(0, {min(before)})
        disk.start()
        assert disk.request(0, 0, room=512) == 0

    starter = threading.Thread(target=bound)
    starter.start()
    starter.join()
    made = set(os.listdir("/proc/self/task")) - threads - {str(starter.native_id)}
    queues = [one for one in made if not name_of(one).startswith("iou-")]  # workers
    assert [os.sched_getaffinity(int(one)) for one in queues] == [before]
    disk.close()
