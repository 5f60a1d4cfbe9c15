"""The state a vCPU starts in, and the tables in low memory that this state points at.

Sources: Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; Xen,
docs/misc/pvh.pandoc; Intel SDM volume 3, 3.4.5 (descriptors) and 4.5 (4-level paging).
"""

from __future__ import annotations

import struct

from runner.typed import NamedTuple

GDT_AT = 0x500
START_INFO_AT = 0x6000
ZERO_PAGE_AT = 0x7000
PAGE_TABLES_AT = 0x9000
CMDLINE_AT = 0x20000
STACK_TOP = 0x8FF0
"""Nobody owes the kernel a stack; a page of our own keeps a stray push harmless."""

ACPI_AREA, ACPI_AREA_SIZE = 0xE0000, 0x20000
"""Where :mod:`runner.firmware.acpi` puts its tables, the RSDP first."""

_CODE_SELECTOR, _DATA_SELECTOR, _TASK_SELECTOR = 0x10, 0x18, 0x20
_CR0_PE, _CR0_ET, _CR0_PG = 1 << 0, 1 << 4, 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10
_PRESENT_WRITABLE, _LARGE = 0x3, 0x80
_CODE_TYPE, _DATA_TYPE, _BUSY_TASK_TYPE = 0xB, 0x3, 0xB
_GIB = 1 << 30


class SegmentRegister(NamedTuple):
    """One segment register with its hidden part, as ``struct kvm_segment`` has it."""

    selector: int
    base: int
    limit: int  # bytes - 1, after granularity
    type: int
    dpl: int = 0
    present: int = 1
    s: int = 1  # 1: code or data, 0: system
    db: int = 0
    l: int = 0  # noqa: E741 (the manual's name)
    g: int = 0


class CpuState(NamedTuple):
    """Registers of the boot processor; those not named are 0."""

    protocol: str  # "linux64" | "pvh32"
    rip: int
    rsp: int
    rsi: int
    rbx: int
    rflags: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    cs: SegmentRegister
    data: SegmentRegister  # ds, es, fs, gs, ss
    tr: SegmentRegister
    gdt_base: int
    gdt_limit: int


def gdt(long_mode: bool) -> bytes:
    """Two null descriptors, flat code at 0x10, flat data at 0x18, a task at 0x20."""
    code, data, task = _segments(long_mode)
    low = b"".join(_descriptor(part) for part in (code, data, task))
    return bytes(16) + low + bytes(8)


def linux64(rip: int, table_end: int) -> tuple[CpuState, tuple[tuple[int, bytes], ...]]:
    """State and (address, bytes) blobs for the 64-bit entry; RSI points at the zero page.

    Everything below ``table_end`` (at most 4 GiB) is mapped one to one with 2 MiB pages.
    """
    state = _state(True, "linux64", rip)._replace(
        rsi=ZERO_PAGE_AT,
        cr0=_CR0_PE | _CR0_ET | _CR0_PG,
        cr3=PAGE_TABLES_AT,
        cr4=_CR4_PAE,
        efer=_EFER_LME | _EFER_LMA,
    )
    return state, ((GDT_AT, gdt(True)), (PAGE_TABLES_AT, page_tables(table_end)))


def pvh32(rip: int) -> tuple[CpuState, tuple[tuple[int, bytes], ...]]:
    """State and blobs for the PVH entry: 32-bit, unpaged, EBX points at the start info."""
    state = _state(False, "pvh32", rip)._replace(rbx=START_INFO_AT, cr0=_CR0_PE | _CR0_ET)
    return state, ((GDT_AT, gdt(False)),)


def page_tables(end: int) -> bytes:
    """PML4, PDPT and one page directory for each GiB below ``end``, as they lie at PAGE_TABLES_AT."""
    directories = max(1, -(-end // _GIB))
    pml4 = struct.pack("<Q", PAGE_TABLES_AT + 0x1000 | _PRESENT_WRITABLE)
    first = PAGE_TABLES_AT + 0x2000 | _PRESENT_WRITABLE
    pdpt = struct.pack(f"<{directories}Q", *(first + (n << 12) for n in range(directories)))
    flags = _PRESENT_WRITABLE | _LARGE
    leaves = range(flags, (directories * _GIB) | flags, 2 << 20)
    return pml4.ljust(4096, b"\0") + pdpt.ljust(4096, b"\0") + struct.pack(f"<{len(leaves)}Q", *leaves)


def _segments(long_mode: bool) -> tuple[SegmentRegister, SegmentRegister, SegmentRegister]:
    flat = SegmentRegister(_DATA_SELECTOR, 0, 0xFFFFFFFF, _DATA_TYPE, db=1, g=1)
    code = flat._replace(
        selector=_CODE_SELECTOR, type=_CODE_TYPE, l=1 if long_mode else 0, db=0 if long_mode else 1
    )
    task = SegmentRegister(_TASK_SELECTOR, 0, 0x67, _BUSY_TASK_TYPE, s=0)
    return code, flat, task


def _state(long_mode: bool, protocol: str, rip: int) -> CpuState:
    code, data, task = _segments(long_mode)
    return CpuState(
        protocol,
        rip=rip,
        rsp=STACK_TOP,
        rsi=0,
        rbx=0,
        rflags=2,  # bit 1 is always set; interrupts are off
        cr0=0,
        cr3=0,
        cr4=0,
        efer=0,
        cs=code,
        data=data,
        tr=task,
        gdt_base=GDT_AT,
        gdt_limit=len(gdt(long_mode)) - 1,
    )


def _descriptor(part: SegmentRegister) -> bytes:
    limit = part.limit >> 12 if part.g else part.limit
    access = part.type | part.s << 4 | part.dpl << 5 | part.present << 7
    flags = part.l << 1 | part.db << 2 | part.g << 3
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        part.base & 0xFFFF,
        part.base >> 16 & 0xFF,
        access,
        limit >> 16 & 0xF | flags << 4,
        part.base >> 24 & 0xFF,
    )
