"""The bzImage setup header of hostile kernel files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_kernels import VERSION, bzimage

from runner.wire import bzimage as wire
from runner.wire.image import KernelError


def test_fields_are_read() -> None:
    """Each field a loader needs comes out as it was put in."""
    image = bzimage(b"\x1f\x8b" + bytes(30), init_size=0x345000)
    header = wire.parse(image)
    assert header.version.encode() == VERSION
    assert header.code_offset == 5 * 512
    assert header.code_offset + header.code_size == len(image)
    assert header.init_size == 0x345000
    assert header.raw == image[0x1F1:0x268]
    assert image[header.payload_offset :][: header.payload_size] == b"\x1f\x8b" + bytes(30)
    assert wire.compression(image, header) == "gzip"


def test_zero_setup_sectors_mean_four() -> None:
    """A setup_sects of 0 is 4 (boot.rst, "setup_sects")."""
    image = bytearray(bzimage())
    image[0x1F1] = 0
    assert wire.parse(bytes(image)).code_offset == 5 * 512


def test_cut_file_is_refused() -> None:
    """A file that ends before its protected-mode code does is refused (device-bugs 19)."""
    image = bytearray(bzimage())
    struct.pack_into("<II", image, 0x248, 0, 0)  # no payload that would be missed first
    with pytest.raises(KernelError, match=r"protected-mode kernel .* file ends at"):
        wire.parse(bytes(image[:-16]))


def test_syssize_rounded_up_to_its_unit_is_no_damage() -> None:
    """syssize counts units of 16 bytes, and the file may end inside the last one."""
    image = bzimage()
    assert wire.parse(image[:-3]).code_size == wire.parse(image).code_size - 3


def test_payload_past_the_end_is_refused() -> None:
    """A payload_length that leaves the file is refused (device-bugs 19)."""
    image = bytearray(bzimage())
    struct.pack_into("<I", image, 0x24C, 0xFFFFFFFF)
    with pytest.raises(KernelError, match="compressed kernel"):
        wire.parse(bytes(image))


def test_kernel_without_code_is_refused() -> None:
    """A syssize of 0 leaves nothing to start."""
    image = bytearray(bzimage())
    struct.pack_into("<I", image, 0x1F4, 0)
    with pytest.raises(KernelError, match="syssize 0"):
        wire.parse(bytes(image))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (bzimage(protocol=0x209), r"2\.09.*no 64-bit entry"),
        (bzimage(xloadflags=0), "no 64-bit entry"),
        (bzimage(loadflags=0), "below 1 MiB"),
        (bytes(0x300), "no bzImage setup header"),
    ],
)
def test_kernels_without_what_we_need_are_refused(image: bytes, says: str) -> None:
    """Old, 32-bit and low-loaded kernels are refused, each with its reason."""
    with pytest.raises(KernelError, match=says):
        wire.parse(image)


@given(st.integers(0x1F1, 0x268), st.binary(min_size=1, max_size=8))
def test_damaged_headers_raise_kernel_error_only(at: int, junk: bytes) -> None:
    """Any damage either goes unnoticed or is a KernelError, and the code stays inside the file."""
    image = bytearray(bzimage())
    image[at : at + len(junk)] = junk
    try:
        header = wire.parse(bytes(image))
    except KernelError:
        return
    assert header.code_offset + header.code_size <= len(image)
