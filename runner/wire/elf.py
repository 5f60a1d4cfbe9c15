"""ELF executables as far as a kernel loader needs them: headers, segments, notes.

Source: System V ABI, chapters 4 and 5 (ELF-64 object file format); Xen's
``public/elfnote.h`` for the PVH note.  All numbers in the file are hostile.
"""

from __future__ import annotations

import struct

from runner.typed import Iterator, NamedTuple
from runner.wire.image import Image, KernelError, take, within

MAGIC = b"\x7fELF"
PT_LOAD = 1
PT_NOTE = 4
XEN_ELFNOTE_PHYS32_ENTRY = 18

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
SEGMENT_SIZE = _SEGMENT.size
"""Bytes of one program header."""

_CLASS64_LITTLE = b"\x02\x01"
_EM_X86_64 = 62
_ET_EXEC, _ET_DYN = 2, 3
_MOST_SEGMENTS = 128
_MOST_NOTE_BYTES = 1 << 20


class Segment(NamedTuple):
    """One program header; offsets and sizes in bytes, ``paddr`` guest-physical."""

    kind: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    memory_size: int
    align: int


class Elf(NamedTuple):
    """An ELF-64 x86 executable: its entry and its program headers."""

    entry: int
    segments: tuple[Segment, ...]


def parse(image: Image) -> Elf:
    """Read the headers; every segment's file range is checked against the file.

    Raises KernelError for a file that is no x86-64 executable or contradicts itself.
    """
    ident = take(image, 0, 16, "the ELF identification")
    if ident[:4] != MAGIC:
        raise KernelError("the kernel has no ELF magic")
    if ident[4:6] != _CLASS64_LITTLE:
        raise KernelError(
            "the kernel is an ELF file, but not a 64-bit little-endian one",
            hint="vmrun boots x86-64 kernels only",
        )
    header = _HEADER.unpack(take(image, 0, _HEADER.size, "the ELF header"))
    _, kind, machine, _, entry, table, _, _, _, entry_size, count, *_ = header
    if machine != _EM_X86_64 or kind not in (_ET_EXEC, _ET_DYN):
        raise KernelError(
            f"the kernel is an ELF file of type {kind} for machine {machine}, "
            f"but an x86-64 executable (type 2 or 3, machine {_EM_X86_64}) is needed"
        )
    if entry_size != _SEGMENT.size or not 0 < count <= _MOST_SEGMENTS:
        raise KernelError(
            f"the kernel's ELF header claims {count} program headers of {entry_size} bytes each"
        )
    raw = take(image, table, count * _SEGMENT.size, "the ELF program header table")
    return Elf(entry, tuple(_segments(image, raw)))


def _segments(image: Image, raw: bytes) -> Iterator[Segment]:
    for number, (kind, _, offset, vaddr, paddr, file_size, memory_size, align) in enumerate(
        _SEGMENT.iter_unpack(raw)
    ):
        if kind in (PT_LOAD, PT_NOTE):
            within(image, offset, file_size, f"ELF segment {number}")
        if kind == PT_LOAD and file_size > memory_size:
            raise KernelError(
                f"ELF segment {number} has {file_size:#x} bytes in the file "
                f"but only {memory_size:#x} bytes of memory to hold them"
            )
        yield Segment(kind, offset, vaddr, paddr, file_size, memory_size, align)


def notes(image: Image, elf: Elf) -> Iterator[tuple[bytes, int, bytes]]:
    """Each note of each PT_NOTE segment as (name without its NUL, type, descriptor)."""
    for segment in elf.segments:
        if segment.kind == PT_NOTE:
            size = min(segment.file_size, _MOST_NOTE_BYTES)
            data = take(image, segment.offset, size, "the ELF notes")
            yield from _walk_notes(data, 8 if segment.align == 8 else 4)


def _walk_notes(data: bytes, align: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Linear, at most len(data)/12 steps; a note that runs past the end ends the walk."""
    at = 0
    while at + _NOTE.size <= len(data):
        name_size, desc_size, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        desc_at = _round_up(name_at + name_size, align)
        at = _round_up(desc_at + desc_size, align)
        if desc_at + desc_size > len(data):
            return
        yield data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[desc_at : desc_at + desc_size]


def _round_up(value: int, align: int) -> int:
    return -(-value // align) * align


def pvh_entry(image: Image, elf: Elf) -> int | None:
    """The guest-physical 32-bit entry of the PVH note, or None (Xen, public/elfnote.h)."""
    for name, kind, desc in notes(image, elf):
        if name == b"Xen" and kind == XEN_ELFNOTE_PHYS32_ENTRY and len(desc) in (4, 8):
            return int.from_bytes(desc, "little")
    return None
