"""Loading a Linux kernel: where each byte goes and in which state the first CPU starts.

:func:`load_plan` only decides; the engine reads the pieces straight from the kernel file
into guest memory.  Low memory is laid out in :mod:`runner.firmware.entry`; the kernel
lies where it was linked to run (or prefers to), the initramfs as high as allowed.
"""

from __future__ import annotations

from itertools import pairwise

from runner.firmware import entry
from runner.firmware.entry import CpuState
from runner.typed import Iterator, NamedTuple, Sequence
from runner.wire import bootparams, bzimage, elf, pvh
from runner.wire.image import Image, KernelError

HIGH_MEMORY = 0x100000
"""Below lie our own tables, the EBDA, the ISA hole and the ACPI area: no kernel goes there."""

PLATFORM_RESERVED = ((0x9FC00, 0x400), (0xE0000, 0x20000))
"""Never RAM for the guest: what a PC calls EBDA, and the area of the ACPI tables."""

PAGE = 4096
_GAP = 1 << 32
_VMLINUX_CMDLINE_SIZE = 2047  # COMMAND_LINE_SIZE of x86, less its NUL


class Piece(NamedTuple):
    """Bytes of the kernel file that belong at a guest-physical address."""

    address: int
    file_offset: int
    size: int


class LoadPlan(NamedTuple):
    """Everything to be put into guest memory before the first instruction."""

    pieces: tuple[Piece, ...]  # of the kernel file
    blobs: tuple[tuple[int, bytes], ...]  # (address, bytes) made by us
    zero: tuple[tuple[int, int], ...]  # (address, size) that must read as zero
    initramfs_address: int  # 0 when there is none
    kernel_end: int  # first byte behind what the kernel needs to unpack and run
    entry: CpuState


class KernelInfo(NamedTuple):
    """What a kernel file is, for ``vmrun check`` and the plan."""

    kind: str  # "bzimage" | "elf"
    protocol: str  # "2.15" for a bzImage, "" for an ELF
    pvh_entry: int | None
    version: str  # "" when the file does not say
    compression: str  # of a bzImage: gzip, xz, lz4, zstd, bzip2, lzma, lzo, none; else ""


class _Kernel(NamedTuple):
    """The two formats, reduced to what loading needs."""

    pieces: tuple[Piece, ...]
    zero: tuple[tuple[int, int], ...]
    start: int
    end: int
    entry_64: int | None
    entry_pvh: int | None
    header: bytes
    initrd_limit: int  # first address an initramfs must not reach
    cmdline_size: int


def probe(image: Image) -> KernelInfo:
    """Say what a kernel file is; raises KernelError when it is none that vmrun can boot.

    ``image`` is the whole file (an mmap costs only the pages that are looked at), since what
    the headers claim is checked against its length.
    """
    if bzimage.is_bzimage(image):
        header = bzimage.parse(image)
        protocol = f"{header.protocol >> 8}.{header.protocol & 0xFF}"
        return KernelInfo("bzimage", protocol, None, header.version, bzimage.compression(image, header))
    if image[:4] == elf.MAGIC:
        return KernelInfo("elf", "", elf.pvh_entry(image, elf.parse(image)), "", "")
    raise KernelError(
        'no kernel: neither a bzImage ("HdrS" at 0x202) nor an ELF vmlinux (its magic at 0)',
        hint="name a vmlinuz or vmlinux file, such as /boot/vmlinuz-$(uname -r)",
    )


def load_plan(
    image: Image,
    *,
    initramfs_size: int,
    cmdline: bytes,
    ram: Sequence[tuple[int, int]],
    rsdp: int,
    reserved: Sequence[tuple[int, int]] = (),
    protocol: str | None = None,
) -> LoadPlan:
    """Decide the loading of ``image`` (bzImage or ELF) into a machine with ``ram``.

    ``ram`` and ``reserved`` are (start, size) in guest-physical bytes; ``reserved`` (ECAM,
    for one) comes on top of PLATFORM_RESERVED.  ``cmdline`` has no NUL.  ``protocol`` None
    takes the 64-bit entry where there is one, else PVH.  Raises KernelError, which says
    the check that failed.
    """
    kernel = _bzimage(image) if probe(image).kind == "bzimage" else _elf(image)
    _check_cmdline(cmdline, kernel.cmdline_size)
    _check_inside_ram(kernel, ram)
    initramfs = (_place_initramfs(initramfs_size, kernel, ram), initramfs_size) if initramfs_size else (0, 0)
    memory = bootparams.memory_map(ram, (*PLATFORM_RESERVED, *reserved))
    if _protocol(kernel, protocol) == "linux64":
        assert kernel.entry_64 is not None
        state, blobs = entry.linux64(kernel.entry_64, kernel.end)
        page = bootparams.zero_page(
            kernel.header, e820=memory, cmdline=entry.CMDLINE_AT, initramfs=initramfs, rsdp=rsdp
        )
        blobs += ((entry.ZERO_PAGE_AT, page),)
    else:
        assert kernel.entry_pvh is not None
        state, blobs = entry.pvh32(kernel.entry_pvh)
        info = pvh.start_info(
            entry.START_INFO_AT, memory=memory, cmdline=entry.CMDLINE_AT, initramfs=initramfs, rsdp=rsdp
        )
        blobs += ((entry.START_INFO_AT, info),)
    blobs += ((entry.CMDLINE_AT, cmdline + b"\0"),)
    return LoadPlan(kernel.pieces, blobs, kernel.zero, initramfs[0], kernel.end, state)


