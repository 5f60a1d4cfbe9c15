"""Guests of a few instructions: an assembler of just enough, and an ELF around its bytes.

The code runs in 64-bit mode at 1 MiB, as the Linux boot protocol enters a vmlinux, so a
tiny guest takes the same way through loader and engine as a real kernel.
"""

from __future__ import annotations

import struct

BASE = 0x100000
UART, EXIT_PORT, I8042, RESET_PORT, PM1_CONTROL = 0x3F8, 0xF4, 0x64, 0xCF9, 0x604

HLT, UD2 = b"\xf4", b"\x0f\x0b"
SPIN = b"\xeb\xfe"
IDLE = HLT + b"\xeb\xfd"


def mov_al(value: int) -> bytes:
    return bytes((0xB0, value))


def mov_eax(value: int) -> bytes:
    return b"\xb8" + struct.pack("<I", value)


def mov_dx(port: int) -> bytes:
    return b"\x66\xba" + struct.pack("<H", port)


def outb(port: int, value: int) -> bytes:
    return mov_dx(port) + mov_al(value) + b"\xee"


def outw(port: int, value: int) -> bytes:
    return mov_dx(port) + mov_eax(value) + b"\x66\xef"


def inb(port: int) -> bytes:
    """Into AL."""
    return mov_dx(port) + b"\xec"


def out_al(port: int) -> bytes:
    return mov_dx(port) + b"\xee"


WAIT_FOR_INPUT = inb(UART + 5) + b"\xa8\x01\x74\xfb" + inb(UART)  # until LSR tells of a byte; take it


def exit_with(status: int) -> bytes:
    return outb(EXIT_PORT, status) + IDLE


def say(text: bytes) -> bytes:
    return b"".join(outb(UART, byte) for byte in text)


def store32(address: int, value: int) -> bytes:
    """mov dword [address], value (address below 2 GiB)."""
    return b"\xc7\x04\x25" + struct.pack("<II", address, value)


def load32(address: int) -> bytes:
    """mov eax, [address] (address below 2 GiB)."""
    return b"\x8b\x04\x25" + struct.pack("<I", address)


def cmpxchg16b(address: int) -> bytes:
    """cmpxchg16b [address] (address below 2 GiB)."""
    return b"\x48\x0f\xc7\x0c\x25" + struct.pack("<I", address)


def mov_rax(value: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", value)


def lidt(address: int) -> bytes:
    """lidt [address] (below 2 GiB)."""
    return b"\x0f\x01\x1c\x25" + struct.pack("<I", address)


def rep_outsb(port: int, address: int, count: int) -> bytes:
    return (
        mov_dx(port)
        + b"\x48\xc7\xc6" + struct.pack("<I", address)  # mov rsi, address
        + b"\x48\xc7\xc1" + struct.pack("<I", count)  # mov rcx, count
        + b"\xfc\xf3\x6e"  # cld; rep outsb
    )  # fmt: skip


def vmlinux(code: bytes, data: bytes = b"", *, memory_size: int | None = None) -> bytes:
    """An ELF64 whose one segment (code, then ``data`` at BASE + 0x1000) is entered at its start."""
    text = code.ljust(0x1000, b"\xcc") + data
    offset = 64 + 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, BASE, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, BASE, BASE, len(text), memory_size or len(text), 0x1000)
    return header + segment + text
