"""Where a kernel goes, in which state it starts, and what is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_kernels import PT_LOAD, bzimage, elf, vmlinux

from runner.firmware import entry
from runner.firmware.linux import LoadPlan, load_plan, probe
from runner.wire.image import KernelError

MIB, GIB = 1 << 20, 1 << 30
RAM = ((0, 128 * MIB),)


def plan(image: bytes, **changes: object) -> LoadPlan:
    arguments: dict[str, object] = {"initramfs_size": 0, "cmdline": b"quiet", "ram": RAM, "rsdp": 0xE0000}
    return load_plan(image, **(arguments | changes))  # type: ignore[arg-type]


def blob(result: LoadPlan, address: int) -> bytes:
    return dict(result.blobs)[address]


def test_probe_tells_both_formats() -> None:
    """A bzImage gives protocol, version and compression, an ELF its PVH entry."""
    first = probe(bzimage())
    assert (first.kind, first.protocol, first.compression) == ("bzimage", "2.15", "xz")
    assert first.version.startswith("9.9.9-tiny")
    second = probe(vmlinux())
    assert (second.kind, second.pvh_entry) == ("elf", 0x1000100)


@pytest.mark.parametrize("junk", [b"", b"#!/bin/sh\n", bytes(0x300), b"\x7fEL"])
def test_what_is_no_kernel_is_said_to_be_none(junk: bytes) -> None:
    """Anything else is "no kernel", with a hint."""
    with pytest.raises(KernelError, match="no kernel") as caught:
        probe(junk)
    assert "vmlinuz" in caught.value.hint


def test_bzimage_goes_to_its_preferred_address() -> None:
    """The protected-mode code lies at pref_address, and the CPU starts 0x200 behind in long mode."""
    result = plan(bzimage())
    (piece,) = result.pieces
    assert (piece.address, piece.file_offset) == (0x1000000, 5 * 512)
    state = result.entry
    assert (state.protocol, state.rip, state.rsi) == ("linux64", 0x1000200, entry.ZERO_PAGE_AT)
    assert state.cr0 == 0x80000011
    assert (state.cr4, state.efer, state.cs.l) == (0x20, 0x500, 1)


def test_unrelocatable_bzimage_goes_to_1_mib() -> None:
    """Without relocatable_kernel the code lies where the protocol fixed it."""
    assert plan(bzimage(relocatable=0)).pieces[0].address == MIB


def test_understated_init_size_does_not_hide_the_code() -> None:
    """The kernel ends behind its own code, whatever init_size says: the initramfs stays clear of it."""
    result = plan(bzimage(init_size=16))
    assert result.kernel_end == 0x1000000 + result.pieces[0].size


def test_vmlinux_is_loaded_by_its_physical_addresses() -> None:
    """ELF segments go to p_paddr, the rest of their memory reads as zero, entry is e_entry."""
    result = plan(vmlinux())
    assert [(p.address, p.size) for p in result.pieces] == [(0x1000000, 0x300)]
    assert result.zero == ((0x1000300, 0x4D00),)
    assert (result.entry.protocol, result.entry.rip) == ("linux64", 0x1000000)
    assert blob(result, entry.ZERO_PAGE_AT)[0x202:0x206] == b"HdrS"


def test_pvh_starts_unpaged_with_the_start_info_in_ebx() -> None:
    """PVH: protected mode, no paging, flat 32-bit segments, EBX at the magic."""
    result = plan(vmlinux(), protocol="pvh32")
    state = result.entry
    assert (state.rip, state.cr0, state.cr3, state.efer) == (0x1000100, 0x11, 0, 0)
    assert (state.cs.db, state.cs.l, state.data.limit) == (1, 0, 0xFFFFFFFF)
    assert blob(result, state.rbx)[:4] == struct.pack("<I", 0x336EC578)


def test_elf_whose_entry_is_virtual_falls_to_pvh() -> None:
    """An e_entry outside the physical segments is no 64-bit entry; PVH is taken then."""
    image = bytearray(vmlinux())
    struct.pack_into("<Q", image, 24, 0xFFFFFFFF81000000)
    assert plan(bytes(image)).entry.protocol == "pvh32"


def test_wish_for_an_entry_that_is_not_there_is_refused() -> None:
    """A bzImage has no PVH entry, and the error lists what it has."""
    with pytest.raises(KernelError, match=r"no pvh32 entry.*linux64"):
        plan(bzimage(), protocol="pvh32")


def test_gdt_holds_the_selectors_of_the_boot_protocol() -> None:
    """__BOOT_CS is 0x10 and 64-bit code, __BOOT_DS is 0x18, both flat (boot.rst)."""
    table = blob(plan(bzimage()), entry.GDT_AT)
    assert table[:16] == bytes(16)
    assert struct.unpack_from("<QQ", table, 16) == (0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    assert struct.unpack_from("<Q", table, 32) == (0x00008B0000000067,)


@pytest.mark.parametrize(("end", "directories"), [(1, 1), (GIB, 1), (GIB + 1, 2), (4 * GIB, 4)])
def test_page_tables_map_one_to_one(end: int, directories: int) -> None:
    """Walking the tables gives back each address below the end, in writable 2 MiB pages."""
    tables = entry.page_tables(end)
    assert len(tables) == (2 + directories) * 4096

    def word(address: int) -> int:
        return int(struct.unpack_from("<Q", tables, address - entry.PAGE_TABLES_AT)[0])

    for address in (0, 0x1000200, end - 1):
        level = word(entry.PAGE_TABLES_AT)
        level = word((level & ~0xFFF) + (address >> 30) * 8)
        leaf = word((level & ~0xFFF) + (address >> 21 & 511) * 8)
        assert leaf & 0xFFF == 0x83
        assert (leaf & ~0x1FFFFF) == address & ~0x1FFFFF


def test_blobs_do_not_touch_each_other() -> None:
    """Our own tables lie apart, below the EBDA, with the largest command line and page tables."""
    image = bzimage(pref_address=0xB0000000, init_size=0x10000000, cmdline_size=0xFFFF)
    ram = ((0, 3 * GIB),)
    for protocol, kernel in (("linux64", image), ("pvh32", vmlinux())):
        size = 0xFFFF if protocol == "linux64" else 2047
        spans = sorted(
            (at, at + len(data))
            for at, data in plan(kernel, cmdline=b"x" * size, ram=ram, protocol=protocol).blobs
        )
        assert all(low[1] <= high[0] for low, high in pairwise(spans))
        assert spans[-1][1] <= 0x9FC00


def test_initramfs_goes_as_high_as_allowed() -> None:
    """The initramfs ends below initrd_addr_max, or below the gap for an ELF, page-aligned."""
    ram = ((0, 3 * GIB), (4 * GIB, GIB))
    assert plan(bzimage(), initramfs_size=5000, ram=ram).initramfs_address == 2 * GIB - 8192
    assert plan(vmlinux(), initramfs_size=5000, ram=ram).initramfs_address == 3 * GIB - 8192


def test_initramfs_may_lie_below_the_kernel_when_only_there_is_room() -> None:
    """A small guest with a high kernel still has the megabytes below it."""
    image = bzimage(pref_address=100 * MIB, init_size=28 * MIB)
    assert plan(image, initramfs_size=4096).initramfs_address == 100 * MIB - 4096


def test_initramfs_that_does_not_fit_is_refused() -> None:
    """The error says how large it is and how much room there was."""
    with pytest.raises(KernelError, match=r"initramfs \(134217728 bytes\) does not fit"):
        plan(bzimage(), initramfs_size=128 * MIB)


@given(
    st.integers(1, 200 * MIB),
    st.integers(20, 120).map(lambda n: n * MIB),
    st.integers(1, 12).map(lambda n: n * MIB),
)
def test_initramfs_never_overlaps(size: int, memory: int, init_size: int) -> None:
    """Wherever it is placed: inside RAM, above 1 MiB, apart from the kernel."""
    try:
        result = plan(bzimage(init_size=init_size), initramfs_size=size, ram=((0, memory),))
    except KernelError:
        return
    low, high = result.initramfs_address, result.initramfs_address + size
    assert low % 4096 == 0
    assert MIB <= low < high <= memory
    assert high <= 0x1000000 or low >= result.kernel_end


@pytest.mark.parametrize(
    ("image", "ram"),
    [
        (bzimage(), ((0, 16 * MIB),)),
        (bzimage(init_size=0xFFFFFFFF), ((0, 3 * GIB), (4 * GIB, 8 * GIB))),
        (elf([(PT_LOAD, 1 << 40, b"a", 1)], entry=1 << 40), RAM),
        (elf([(PT_LOAD, 127 * MIB, b"a", 2 * MIB)], entry=127 * MIB), RAM),
        (elf([(PT_LOAD, 2**64 - 1, b"ab", 2)], entry=2**64 - 1), RAM),
        (elf([(PT_LOAD, 0xC0000000, b"a", 1)], entry=0xC0000000), ((0, 3 * GIB), (4 * GIB, GIB))),
        (elf([(PT_LOAD, 5 * GIB, b"a", 1)], entry=5 * GIB), ((0, 3 * GIB), (4 * GIB, 2 * GIB))),
    ],
)
def test_load_outside_ram_is_refused(image: bytes, ram: tuple[tuple[int, int], ...]) -> None:
    """Neither a kernel nor its workspace may leave one RAM region below 4 GiB (device-bugs 19)."""
    with pytest.raises(KernelError, match="not all RAM"):
        plan(image, ram=ram)


def test_kernel_in_the_first_mib_is_refused() -> None:
    """Our tables and the ACPI area are never overwritten by a kernel file (device-bugs 19)."""
    with pytest.raises(KernelError, match="first MiB"):
        plan(elf([(PT_LOAD, 0x7000, b"a", 1)], entry=0x7000))


def test_overlapping_segments_are_refused() -> None:
    """Two segments on one address are refused, since the order would decide the content."""
    image = elf([(PT_LOAD, 0x1000000, b"a" * 16, 16), (PT_LOAD, 0x1000008, b"b", 1)])
    with pytest.raises(KernelError, match="overlap"):
        plan(image)


def test_pvh_entry_outside_the_kernel_is_refused() -> None:
    """The note may not start the CPU outside what was loaded (device-bugs 19)."""
    with pytest.raises(KernelError, match="PVH entry"):
        plan(vmlinux(pvh=0x9000))


def test_cmdline_longer_than_the_kernel_takes_is_refused() -> None:
    """cmdline_size counts without the NUL: as long is fine, one more is not."""
    plan(bzimage(cmdline_size=8), cmdline=b"12345678")
    with pytest.raises(KernelError, match=r"9 bytes long.*at most 8"):
        plan(bzimage(cmdline_size=8), cmdline=b"123456789")
    with pytest.raises(KernelError, match="at most 2047"):
        plan(vmlinux(), cmdline=b"x" * 2048)


def test_cmdline_with_a_nul_is_refused() -> None:
    """A NUL would silently cut the rest off."""
    with pytest.raises(KernelError, match="NUL"):
        plan(bzimage(), cmdline=b"a\0b")


def test_map_keeps_acpi_and_ecam_from_the_guest() -> None:
    """The EBDA, the ACPI area and what the caller reserves are type 2 in the zero page."""
    page = blob(plan(bzimage(), reserved=((0xE0000000, 0x10000000),)), entry.ZERO_PAGE_AT)
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert (0xE0000, 0x20000, 2) in entries
    assert (0xE0000000, 0x10000000, 2) in entries
    assert (0x100000, 127 * MIB, 1) in entries