def _protocol(kernel: _Kernel, wanted: str | None) -> str:
    """``wanted`` if the kernel has it; without a wish the 64-bit entry goes first."""
    offered = [
        name for name, at in (("linux64", kernel.entry_64), ("pvh32", kernel.entry_pvh)) if at is not None
    ]
    if wanted in offered:
        return wanted
    if wanted is None and offered:
        return offered[0]
    raise KernelError(
        f"the kernel has no {wanted or 'known'} entry point (it offers: {', '.join(offered) or 'none'})",
        hint="take the bzImage, or build the kernel with CONFIG_PVH=y",
    )


def _bzimage(image: Image) -> _Kernel:
    header = bzimage.parse(image)
    load = header.pref_address if header.relocatable else HIGH_MEMORY
    return _Kernel(
        pieces=(Piece(load, header.code_offset, header.code_size),),
        zero=(),
        start=load,
        end=load + max(header.init_size, header.code_size),
        entry_64=load + bzimage.ENTRY_64,
        entry_pvh=None,
        header=header.raw,
        initrd_limit=min(header.initrd_addr_max + 1, _GAP),
        cmdline_size=header.cmdline_size,
    )


def _elf(image: Image) -> _Kernel:
    parsed = elf.parse(image)
    loads = sorted((s for s in parsed.segments if s.kind == elf.PT_LOAD and s.memory_size), key=_paddr)
    if not loads:
        raise KernelError("the ELF kernel has no segment to load")
    for low, high in pairwise(loads):
        if low.paddr + low.memory_size > high.paddr:
            raise KernelError(
                f"the ELF segments at {low.paddr:#x} ({low.memory_size:#x} bytes) and {high.paddr:#x} overlap"
            )
    return _Kernel(
        pieces=tuple(Piece(s.paddr, s.offset, s.file_size) for s in loads if s.file_size),
        zero=tuple(_zero_fill(loads)),
        start=loads[0].paddr,
        end=max(s.paddr + s.memory_size for s in loads),
        entry_64=parsed.entry if _holds(loads, parsed.entry) else None,
        entry_pvh=_checked_pvh(image, parsed, loads),
        header=bootparams.plain_header(),
        initrd_limit=_GAP,
        cmdline_size=_VMLINUX_CMDLINE_SIZE,
    )


def _paddr(segment: elf.Segment) -> int:
    return segment.paddr


def _holds(loads: Sequence[elf.Segment], address: int) -> bool:
    return any(s.paddr <= address < s.paddr + s.file_size for s in loads)


def _checked_pvh(image: Image, parsed: elf.Elf, loads: Sequence[elf.Segment]) -> int | None:
    at = elf.pvh_entry(image, parsed)
    if at is not None and not _holds(loads, at):
        raise KernelError(f"the kernel's PVH entry {at:#x} lies in none of its segments")
    return at


def _zero_fill(loads: Sequence[elf.Segment]) -> Iterator[tuple[int, int]]:
    for segment in loads:
        if segment.memory_size > segment.file_size:
            yield segment.paddr + segment.file_size, segment.memory_size - segment.file_size


def _check_cmdline(cmdline: bytes, most: int) -> None:
    if b"\0" in cmdline:
        raise KernelError("the command line has a NUL byte in it")
    if len(cmdline) > most:
        raise KernelError(
            f"the command line is {len(cmdline)} bytes long, but this kernel takes at most {most}",
            hint="shorten `cmdline`",
        )


def _check_inside_ram(kernel: _Kernel, ram: Sequence[tuple[int, int]]) -> None:
    """The kernel with all it needs lies in one RAM region below 4 GiB and not in the first MiB."""
    if kernel.start < HIGH_MEMORY:
        raise KernelError(
            f"the kernel wants to be loaded at {kernel.start:#x}, but the first MiB belongs to boot data"
        )
    for start, size in ram:
        if start <= kernel.start and kernel.end <= min(start + size, _GAP):
            return
    ranges = ", ".join(f"{start:#x}-{start + size - 1:#x}" for start, size in ram)
    raise KernelError(
        f"the kernel needs guest memory {kernel.start:#x}-{kernel.end - 1:#x}, which is not all RAM "
        f"(RAM is {ranges})",
        hint=f"give the guest more memory: at least {-(-kernel.end >> 20)} MiB for this kernel alone",
    )


def _place_initramfs(size: int, kernel: _Kernel, ram: Sequence[tuple[int, int]]) -> int:
    """The highest page-aligned place behind or below the kernel, above 1 MiB, below the limit."""
    best = room = 0
    for start, end in _free(kernel, ram):
        room = max(room, end - start)
        at = (end - size) // PAGE * PAGE
        if at >= start:
            best = max(best, at)
    if best:
        return best
    raise KernelError(
        f"the initramfs ({size} bytes) does not fit into guest memory: the largest free range "
        f"below {kernel.initrd_limit:#x}, beside the kernel at {kernel.start:#x}-{kernel.end - 1:#x}, "
        f"has {room} bytes",
        hint="give the guest more memory",
    )


def _free(kernel: _Kernel, ram: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, size in ram:
        low, high = max(start, HIGH_MEMORY), min(start + size, kernel.initrd_limit)
        for part_low, part_high in ((low, min(high, kernel.start)), (max(low, kernel.end), high)):
            if part_low < part_high:
                yield part_low, part_high
