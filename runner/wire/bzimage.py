"""The bzImage setup header: what a Linux kernel says about itself.

Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"; field
names are those of ``struct setup_header``.
"""

from __future__ import annotations

import struct

from runner.typed import NamedTuple
from runner.wire.image import Image, KernelError, take, within

HEADER_AT = 0x1F1
"""Where the setup header starts, in the file and in the zero page alike."""

XLF_KERNEL_64 = 1 << 0
LOADED_HIGH = 1 << 0
ENTRY_64 = 0x200
"""The 64-bit entry's distance from the start of the protected-mode code."""

_SECTOR = 512
_PROTOCOL_64 = 0x20C
_SYSSIZE_UNIT = 16
_PAYLOADS = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO\0", "lzo"),
    (b"\x7fELF", "none"),
)


class SetupHeader(NamedTuple):
    """The fields a loader reads; offsets in the comments are those of the file."""

    raw: bytes  # 0x1f1 up to the header's own end, to be copied into the zero page
    protocol: int  # 0x206, 0x20f is 2.15
    version: str  # what uname -r and -v will say
    code_offset: int  # file offset of the protected-mode code
    code_size: int  # bytes
    relocatable: bool  # 0x234
    kernel_alignment: int  # 0x230
    pref_address: int  # 0x258
    init_size: int  # 0x260, memory that must be free from the load address on
    initrd_addr_max: int  # 0x22c, highest byte an initramfs may occupy
    cmdline_size: int  # 0x238, longest command line without its NUL
    payload_offset: int  # file offset (0x248 counts from the protected-mode code)
    payload_size: int  # 0x24c


def is_bzimage(image: Image) -> bool:
    """Whether the boot flag and "HdrS" are where the protocol puts them."""
    return image[0x1FE:0x200] == b"\x55\xaa" and image[0x202:0x206] == b"HdrS"


def parse(image: Image) -> SetupHeader:
    """Read the setup header; the code's file range is checked against the file.

    Raises KernelError for kernels before boot protocol 2.12 (Linux 3.8) and 32-bit ones.
    """
    if not is_bzimage(image):
        raise KernelError("the kernel has no bzImage setup header")
    protocol = _number(image, 0x206, "<H")
    if protocol < _PROTOCOL_64 or not _number(image, 0x236, "<H") & XLF_KERNEL_64:
        raise KernelError(
            f"the kernel (boot protocol {protocol >> 8}.{protocol & 0xFF:02d}) has no 64-bit entry",
            hint="vmrun boots x86-64 kernels with boot protocol 2.12 or newer (Linux 3.8)",
        )
    if not _number(image, 0x211, "<B") & LOADED_HIGH:
        raise KernelError("the kernel wants to be loaded below 1 MiB (a zImage), which vmrun does not do")
    return _header(image, protocol)


def _header(image: Image, protocol: int) -> SetupHeader:
    code_offset = ((_number(image, 0x1F1, "<B") or 4) + 1) * _SECTOR
    payload_offset, payload_size = struct.unpack("<II", take(image, 0x248, 8, "the setup header"))
    pref_address, init_size = struct.unpack("<QI", take(image, 0x258, 12, "the setup header"))
    alignment, relocatable = struct.unpack("<IB", take(image, 0x230, 5, "the setup header"))
    end = 0x202 + _number(image, 0x201, "<B")
    if payload_offset + payload_size:
        within(image, code_offset + payload_offset, payload_size, "the compressed kernel")
    return SetupHeader(
        raw=take(image, HEADER_AT, end - HEADER_AT, "the setup header"),
        protocol=protocol,
        version=_version(image),
        code_offset=code_offset,
        code_size=_code_size(image, code_offset),
        relocatable=bool(relocatable),
        kernel_alignment=alignment,
        pref_address=pref_address,
        init_size=init_size,
        initrd_addr_max=_number(image, 0x22C, "<I"),
        cmdline_size=_number(image, 0x238, "<I"),
        payload_offset=code_offset + payload_offset,
        payload_size=payload_size,
    )


def _number(image: Image, offset: int, form: str) -> int:
    raw = take(image, offset, struct.calcsize(form), "the setup header")
    return int(struct.unpack(form, raw)[0])


def _code_size(image: Image, code_offset: int) -> int:
    """``syssize`` in bytes; it is rounded up to 16, so the file may end within the last unit."""
    size = _number(image, 0x1F4, "<I") * _SYSSIZE_UNIT
    missing = code_offset + size - len(image)
    if 0 < missing < _SYSSIZE_UNIT:
        size -= missing
    within(image, code_offset, size, "the protected-mode kernel")
    if size == 0:
        raise KernelError("the kernel's setup header says that there is no protected-mode code (syssize 0)")
    return size


def _version(image: Image) -> str:
    """``kernel_version`` points, less 0x200, at a NUL-terminated string in the setup sectors."""
    pointer = _number(image, 0x20E, "<H")
    if not pointer:
        return ""
    raw = image[pointer + 0x200 : pointer + 0x200 + 256].split(b"\0", 1)[0]
    return raw.decode("ascii", "replace")


def compression(image: Image, header: SetupHeader) -> str:
    """The payload's format by its magic: gzip, xz, lz4, zstd, bzip2, lzma, lzo, none or ""."""
    magic = image[header.payload_offset : header.payload_offset + 8]
    for start, name in _PAYLOADS:
        if header.payload_size and magic.startswith(start):
            return name
    return ""
