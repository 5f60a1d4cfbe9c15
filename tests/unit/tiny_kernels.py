"""Synthetic kernel files, a few kilobytes each, for the tests of loading."""

from __future__ import annotations

import struct

PT_LOAD, PT_NOTE = 1, 4
VERSION = b"9.9.9-tiny (nobody@nowhere) #1"


def bzimage(
    payload: bytes = b"\xfd7zXZ\0" + bytes(58),
    *,
    protocol: int = 0x20F,
    xloadflags: int = 1,
    loadflags: int = 1,
    relocatable: int = 1,
    pref_address: int = 0x1000000,
    init_size: int = 0x200000,
    initrd_addr_max: int = 0x7FFFFFFF,
    cmdline_size: int = 2047,
    sectors: int = 4,
) -> bytes:
    """A bzImage whose protected-mode code is 0x2cc bytes of nothing and the payload."""
    code = bytes(0x2CC) + payload
    code += bytes(-len(code) % 16)
    head = bytearray((sectors + 1) * 512)
    head[0x1F1] = sectors
    struct.pack_into("<I", head, 0x1F4, len(code) // 16)
    struct.pack_into("<H", head, 0x1FE, 0xAA55)
    head[0x200:0x202] = b"\xeb\x66"  # jump over a header that ends at 0x268
    struct.pack_into("<4sH", head, 0x202, b"HdrS", protocol)
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    head[0x300 : 0x300 + len(VERSION)] = VERSION
    head[0x211] = loadflags
    struct.pack_into(
        "<IIBBHI", head, 0x22C, initrd_addr_max, 0x200000, relocatable, 21, xloadflags, cmdline_size
    )
    struct.pack_into("<II", head, 0x248, 0x2CC, len(payload))
    struct.pack_into("<QI", head, 0x258, pref_address, init_size)
    return bytes(head) + code


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    name += b"\0"
    return (
        struct.pack("<III", len(name), len(desc), kind)
        + name.ljust(-(-len(name) // 4) * 4, b"\0")
        + desc.ljust(-(-len(desc) // 4) * 4, b"\0")
    )


def pvh_note(entry: int) -> bytes:
    return note(b"Xen", 18, struct.pack("<Q", entry))


def elf(
    segments: list[tuple[int, int, bytes, int]],
    *,
    entry: int = 0x1000000,
    machine: int = 62,
    ident: bytes = b"\x7fELF\x02\x01\x01",
) -> bytes:
    """An ELF-64 of (kind, paddr, bytes in the file, bytes of memory) segments."""
    at = 64 + 56 * len(segments)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident.ljust(16, b"\0"),
        2,
        machine,
        1,
        entry,
        64,
        0,
        0,
        64,
        56,
        len(segments),
        64,
        0,
        0,
    )
    table = data = b""
    for kind, paddr, content, memory in segments:
        virtual = paddr + 0xFFFFFFFF80000000 & 0xFFFFFFFFFFFFFFFF
        table += struct.pack("<IIQQQQQQ", kind, 7, at + len(data), virtual, paddr, len(content), memory, 4)
        data += content
    return head + table + data


def vmlinux(*, pvh: int | None = 0x1000100) -> bytes:
    """An ELF kernel of 0x300 bytes at 16 MiB with a bss behind, and a PVH note."""
    segments = [(PT_LOAD, 0x1000000, b"\x90" * 0x300, 0x5000)]
    if pvh is not None:
        segments.append((PT_NOTE, 0, note(b"GNU", 3, b"id") + pvh_note(pvh), 0))
    return elf(segments)
