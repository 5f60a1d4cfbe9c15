"""Reads that need not wait: made at once where they come alone, by two CPUs where they are large."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from runner.host.native._native import lib
from tests.unit.test_native_disk import CAPACITY, DATA, NEXT, WRITE, Disk
from tests.unit.test_native_disk_requests import FAR, IN, READV, asked

ASYNC = 16  # IOSQE_ASYNC, linux/io_uring.h
CONTENT = os.urandom(CAPACITY)


def in_memory(content=CONTENT):
    """A file whose bytes are in memory, whatever file system the tests have."""
    file = os.memfd_create("image")
    os.write(file, content)
    return file


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path, file=in_memory(), ram=4 << 20)
    made.start()
    yield made
    made.close()


def begin_large(disk, *parts, sector=0):
    """One read into buffers of these sizes, with a byte between them that is nobody's."""
    disk.ram.write(DATA, struct.pack("<IIQ", IN, 0, sector))
    disk.desc(0, DATA, 16, NEXT, 1)
    at = FAR
    for number, part in enumerate(parts, start=1):
        disk.desc(number, at, part, NEXT | WRITE, number + 1)
        disk.ram.write(at + part, b"\x77")
        at += part + 1
    disk.desc(1 + len(parts), DATA + 0x8000, 1, WRITE)
    disk.offer(0)


def got(disk, *parts):
    found, at = b"", FAR
    for part in parts:
        found += disk.ram.read(at, part)
        assert disk.ram.read(at + part, 1) == b"\x77"
        at += part + 1
    return found


def test_a_read_of_what_is_in_memory_asks_nobody(disk):
    """One call, and no ring of the kernel's."""
    assert disk.request(IN, 3, room=4096) == 0
    assert disk.ram.read(DATA + 0x1000, 4096) == CONTENT[1536 : 1536 + 4096]
    assert asked(disk) == []


def test_a_file_of_a_disk_is_read_so_only_where_it_has_been_read_before(tmp_path):
    """RWF_NOWAIT: either the page cache has it, or io_uring fetches it; the bytes are the same."""
    made = Disk(tmp_path / "image")
    made.start()
    os.pwrite(made.file, CONTENT, 0)
    assert made.request(IN, 8, room=512) == 0
    assert made.ram.read(DATA + 0x1000, 512) == CONTENT[4096:4608]
    os.fsync(made.file)
    os.posix_fadvise(made.file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert made.request(IN, 64, room=512) == 0
    assert made.ram.read(DATA + 0x1000, 512) == CONTENT[32768 : 32768 + 512]
    made.close()


def test_only_a_file_system_in_memory_is_taken_for_one(tmp_path):
    """Everything else may wait for a disk."""
    with open("/proc/version") as other:
        assert not lib.vmrun_blk_in_memory(other.fileno())
    assert not lib.vmrun_blk_in_memory(-1)
    file = in_memory(b"")
    assert lib.vmrun_blk_in_memory(file)
    os.close(file)


def test_reads_that_come_together_are_asked_for_together(disk):
    """One call for all of them costs less than one for each."""
    for first in (0, 3):
        disk.ram.write(DATA + 0x2000 * first, struct.pack("<IIQ", IN, 0, first))
        disk.desc(first, DATA + 0x2000 * first, 16, NEXT, first + 1)
        disk.desc(first + 1, FAR + 0x1000 * first, 512, NEXT | WRITE, first + 2)
        disk.desc(first + 2, DATA + 0x8000 + first, 1, WRITE)
    disk.offer(0, 3)
    while disk.used < 2:
        assert disk.interrupted()
    assert READV in [sqe.opcode for sqe in asked(disk)]
    for first in (0, 3):
        assert disk.ram.read(FAR + 0x1000 * first, 512) == CONTENT[512 * first : 512 * first + 512]


@pytest.mark.parametrize(
    "parts",
    [
        (CAPACITY,), (CAPACITY // 2, CAPACITY // 2), (4096, CAPACITY - 4096), (CAPACITY - 512, 512),
        (1, 4095, CAPACITY - 8192, 4096), (CAPACITY // 2,), (200_000, 300_000, CAPACITY - 500_000),
    ],
    ids=str,
)  # fmt: skip
def test_a_large_read_is_made_in_two_halves(disk, parts):
    """A worker has the second, wherever the driver's buffers begin and end."""
    begin_large(disk, *parts)
    assert disk.answer() == 0
    assert got(disk, *parts) == CONTENT[: sum(parts)]
    (half,) = asked(disk)
    assert (half.opcode, half.flags & ASYNC) == (READV, ASYNC)
    assert struct.unpack("<II", disk.ram.read(0x3004, 8)) == (0, sum(parts) + 1), "bytes told to the driver"
    assert disk.request(IN, 0, room=512) == 0, "the same descriptors serve again"


def test_a_read_that_is_not_large_is_not_divided(disk):
    """A worker takes longer to wake than these bytes to copy."""
    begin_large(disk, (512 << 10) - 512)
    assert disk.answer() == 0
    assert asked(disk) == []


@pytest.mark.parametrize("left", [CAPACITY - 512, CAPACITY // 2, 100, 0])
def test_a_large_read_of_an_image_that_is_too_short_fails_once(disk, left):
    """Whichever half misses something: one answer, one error, and the next request is served."""
    os.truncate(disk.file, left)
    begin_large(disk, CAPACITY)
    assert disk.answer() == 1
    assert disk.queues.errors() == (1, errno.EIO)
    assert disk.used == 1
    os.pwrite(disk.file, CONTENT, 0)
    begin_large(disk, CAPACITY)
    assert disk.answer() == 0
    assert got(disk, CAPACITY) == CONTENT


def test_both_halves_of_a_large_read_may_fail(tmp_path):
    """The request is answered when the worker has let go of the guest's memory, and counted once."""
    (tmp_path / "image").write_bytes(CONTENT)
    disk = Disk(tmp_path, file=os.open(tmp_path / "image", os.O_WRONLY), ram=4 << 20)
    disk.start()
    begin_large(disk, CAPACITY)
    assert disk.answer() == 1
    assert disk.queues.errors() == (1, errno.EBADF)
    assert disk.used == 1
    disk.close()
