"""Sectors of 4096 bytes: shown where they are the disk's, refused where an image cannot have them."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.backends import block
from runner.errors import HostError
from runner.graph.model import BackendClaim


@pytest.fixture
def image(tmp_path: Path) -> tuple[int, str]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return os.open(path, os.O_RDONLY), str(path)


def _takes_multiples_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file system on a disk with such sectors does with O_DIRECT."""

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = sum(map(len, buffers))
        if count % size or offset % size:
            raise OSError(errno.EINVAL, "Invalid argument")
        return count

    monkeypatch.setattr(os, "preadv", preadv)


def test_an_image_past_the_cache_of_a_coarse_disk_is_refused(image, monkeypatch) -> None:
    _takes_multiples_of(4096, monkeypatch)
    fd, path = image
    with pytest.raises(HostError, match=r"blocks of 4096 bytes") as raised:
        block.sector_size(fd, path, direct=True)
    assert path in str(raised.value)
    assert "leave direct out" in raised.value.hint
    assert block.sector_size(fd, path, direct=False) == 512


def test_an_image_on_an_ordinary_disk_has_sectors_of_512(image, monkeypatch) -> None:
    _takes_multiples_of(512, monkeypatch)
    assert block.sector_size(*image, direct=True) == 512


def test_an_image_that_cannot_be_read_says_so_and_is_not_called_coarse(image, monkeypatch) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(HostError, match="cannot be read"):
        block.sector_size(*image, direct=True)


def test_a_disk_of_the_host_has_the_sectors_that_it_says(image, monkeypatch) -> None:
    monkeypatch.setattr("stat.S_ISBLK", lambda mode: True)
    monkeypatch.setattr("fcntl.ioctl", lambda fd, request, room: struct.pack("<i", 4096))
    assert block.sector_size(*image, direct=False) == 4096


def test_row_17_a_qcow2_header_on_a_raw_disk_is_only_bytes(tmp_path: Path) -> None:
    """Device-bugs 17: a guest may have written it.  The disk is as large as the file."""
    path = tmp_path / "guest-wrote-it.img"
    path.write_bytes(struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 40).ljust(1 << 20, b"\0"))
    options = {"path": {"text": "x", "resolved": str(path)}, "format": "raw"}
    claim = BackendClaim("disks.root", "block", options)
    opened = block.open_host(claim, SimpleNamespace(engine=SimpleNamespace(name="kvm")))  # type: ignore[arg-type]
    assert opened.values["disks.root"]["capacity"] == 1 << 20
    assert (opened.helpers, list(opened.fds)) == ((), ["disks.root"])
    opened.close()
