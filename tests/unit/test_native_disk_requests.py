"""What a raw disk makes of each request: by its contents, and by what it asks of io_uring."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

import pytest

from runner.host.native._native import lib
from tests.unit.test_native_disk import CAPACITY, DATA, NEXT, WRITE, Disk

IN, OUT, FLUSH, DISCARD, ZEROES = 0, 1, 4, 11, 13
UNMAP = 1
READV, WRITEV, FSYNC, FALLOCATE = 1, 2, 3, 17  # linux/io_uring.h
DSYNC = 2  # RWF_DSYNC, linux/fs.h
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # linux/falloc.h
FAR = 0x40000  # guest memory for much data, aligned as O_DIRECT likes it


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "image")
    yield made
    made.close()


def asked(disk):
    """What the kernel was asked for so far, polls of eventfds aside: the ring keeps it."""
    ring = disk.queues._blks[0].uring
    return [sqe for sqe in ring.sqes[0 : ring.sq_tail[0]] if sqe.opcode in (READV, WRITEV, FSYNC, FALLOCATE)]


def segments(*rows):
    return b"".join(struct.pack("<QII", *row) for row in rows)


def holes(disk):
    """Bytes of the image that take no room."""
    return CAPACITY - os.fstat(disk.file).st_blocks * 512


def test_a_discard_gives_room_back_and_reads_as_zeroes(disk):
    disk.start()
    assert disk.request(DISCARD, 0, data=segments((128, 256, 0), (1024, 128, 0))) == 0
    assert holes(disk) == 384 * 512
    assert os.pread(disk.file, CAPACITY, 0) == (
        b"\xa5" * 65536 + bytes(131072) + b"\xa5" * (524288 - 196608)
        + bytes(65536) + b"\xa5" * (CAPACITY - 524288 - 65536)
    )  # fmt: skip
    assert [sqe.len for sqe in asked(disk)] == [KEEP_SIZE | PUNCH_HOLE] * 2


@pytest.mark.parametrize(("flags", "mode"), [(0, ZERO_RANGE), (UNMAP, PUNCH_HOLE)])
def test_zeroes_keep_their_room_unless_the_driver_lets_it_go(disk, flags, mode):
    """§5.2.6.2: only with UNMAP may the device deallocate.  A file system that knows no zeroed range is
    told as unsupported, and the driver writes them itself."""
    disk.start()
    status = disk.request(ZEROES, 0, data=segments((128, 256, flags)))
    assert [sqe.len for sqe in asked(disk)] == [KEEP_SIZE | mode]
    if status == 2:
        assert mode == ZERO_RANGE
        assert disk.queues.errors() == (1, errno.EOPNOTSUPP)
    else:
        assert status == 0
        assert os.pread(disk.file, 131072, 65536) == bytes(131072)
        assert holes(disk) == (131072 if flags else 0)
    assert os.pread(disk.file, 65536, 0) + os.pread(disk.file, 65536, 196608) == b"\xa5" * 131072


@pytest.mark.parametrize(
    ("kind", "rows", "status"),
    [
        (DISCARD, [(CAPACITY // 512, 1, 0)], 1),
        (DISCARD, [(0, 8, 0), (CAPACITY // 512 - 1, 2, 0)], 1),
        (ZEROES, [((1 << 55) + 1, 8, 0)], 1),
        (ZEROES, [(0, 0xFFFFFFFF, UNMAP)], 1),
        (ZEROES, [(0, 8, 2)], 2),
        (DISCARD, [(0, 8, UNMAP)], 2),
        (DISCARD, [(0, 8, 0)] * 17, 1),
        (DISCARD, [], 1),
    ],
)
def test_ranges_that_may_not_be_are_refused_as_a_whole(disk, kind, rows, status):
    """Outside the disk, with a flag that nobody has agreed on, more than there is room for, none."""
    disk.start()
    assert disk.request(kind, 0, data=segments(*rows)) == status
    assert asked(disk) == []
    assert os.pread(disk.file, CAPACITY, 0) == b"\xa5" * CAPACITY


def test_half_a_range_is_refused(disk):
    disk.start()
    assert disk.request(DISCARD, 0, data=segments((0, 8, 0))[:-1]) == 1
    assert asked(disk) == []


@pytest.mark.parametrize("through", [False, True])
def test_what_a_driver_that_never_flushes_has_written_is_safe(disk, through):
    """§5.2.6.2: without FLUSH each write, and zeroes and a discard, too, are on the medium when answered."""
    disk.start(write_through=through)
    assert disk.request(OUT, 0, data=b"x" * 512) == 0
    assert disk.request(ZEROES, 0, data=segments((128, 8, UNMAP), (256, 8, UNMAP))) == 0
    assert disk.request(DISCARD, 0, data=segments((512, 8, 0))) == 0
    found = [sqe.opcode for sqe in asked(disk)]
    safe = [WRITEV, FALLOCATE, FALLOCATE, FSYNC, FALLOCATE, FSYNC]
    assert found == (safe if through else [FALLOCATE, FALLOCATE, FALLOCATE])
    assert [sqe.rw_flags for sqe in asked(disk)[:1]] == [DSYNC if through else 0]


def test_a_flush_is_fdatasync(disk):
    disk.start()
    assert disk.request(FLUSH, 0) == 0
    (flush,) = asked(disk)
    assert (flush.opcode, flush.rw_flags) == (FSYNC, 1)  # IORING_FSYNC_DATASYNC


@pytest.fixture
def piped(tmp_path):
    """A disk that reads from a pipe whose other end is ``disk.far``."""
    near, far = os.pipe()
    disk = Disk(tmp_path, file=near)
    disk.far = far
    disk.start()
    yield disk
    os.close(far)
    disk.close()


def test_a_read_that_comes_in_pieces_is_put_together(piped):
    piped.begin(IN, 0, room=512)
    for piece in (b"a" * 100, b"b" * 1, b"c" * 411):
        os.write(piped.far, piece)
        time.sleep(0.02)
    assert piped.answer() == 0
    assert piped.ram.read(DATA + 0x1000, 512) == b"a" * 100 + b"b" + b"c" * 411


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_what_the_kernel_asks_to_try_again_is_tried_again(disk, error):
    """It is no error of a disk.  (No file of a test makes io_uring answer so: the answer is made here.)"""
    disk.start()
    assert disk.request(IN, 0, room=512) == 0
    disk.queues.stop()
    (blk, _), before = disk.queues._blks, len(asked(disk))
    lib.blk_result(blk, 0, -error)
    assert [sqe.opcode for sqe in asked(disk)[before:]] == [READV]
    assert disk.queues.errors() == (0, 0)


@pytest.fixture
def wire(tmp_path):
    """A disk past the page cache on a socket of messages, whose other end is ``disk.far``."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    disk = Disk(tmp_path, file=near.detach(), align=512)
    disk.far = far
    disk.start()
    yield disk
    far.close()
    disk.close()


