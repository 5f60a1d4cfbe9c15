"""The zero page: Linux's ``struct boot_params`` and its e820 map.

Source: Linux, Documentation/arch/x86/zero-page.rst and boot.rst;
arch/x86/include/uapi/asm/bootparam.h.
"""

from __future__ import annotations

import struct

from runner.typed import Sequence
from runner.wire.bzimage import HEADER_AT, LOADED_HIGH

SIZE = 4096
E820_RAM = 1
E820_RESERVED = 2
E820_MOST = 128
"""Entries of the e820 table inside the zero page."""

_E820_AT = 0x2D0
_E820 = struct.Struct("<QQI")
_ACPI_RSDP_ADDR = 0x070
_E820_ENTRIES = 0x1E8
_UNREGISTERED_LOADER = 0xFF
_CAN_USE_HEAP = 1 << 7

Range = tuple[int, int, int]
"""(start, size, e820 type): guest-physical bytes."""


def plain_header() -> bytes:
    """The setup header for a kernel that has none (an ELF vmlinux): 0x1f1 up to 0x268."""
    header = bytearray(0x268 - HEADER_AT)
    struct.pack_into("<H", header, 0x1FE - HEADER_AT, 0xAA55)
    struct.pack_into("<4sH", header, 0x202 - HEADER_AT, b"HdrS", 0x20F)
    struct.pack_into("<B", header, 0x211 - HEADER_AT, LOADED_HIGH)
    struct.pack_into("<I", header, 0x230 - HEADER_AT, 0x200000)
    return bytes(header)


def zero_page(
    header: bytes,
    *,
    e820: Sequence[Range],
    cmdline: int,
    initramfs: tuple[int, int],
    rsdp: int,
) -> bytes:
    """``boot_params`` around a setup header.

    ``cmdline`` and ``rsdp`` are guest-physical addresses below 4 GiB, ``initramfs`` is
    (address, size), both 0 for none.
    """
    page = bytearray(SIZE)
    page[HEADER_AT : HEADER_AT + len(header)] = header
    struct.pack_into("<Q", page, _ACPI_RSDP_ADDR, rsdp)
    page[0x210] = _UNREGISTERED_LOADER  # type_of_loader
    page[0x211] &= ~_CAN_USE_HEAP & 0xFF  # no real-mode heap: nothing runs in real mode
    struct.pack_into("<II", page, 0x218, *initramfs)
    struct.pack_into("<I", page, 0x228, cmdline)
    assert len(e820) <= E820_MOST, "the fields behind the table would be overwritten"
    struct.pack_into("<B", page, _E820_ENTRIES, len(e820))
    for number, entry in enumerate(e820):
        _E820.pack_into(page, _E820_AT + number * _E820.size, *entry)
    return bytes(page)


def memory_map(ram: Sequence[tuple[int, int]], reserved: Sequence[tuple[int, int]]) -> tuple[Range, ...]:
    """RAM less what is reserved, and the reserved ranges themselves, sorted by address.

    Both arguments are (start, size).  Reserved ranges may overlap each other and are merged;
    those of RAM may not.
    """
    holes = _merged(reserved)
    entries: list[Range] = [(start, end - start, E820_RESERVED) for start, end in holes]
    for start, size in ram:
        at = start
        for hole, hole_end in holes:
            if hole < start + size and hole_end > at:
                if hole > at:
                    entries.append((at, hole - at, E820_RAM))
                at = hole_end
        if at < start + size:
            entries.append((at, start + size - at, E820_RAM))
    return tuple(sorted(entries))


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) without overlaps and without empty ones, sorted."""
    merged: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        if merged and size and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], start + size))
        elif size:
            merged.append((start, start + size))
    return merged
