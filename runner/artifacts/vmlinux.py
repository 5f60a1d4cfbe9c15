"""Taking the compressed vmlinux out of a bzImage, so that the guest need not unpack itself.

Source: Linux, Documentation/arch/x86/boot.rst, ``payload_offset`` and ``payload_length``;
arch/x86/boot/compressed/Makefile: the payload is an ELF, with relocations behind it where
CONFIG_X86_NEED_RELOCS is set, and its last four bytes are the unpacked size.  That size
bounds what is unpacked.
"""

from __future__ import annotations

import struct

from runner.errors import HostError
from runner.typed import Callable, Protocol
from runner.wire import bzimage, elf

LARGEST = 1 << 30
"""No kernel unpacks to more than 1 GiB: a larger claim is not believed."""

_LZ4_LEGACY_MAGIC = 0x184C2102
_LZ4_LEGACY_BLOCK = 8 << 20
_ZSTD_WINDOW = 1 << 27  # what the kernel's own decompressor takes at most (lib/decompress_unzstd.c)


class VmlinuxError(ValueError):
    """There is no vmlinux to be had from this bzImage; it can still be booted as given."""


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF inside a bzImage, less what a loader does not need (:func:`trimmed`).

    Raises VmlinuxError for a payload that is damaged or of an unknown format, HostError where
    a decompression library is not installed, KernelError (:mod:`runner.wire.image`) where the
    file is no sound bzImage at all.
    """
    header = bzimage.parse(image)
    method = bzimage.compression(image, header)
    payload = image[header.payload_offset : header.payload_offset + header.payload_size]
    if method == "none":
        return trimmed(_checked(payload, len(payload), method))
    if method not in _UNPACK:
        raise VmlinuxError(
            f"its payload is compressed with {method}, for which there is no decompressor here"
            if method
            else f"the format of its payload is not known (it starts with {payload[:6].hex(' ')})"
        )
    size = int.from_bytes(payload[-4:], "little")
    if not 0 < size <= LARGEST:
        raise VmlinuxError(f"its payload claims to unpack to {size:#x} bytes, more than {LARGEST:#x}")
    return trimmed(_checked(_UNPACK[method](payload, size), size, method))


def trimmed(data: bytes) -> bytes:
    """The same kernel in fewer bytes: zeros at the end of a segment become memory without file.

    A kernel's ``.bss`` and ``.brk`` are stored as zeros (12 of 51 MiB of Debian's 6.1 cloud
    kernel), which a loader would read into memory that is zero already.  Sections and
    relocations behind the last segment go too; no file offset changes.
    """
    parsed = elf.parse(data)
    table = int.from_bytes(data[0x20:0x28], "little")
    out, end = bytearray(data), table + len(parsed.segments) * elf.SEGMENT_SIZE
    for number, segment in enumerate(parsed.segments):
        size = segment.file_size
        if segment.kind == elf.PT_LOAD:
            size = len(data[segment.offset : segment.offset + size].rstrip(b"\0"))
            struct.pack_into("<Q", out, table + number * elf.SEGMENT_SIZE + 0x20, size)
        if segment.kind in (elf.PT_LOAD, elf.PT_NOTE):
            end = max(end, segment.offset + size)
    struct.pack_into("<Q", out, 0x28, 0)  # e_shoff
    struct.pack_into("<HHH", out, 0x3A, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(out[:end])


def _checked(data: bytes, size: int, method: str) -> bytes:
    if len(data) != size:
        more = "at least " if len(data) > size else ""
        raise VmlinuxError(
            f"its {method} payload unpacks to {more}{len(data):#x} bytes, but claims {size:#x}"
        )
    if data[:4] != elf.MAGIC:
        raise VmlinuxError(f"what its {method} payload unpacks to is no ELF file")
    return data


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _stdlib(make: Callable[[], _Decompressor], failures: tuple[type[Exception], ...], name: str) -> _Unpack:
    """One stream; what stands behind its end is ignored, and one byte too many shows in the length."""

    def unpack(payload: bytes, size: int) -> bytes:
        try:
            return make().decompress(payload, size + 1)
        except failures as error:
            raise VmlinuxError(f"its {name} payload is damaged: {error}") from error

    return unpack


def _gzip(payload: bytes, size: int) -> bytes:
    import zlib

    return _stdlib(lambda: zlib.decompressobj(wbits=31), (zlib.error,), "gzip")(payload, size)


def _xz(payload: bytes, size: int) -> bytes:
    import lzma

    return _stdlib(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), (lzma.LZMAError,), "xz")(payload, size)


def _lzma(payload: bytes, size: int) -> bytes:
    import lzma

    return _stdlib(lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE), (lzma.LZMAError,), "lzma")(payload, size)


def _bzip2(payload: bytes, size: int) -> bytes:
    import bz2

    return _stdlib(bz2.BZ2Decompressor, (OSError,), "bzip2")(payload, size)


def _zstd(payload: bytes, size: int) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise _missing("zstd", "zstandard") from error
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(payload)
    try:
        return reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise VmlinuxError(f"its zstd payload is damaged: {error}") from error


def _lz4(payload: bytes, size: int) -> bytes:
    """The legacy frame: a magic, then blocks, each with its compressed size before it.

    Source: lz4, doc/lz4_Frame_format.md, "Legacy frame".  Each step takes at least five bytes.
    """
    try:
        from lz4 import block
    except ImportError as error:
        raise _missing("lz4", "lz4") from error
    unpacked = bytearray()
    at, end = 0, len(payload) - 4
    while at + 4 <= end and len(unpacked) <= size:
        length = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if length == _LZ4_LEGACY_MAGIC:
            continue
        if not 0 < length <= end - at:
            raise VmlinuxError(f"its lz4 payload is damaged: a block of {length:#x} bytes at {at:#x}")
        try:
            unpacked += block.decompress(payload[at : at + length], uncompressed_size=_LZ4_LEGACY_BLOCK)
        except block.LZ4BlockError as error:
            raise VmlinuxError(f"its lz4 payload is damaged: {error}") from error
        at += length
    return bytes(unpacked)


def _missing(method: str, package: str) -> HostError:
    return HostError(
        f"its payload is compressed with {method}, and the Python package {package} is not installed",
        hint=f"pip install {package}",
    )


_Unpack = Callable[[bytes, int], bytes]

_UNPACK: dict[str, _Unpack] = {
    "gzip": _gzip,
    "xz": _xz,
    "lzma": _lzma,
    "bzip2": _bzip2,
    "lz4": _lz4,
    "zstd": _zstd,
}
