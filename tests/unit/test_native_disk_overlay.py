"""An ephemeral disk: writes are in the overlay, the rest comes from the image, which stays as it was."""

from __future__ import annotations

import os
import random
import struct
import time

import pytest

from runner.host.ring import RingAddresses
from tests.unit.test_native_disk import AVAIL, CAPACITY, DATA, DESC, NEXT, USED, WRITE, Disk

IN, OUT, ZEROES = 0, 1, 13
CLUSTER = 65536
ODD = CAPACITY - CLUSTER + 4096  # the last cluster is not whole


@pytest.fixture
def overlaid(tmp_path):
    """An ephemeral disk whose image is 0xa5 throughout; ``disk.overlay`` is what it writes."""
    overlay = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    os.truncate(overlay, ODD)
    disk = Disk(tmp_path / "image", overlay=overlay, capacity=ODD)
    disk.overlay = overlay
    yield disk
    disk.close()
    os.close(overlay)


def whole(disk):
    """All that the disk holds, read by requests."""
    found = b""
    for sector in range(0, ODD // 512, 32):
        length = min(16384, ODD - sector * 512)
        assert disk.request(IN, sector, room=length) == 0
        found += disk.ram.read(DATA + 0x1000, length)
    return found


def zeroes(*rows):
    return b"".join(struct.pack("<QII", *row) for row in rows)


def test_whatever_is_written_and_zeroed_is_read_back_and_the_image_stays(overlaid, tmp_path):
    """Against a byte array: parts of clusters, many at once, the last one, written before and not."""
    overlaid.start()
    dice = random.Random(5)
    model = bytearray(b"\xa5" * ODD)
    last = ODD // 512
    ranges = [(0, 8), (120, 16), (128, 128), (100, 700), (last - 8, 8), (last - 200, 200), (0, last)]
    for sector, count in ranges * 2:
        for at in (dice.randrange(last - 16) for _ in range(3)):
            data = dice.randbytes(16 * 512)
            model[at * 512 : (at + 16) * 512] = data
            assert overlaid.request(OUT, at, data=data) == 0
        assert whole(overlaid) == model
        model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
        assert overlaid.request(ZEROES, 0, data=zeroes((sector, count, 0))) == 0
        assert whole(overlaid) == model
    assert (tmp_path / "image").read_bytes() == b"\xa5" * CAPACITY


def test_zeroes_take_no_room_in_the_overlay(overlaid):
    """A guest that zeroes its disk does not fill the host's."""
    overlaid.start()
    assert overlaid.request(ZEROES, 0, data=zeroes((0, (ODD - 4096) // 512, 0))) == 0
    assert os.fstat(overlaid.overlay).st_blocks == 0


def test_an_overlay_without_holes_is_written_zeroes(tmp_path):
    """Some file systems have none; a device of zeroes, too, refuses to be punched."""
    overlay = os.open("/dev/zero", os.O_RDWR)
    disk = Disk(tmp_path / "image", overlay=overlay)
    disk.start()
    assert disk.request(ZEROES, 0, data=zeroes((0, 256, 0))) == 0
    assert disk.request(IN, 128, room=512) == 0
    assert disk.ram.read(DATA + 0x1000, 512) == bytes(512)
    assert disk.request(IN, 256, room=512) == 0
    assert disk.ram.read(DATA + 0x1000, 512) == b"\xa5" * 512
    disk.close()
    os.close(overlay)


def test_a_long_ring_is_answered_by_and_by(overlaid):
    """What is asked of an overlay is done at once: the first few need not wait for the last."""
    count = 62  # requests that share data and status
    disk = overlaid
    disk.queues.start(
        RingAddresses(0, 64, DESC, AVAIL, USED), kick=disk.kick, call=disk.call, indirect=False,
        event_idx=False, write_through=False, on_broken=lambda *_: None,
    )  # fmt: skip
    disk.ram.write(DATA, struct.pack("<IIQ", IN, 0, 0))
    for head in range(count):
        disk.desc(head, DATA, 16, NEXT, 62)
    disk.desc(62, DATA + 0x1000, 512, NEXT | WRITE, 63)
    disk.desc(63, DATA + 0x8000, 1, WRITE)
    disk.ram.write(AVAIL + 4, struct.pack(f"<{count}H", *range(count)))
    disk.ram.write(AVAIL + 2, struct.pack("<H", count))
    os.eventfd_write(disk.kick, 1)
    over = time.monotonic() + 10
    while struct.unpack("<H", disk.ram.read(USED + 2, 2))[0] < count and time.monotonic() < over:
        time.sleep(0.01)
    disk.queues.stop()
    assert os.eventfd_read(disk.call) == 8
