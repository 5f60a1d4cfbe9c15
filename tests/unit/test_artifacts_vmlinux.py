"""The compressed kernel inside a bzImage, taken out on the host."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import sys
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tiny_kernels import PT_LOAD, bzimage, elf, pvh_note

from runner.artifacts.vmlinux import LARGEST, VmlinuxError, extract_vmlinux, trimmed
from runner.errors import HostError
from runner.firmware.linux import load_plan
from runner.wire.image import KernelError

TEXT = bytes(range(256)) * 40
KERNEL = elf([(PT_LOAD, 0x1000000, TEXT, len(TEXT)), (4, 0, pvh_note(0x1000000), 0)])
RELOCATIONS = b"\x11\x22\x33\x44" * 100
PAYLOAD = KERNEL + RELOCATIONS


def lz4_legacy(data: bytes) -> bytes:
    """As ``lz4 -l`` writes: blocks of 8 MiB of input, each behind its size."""
    out = struct.pack("<I", 0x184C2102)
    for at in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def xz_as_the_kernel_does(data: bytes) -> bytes:
    """scripts/xz_wrap.sh: CRC32, the x86 filter before LZMA2."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def zstd_22(data: bytes) -> bytes:
    """scripts/Makefile.lib, zstd22: the largest windows there are."""
    return zstandard.ZstdCompressor(level=22).compress(data)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,  # brings its size along: the last field of its trailer
    "xz": xz_as_the_kernel_does,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4": lz4_legacy,
    "zstd": zstd_22,
}


def packed(method: str, data: bytes = PAYLOAD) -> bytes:
    raw = COMPRESS[method](data)
    return raw if method == "gzip" else raw + struct.pack("<I", len(data))


@pytest.mark.parametrize("method", COMPRESS)
def test_each_compression_gives_the_kernel_back(method: str) -> None:
    """What the kernel's build packs with any of its compressors comes out, relocations cut off."""
    assert extract_vmlinux(bzimage(packed(method))) == trimmed(KERNEL)


def test_uncompressed_payload_is_taken_as_it_is() -> None:
    """CONFIG_KERNEL_UNCOMPRESSED: the payload is the ELF."""
    assert extract_vmlinux(bzimage(PAYLOAD)) == trimmed(KERNEL)


def test_lz4_of_several_blocks() -> None:
    """A kernel larger than a block of 8 MiB, as every real one is."""
    large = elf([(PT_LOAD, 0x1000000, b"\x55" * (17 << 20), 17 << 20)])
    assert extract_vmlinux(bzimage(packed("lz4", large))) == trimmed(large)


def claiming(method: str, data: bytes, size: int) -> bytes:
    """A bzImage whose payload unpacks to ``data`` and claims ``size``; gzip's own trailer has the size."""
    raw = COMPRESS[method](data)
    return bzimage((raw[:-4] if method == "gzip" else raw) + struct.pack("<I", size))


@pytest.mark.parametrize("method", COMPRESS)
def test_more_than_claimed_is_refused(method: str) -> None:
    """A stream that unpacks to more than its size field says is not followed further."""
    with pytest.raises(VmlinuxError, match="at least"):
        extract_vmlinux(claiming(method, PAYLOAD + bytes(1 << 20), len(PAYLOAD)))


@pytest.mark.parametrize("method", COMPRESS)
def test_less_than_claimed_is_refused(method: str) -> None:
    """A stream that ends early is damaged, not a shorter kernel."""
    with pytest.raises(VmlinuxError, match=r"but claims|incorrect length check"):
        extract_vmlinux(claiming(method, PAYLOAD, len(PAYLOAD) + 5))


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF])
def test_lz4_block_that_is_no_block_is_refused(length: int) -> None:
    """A block of no bytes would not get on, and one past the end would be read short."""
    raw = struct.pack("<II", 0x184C2102, length) + bytes(40) + struct.pack("<I", len(PAYLOAD))
    with pytest.raises(VmlinuxError, match="a block of"):
        extract_vmlinux(bzimage(raw))


def test_lz4_stops_when_the_claim_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks behind the claimed size are not unpacked, however many there are."""
    calls = []
    real = lz4.block.decompress

    def counting(*data: object, **options: object) -> bytes:
        calls.append(1)
        return real(*data, **options)

    monkeypatch.setattr(lz4.block, "decompress", counting)
    with pytest.raises(VmlinuxError, match="at least"):
        extract_vmlinux(claiming("lz4", bytes(24 << 20), 4096))
    assert len(calls) == 1


def test_claim_beyond_all_kernels_is_refused_before_unpacking() -> None:
    """The size field is bounded: a small file cannot ask for gigabytes."""
    with pytest.raises(VmlinuxError, match="claims to unpack"):
        extract_vmlinux(bzimage(COMPRESS["xz"](PAYLOAD) + struct.pack("<I", LARGEST + 1)))


@pytest.mark.parametrize("method", COMPRESS)
def test_what_is_no_elf_is_refused(method: str) -> None:
    """The magic of what came out decides, not its name."""
    with pytest.raises(VmlinuxError, match="no ELF"):
        extract_vmlinux(bzimage(packed(method, b"MZ" + bytes(5000))))


def test_unknown_and_unsupported_formats_are_named() -> None:
    """LZO has no library that we rely on; an unknown magic is shown."""
    with pytest.raises(VmlinuxError, match="lzo"):
        extract_vmlinux(bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(50)))
    with pytest.raises(VmlinuxError, match="ab cd"):
        extract_vmlinux(bzimage(b"\xab\xcd" + bytes(50)))


@pytest.mark.parametrize(("method", "package"), [("lz4", "lz4"), ("zstd", "zstandard")])
def test_missing_library_is_the_hosts_affair(
    method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library it is said which one to install; the kernel as given still boots."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HostError, match=package):
        extract_vmlinux(bzimage(packed(method)))


@pytest.mark.parametrize("method", COMPRESS)
@given(st.data())
def test_damage_is_a_vmlinux_error_only(method: str, data: st.DataObject) -> None:
    """Any damage to the stream either goes unnoticed by the format or is a VmlinuxError."""
    raw = bytearray(packed(method))
    at = data.draw(st.integers(8, len(raw) - 5))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        extract_vmlinux(bzimage(bytes(raw)))
    except (VmlinuxError, KernelError):
        return


def test_trimming_keeps_what_is_loaded() -> None:
    """Less file, the same memory: the zeros at the end of a segment are left to the zero fill."""
    fat = elf([(PT_LOAD, 0x1000000, TEXT, 0x9000), (PT_LOAD, 0x2000000, b"data" + bytes(0x8000), 0x8004)])
    thin = trimmed(fat + b"section headers and relocations")
    assert len(thin) < len(fat) - 0x7000

    def memory(image: bytes) -> dict[int, bytes]:
        plan = load_plan(
            image, initramfs_size=0, cmdline=b"", ram=((0, 64 << 20),), rsdp=0, protocol="linux64"
        )
        found = {p.address: image[p.file_offset : p.file_offset + p.size] for p in plan.pieces}
        for address, size in plan.zero:
            start = max(at for at in found if at <= address)
            assert start + len(found[start]) == address
            found[start] += bytes(size)
        return found

    assert memory(thin) == memory(fat)


def test_trimming_twice_changes_nothing() -> None:
    """A trimmed kernel is its own trimmed kernel."""
    assert trimmed(trimmed(PAYLOAD)) == trimmed(PAYLOAD)
