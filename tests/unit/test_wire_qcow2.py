"""The head of a qcow2 image: what is refused before a program that trusts it sees it (device-bugs 18)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.wire import qcow2

SIZE = 8 << 30
VERSION, CLUSTER_BITS, DISK, CRYPT = (4, ">I"), (20, ">I"), (24, ">Q"), (32, ">I")
L1_ENTRIES, L1_AT, REFCOUNTS_AT, REFCOUNT_CLUSTERS = (36, ">I"), (40, ">Q"), (48, ">Q"), (56, ">I")
SNAPSHOTS, SNAPSHOTS_AT, INCOMPATIBLE = (60, ">I"), (64, ">Q"), (72, ">Q")


def changed(*changes: tuple[tuple[int, str], int]) -> tuple[bytes, int]:
    """An image of ours with these fields of its head set otherwise, and its length."""
    image = bytearray(qcow2.empty(SIZE))
    for (offset, kind), value in changes:
        struct.pack_into(kind, image, offset, value)
    return bytes(image), len(image)


def verdict(image: bytes, length: int) -> str:
    """What is said against it, or ""."""
    try:
        qcow2.check(qcow2.parse(image[: qcow2.HEADER_SIZE]), length)
    except ValueError as error:
        return str(error)
    return ""


def test_our_own_empty_image_has_nothing_against_it() -> None:
    assert verdict(*changed()) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(VERSION, 4)], "version 4"),
        ([(CLUSTER_BITS, 8)], "clusters"),
        ([(CLUSTER_BITS, 40)], "clusters"),
        ([(DISK, 0)], "0 bytes"),
        ([(DISK, 513)], "513 bytes"),
        ([(CRYPT, 1)], "encrypted"),
        ([(INCOMPATIBLE, 2)], "corrupt"),
        ([(INCOMPATIBLE, 1 << 40)], "features"),
        ([(L1_ENTRIES, 1)], "too short"),
        ([(L1_ENTRIES, 1 << 30)], "L1 table would have"),
        ([(L1_ENTRIES, 1 << 20)], "L1 table would lie"),
        ([(L1_AT, 0)], "L1 table would lie"),
        ([(L1_AT, 3 << 16 | 512)], "L1 table would lie"),
        ([(L1_AT, 1 << 62)], "L1 table would lie"),
        ([(REFCOUNTS_AT, 1 << 40)], "refcount table would lie"),
        ([(REFCOUNT_CLUSTERS, 0)], "refcount table would lie"),
        ([(REFCOUNT_CLUSTERS, 129)], "refcount table would have"),
        ([(SNAPSHOTS, 1), (SNAPSHOTS_AT, 1 << 40)], "snapshot table would lie"),
        ([(SNAPSHOTS, 65537), (SNAPSHOTS_AT, 1 << 16)], "snapshot table would have"),
    ],
)
def test_each_field_that_could_lead_astray_is_checked(
    changes: list[tuple[tuple[int, str], int]], words: str
) -> None:
    assert words in verdict(*changed(*changes))


def test_references_out_of_the_image_are_told() -> None:
    """A backing file by the place of its name, a data file by its feature bit."""
    image, _ = changed(((8, ">Q"), 512), ((16, ">I"), 9))
    assert qcow2.parse(image).backing == (512, 9)
    image, _ = changed((INCOMPATIBLE, 1 << 2))
    assert qcow2.parse(image).external_data
    image, _ = changed(((8, ">Q"), 512), ((16, ">I"), 1024))
    assert "1024 bytes" in verdict(image, len(image))


@given(
    st.binary(max_size=200).map(lambda tail: (qcow2.MAGIC + b"\0\0\0\3" + tail)[:200]),
    st.integers(0, 1 << 50),
)
def test_any_bytes_are_an_image_or_a_value_error(head: bytes, length: int) -> None:
    verdict(head, length)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 1 << 33).map(lambda sectors: sectors * 512))
def test_an_overlay_of_any_size_is_sound_for_qemu(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    """qemu-img finds no error in it, the size that was asked for, and all of it unallocated."""
    path = tmp_path_factory.getbasetemp() / "overlay.qcow2"
    path.write_bytes(qcow2.empty(size))
    said = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", str(path)], check=True, capture_output=True, text=True
    )
    assert "No errors" in said.stdout
    info = subprocess.run(["qemu-img", "info", str(path)], check=True, capture_output=True, text=True)
    assert f"({size} bytes)" in info.stdout
    assert verdict(Path(path).read_bytes(), path.stat().st_size) == ""


@pytest.mark.parametrize(
    "options", [(), ("-o", "compat=0.10"), ("-o", "cluster_size=512"), ("-o", "extended_l2=on")]
)
def test_what_qemu_makes_passes(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "100M"], check=True)
    assert verdict(path.read_bytes(), path.stat().st_size) == ""