def test_an_image_that_has_become_shorter_is_an_error_and_no_loop(disk):
    """Somebody has truncated it: EIO for what was there, and the rest is served."""
    disk.start()
    os.truncate(disk.file, 4096 + 100)
    assert disk.request(IN, 8, room=512) == 1
    assert disk.queues.errors() == (1, errno.EIO)
    assert disk.request(IN, 0, room=512) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_an_aligned_request_goes_to_an_o_direct_image_in_one_piece(wire, count):
    """The header's and the status's own descriptors are no part of the data: a copy is for what needs one."""
    length = 131072
    wire.ram.write(DATA, struct.pack("<IIQ", OUT, 0, 0))
    wire.ram.write(FAR, b"d" * length)
    wire.desc(0, DATA, 16, NEXT, 1)
    for number in range(count):
        part = length // count
        wire.desc(1 + number, FAR + number * part, part, NEXT, 2 + number)
    wire.desc(1 + count, DATA + 0x8000, 1, WRITE)
    wire.offer(0)
    assert select.select([wire.far], [], [], 10)[0]
    assert wire.far.recv(1 << 20) == b"d" * length
    assert wire.answer() == 0


def test_an_aligned_read_of_an_o_direct_image_is_made_in_one_piece(wire):
    length = 131072
    wire.far.send(b"r" * length)
    wire.ram.write(DATA, struct.pack("<IIQ", IN, 0, 0))
    wire.desc(0, DATA, 16, NEXT, 1)
    wire.desc(1, FAR, length, NEXT | WRITE, 2)
    wire.desc(2, DATA + 0x8000, 1, WRITE)
    wire.offer(0)
    assert wire.answer() == 0
    assert wire.ram.read(FAR, length) == b"r" * length
