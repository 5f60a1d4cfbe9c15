"""ELF headers, segments and notes of hostile kernel files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_kernels import PT_LOAD, PT_NOTE, elf, note, pvh_note, vmlinux

from runner.wire import elf as elf_wire
from runner.wire.image import KernelError


def test_entry_and_segments_are_read() -> None:
    """Entry, addresses and sizes come out as they were put in."""
    parsed = elf_wire.parse(vmlinux())
    assert parsed.entry == 0x1000000
    load = parsed.segments[0]
    assert (load.kind, load.paddr, load.file_size, load.memory_size) == (PT_LOAD, 0x1000000, 0x300, 0x5000)


def test_pvh_note_is_found_behind_other_notes() -> None:
    """The Xen note is found though a GNU note of odd size stands before it."""
    image = vmlinux(pvh=0x1234567)
    assert elf_wire.pvh_entry(image, elf_wire.parse(image)) == 0x1234567


def test_foreign_note_of_the_same_type_is_not_pvh() -> None:
    """Type 18 under another name than Xen says nothing about PVH."""
    image = elf([(PT_NOTE, 0, note(b"Abc", 18, bytes(8)), 0)])
    assert elf_wire.pvh_entry(image, elf_wire.parse(image)) is None


def test_note_cut_off_is_no_note() -> None:
    """A note whose descriptor runs past the segment ends the walk instead of being read short."""
    image = elf([(PT_NOTE, 0, pvh_note(0x1000000)[:-4], 0)])
    assert list(elf_wire.notes(image, elf_wire.parse(image))) == []


def test_segment_past_the_end_of_the_file_is_refused() -> None:
    """A segment whose offset + size leaves the file is refused and named (device-bugs 19)."""
    image = vmlinux(pvh=None)[:-1]
    with pytest.raises(KernelError, match=r"ELF segment 0 .* file ends at"):
        elf_wire.parse(image)


def test_segment_offset_that_wraps_64_bits_is_refused() -> None:
    """An offset near 2^64 does not wrap round into the file (device-bugs 19)."""
    image = bytearray(vmlinux(pvh=None))
    struct.pack_into("<Q", image, 64 + 8, 2**64 - 0x100)
    with pytest.raises(KernelError, match="ELF segment 0"):
        elf_wire.parse(bytes(image))


def test_more_file_than_memory_is_refused() -> None:
    """A segment with more bytes in the file than in memory contradicts itself."""
    with pytest.raises(KernelError, match="0x10 bytes in the file but only 0x8"):
        elf_wire.parse(elf([(PT_LOAD, 0x1000000, bytes(16), 8)]))


def test_program_header_table_past_the_end_is_refused() -> None:
    """A program header table outside the file is refused (device-bugs 19)."""
    image = bytearray(vmlinux())
    struct.pack_into("<Q", image, 32, 1 << 40)
    with pytest.raises(KernelError, match="program header table"):
        elf_wire.parse(bytes(image))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (elf([(PT_LOAD, 0x1000000, b"a", 1)], machine=183), "machine 183"),
        (elf([(PT_LOAD, 0x1000000, b"a", 1)], ident=b"\x7fELF\x01\x01"), "not a 64-bit"),
        (elf([]), "0 program headers"),
        (b"\x7fELF", "identification"),
    ],
)
def test_what_is_no_x86_64_executable_is_refused(image: bytes, says: str) -> None:
    """Each reason for refusal is told apart."""
    with pytest.raises(KernelError, match=says):
        elf_wire.parse(image)


@given(st.binary(max_size=200))
def test_any_notes_end(data: bytes) -> None:
    """Walking arbitrary note bytes terminates and yields only what lies inside."""
    image = elf([(PT_NOTE, 0, pvh_note(1) + data, 0)])
    found = list(elf_wire.notes(image, elf_wire.parse(image)))
    assert found[0] == (b"Xen", 18, struct.pack("<Q", 1))
    assert sum(len(desc) for _, _, desc in found) <= len(data) + 8


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_headers_raise_kernel_error_only(at: int, junk: bytes) -> None:
    """Any damage either goes unnoticed or is a KernelError, never another exception."""
    image = bytearray(vmlinux())
    image[at : at + len(junk)] = junk
    try:
        parsed = elf_wire.parse(bytes(image))
        elf_wire.pvh_entry(bytes(image), parsed)
    except KernelError:
        return
    for segment in parsed.segments:
        if segment.kind in (PT_LOAD, PT_NOTE):
            assert segment.offset + segment.file_size <= len(image)
