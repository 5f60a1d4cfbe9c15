"""What a definition says of a disk is what QEMU does with it; the images are qemu-img's."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from runner.errors import HostError
from runner.wire.qcow2 import HEADER_SIZE, parse
from tests.kvm import tiny
from tests.qemu.conftest import node

SIZE = 1 << 20


def disk(path, **options):
    place = {"text": str(path), "resolved": str(path)}
    each = node("virtio_blk", "root", "disks", {"path": place, "format": "raw", **options})
    return each._replace(claim=each.claim._replace(pci=each.claim.pci._replace(slot="00:05.0")))


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def qcow2(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-f", "qcow2", path, SIZE)
    return path


@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"ephemeral": True}, {"cache": "writethrough"}])
def test_qemu_accepts_a_raw_disk_in_each_way(boot, raw, options):
    run = boot(tiny.exit_with(1), disk(raw, **options))
    assert run.end()["reason"] == "exit", run.events


@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"ephemeral": True}])
def test_qemu_accepts_a_qcow2_disk_in_each_way(boot, qcow2, options):
    run = boot(tiny.exit_with(1), disk(qcow2, format="qcow2", **options))
    assert run.end()["reason"] == "exit", run.events
    assert not run.told("log"), run.told("log")


def test_an_overlay_is_where_it_is_wanted(boot, raw, tmp_path, monkeypatch):
    """VMRUN_OVERLAY_DIR counts on each engine; QEMU's file has no name any more."""
    folder = tmp_path / "overlays"
    folder.mkdir()
    monkeypatch.setenv("VMRUN_OVERLAY_DIR", str(folder))
    run = boot(tiny.say(b"x") + tiny.SPIN, disk(raw, ephemeral=True))
    run.until(lambda: run.output == b"x")
    opened = [os.readlink(link) for link in Path(f"/proc/{run.process.pid}/fd").iterdir()]
    assert [place for place in opened if place.startswith(f"{folder}/")]


def test_an_image_that_rests_on_another_file_is_refused(boot, tmp_path, raw):
    """device-bugs 18: CVE-2024-4467 and its kin."""
    above = tmp_path / "above.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", raw, "-F", "raw", above)
    with pytest.raises(HostError, match=r"a\.img"):
        boot(tiny.exit_with(1), disk(above, format="qcow2"))


def test_an_image_that_keeps_its_data_elsewhere_is_refused(boot, tmp_path):
    image = tmp_path / "head.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", image, SIZE)
    with pytest.raises(HostError, match="keeps its data"):
        boot(tiny.exit_with(1), disk(image, format="qcow2"))


def test_an_image_that_is_stated_to_be_qcow2_and_is_not_is_refused(boot, raw):
    with pytest.raises(HostError, match="stated to be qcow2"):
        boot(tiny.exit_with(1), disk(raw, format="qcow2"))


def test_a_qcow2_header_on_a_raw_disk_is_only_bytes(boot, qcow2):
    """device-bugs 17: a guest may have written it; QEMU neither looks nor warns."""
    run = boot(tiny.exit_with(1), disk(qcow2, format="raw"))
    assert run.end()["reason"] == "exit"
    assert not run.told("log")


def test_the_head_of_an_image_of_qemu_img_is_read(qcow2):
    head = parse(qcow2.read_bytes()[:HEADER_SIZE])
    assert (head.version, head.size, head.backing, head.external_data) == (3, SIZE, None, False)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (4, b"\0\0\0\4", "version 4"),
        (8, struct.pack(">QI", 512, 1024), "1024 bytes"),
        (0, b"QFI\0", "signature"),
    ],
)
def test_a_header_that_lies_is_told_in_words(qcow2, at, value, words):
    head = bytearray(qcow2.read_bytes()[:HEADER_SIZE])
    head[at : at + len(value)] = value
    with pytest.raises(ValueError, match=words):
        parse(bytes(head))


def test_a_header_that_is_cut_off_is_told_in_words(qcow2):
    head = qcow2.read_bytes()[:HEADER_SIZE]
    for length in (0, 4, 71, HEADER_SIZE - 1):
        with pytest.raises(ValueError, match=r"signature|cut off"):
            parse(head[:length])
