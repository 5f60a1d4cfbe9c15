"""The zero page, its memory map, and the PVH start info."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_kernels import bzimage

from runner.wire import bootparams, pvh
from runner.wire.bzimage import parse

GIB = 1 << 30


def test_zero_page_carries_what_a_loader_owes() -> None:
    """Every obligatory field sits at its offset of zero-page.rst, the kernel's own fields kept."""
    header = parse(bzimage()).raw
    page = bootparams.zero_page(
        header, e820=[(0, 0x9FC00, 1)], cmdline=0x20000, initramfs=(0x7000000, 0x123), rsdp=0xE0000
    )
    assert len(page) == 4096
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
    assert page[0x1E8] == 1
    assert page[0x1EF] == 0  # the sentinel: nonzero makes Linux discard the page
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<II", page, 0x218) == (0x7000000, 0x123)
    assert struct.unpack_from("<I", page, 0x228) == (0x20000,)
    assert struct.unpack_from("<QQI", page, 0x2D0) == (0, 0x9FC00, 1)
    assert struct.unpack_from("<I", page, 0x260) == (0x200000,)


def test_more_entries_than_the_table_has_are_no_page() -> None:
    """128 fill it (zero-page.rst); one more would lie on the fields behind it."""
    full = [(number << 12, 1 << 12, 1) for number in range(128)]
    page = bootparams.zero_page(b"", e820=full, cmdline=0, initramfs=(0, 0), rsdp=0)
    assert page[0x1E8] == 128
    with pytest.raises(AssertionError, match="overwritten"):
        bootparams.zero_page(b"", e820=[*full, (1 << 40, 1, 1)], cmdline=0, initramfs=(0, 0), rsdp=0)


def test_map_has_the_hole_and_the_high_memory() -> None:
    """RAM on both sides of the gap, low memory cut round the EBDA and ACPI area."""
    ram = [(0, 3 * GIB), (4 * GIB, GIB)]
    reserved = [(0x9FC00, 0x400), (0xE0000, 0x20000), (0xE0000000, 0x10000000)]
    assert bootparams.memory_map(ram, reserved) == (
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xA0000, 0x40000, 1),
        (0xE0000, 0x20000, 2),
        (0x100000, 3 * GIB - 0x100000, 1),
        (0xE0000000, 0x10000000, 2),
        (4 * GIB, GIB, 1),
    )


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=6)


@given(ranges, ranges)
def test_map_is_a_partition(ram: list[tuple[int, int]], reserved: list[tuple[int, int]]) -> None:
    """Each byte of RAM is usable exactly when it is not reserved, and no two entries overlap."""

    def apart(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for start, size in sorted(parts):
            if not kept or start >= kept[-1][0] + kept[-1][1]:
                kept.append((start, size))
        return kept

    ram = apart(ram)
    result = bootparams.memory_map(ram, reserved)
    seen: dict[int, int] = {}
    for start, size, kind in result:
        for byte in range(start, start + size):
            assert byte not in seen
            seen[byte] = kind
    taken = {b for start, size in reserved for b in range(start, start + size)}
    wanted = {b: 1 for start, size in ram for b in range(start, start + size)} | dict.fromkeys(taken, 2)
    assert seen == wanted


def test_pvh_start_info_points_at_its_own_parts() -> None:
    """The module list and memory map lie where the start info says, in Xen's layout."""
    at = 0x6000
    blob = pvh.start_info(
        at,
        memory=[(0, 0x9FC00, 1), (0xE0000, 0x20000, 2)],
        cmdline=0x20000,
        initramfs=(0x7000000, 99),
        rsdp=0xE0000,
    )
    magic, version, _, modules, modlist, cmdline, rsdp, memmap, count, _ = struct.unpack_from(
        "<IIIIQQQQII", blob
    )
    assert (magic, version, modules, cmdline, rsdp, count) == (0x336EC578, 1, 1, 0x20000, 0xE0000, 2)
    assert struct.unpack_from("<QQQQ", blob, modlist - at) == (0x7000000, 99, 0, 0)
    assert struct.unpack_from("<QQII", blob, memmap - at + 24) == (0xE0000, 0x20000, 2, 0)


def test_pvh_without_initramfs_has_no_module() -> None:
    """No initramfs: no module and no pointer to a list."""
    blob = pvh.start_info(0x6000, memory=[(0, 1, 1)], cmdline=1, initramfs=(0, 0), rsdp=0)
    assert struct.unpack_from("<IQ", blob, 12) == (0, 0)
