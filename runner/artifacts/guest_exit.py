"""The guest's last program: hands the exit status to the machine and switches it off.

A shell cannot write to an I/O port where the kernel has no ``/dev/port`` (Debian's ``-cloud-``
kernels), so this is machine code, a static ELF file of some 300 bytes, written out here: the
host needs no compiler to build an initramfs.

``exit STATUS``: sync(2), wait until the console's output has left (tcdrain(3)), ioperm(2), the
byte to port 0xf4, and where nobody has answered within a second, power off.  ``exit`` alone: all
but the port.
A kernel that refuses the port (lockdown) gets a message and, as this is process 1, a panic: a
status that cannot be told must not look like success.
"""

from __future__ import annotations

import struct

EXIT_PORT = 0xF4
"""One byte written here ends the run with that status, on every engine."""

_BASE = 0x40_0000  # where the file is mapped, as ld does for programs at fixed addresses
_HEADERS = 64 + 56  # ELF header and one program header

_SYSCALL = bytes.fromhex("0f05")
_REFUSED = b"vmrun: this kernel lets nobody write to the exit port 0xf4, so the exit status is lost\n"

# System calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl) and their arguments.
_WRITE, _POLL, _IOCTL, _EXIT, _SYNC, _REBOOT, _IOPERM = 1, 7, 16, 60, 162, 169, 173
_TCSBRK = 0x5409  # with a non-zero argument: tcdrain (ioctl_tty(2))
_MAGIC1, _MAGIC2, _POWER_OFF = 0xFEE1DEAD, 672274793, 0x4321FEDC  # reboot(2)


def _call(number: int, *arguments: int) -> bytes:
    """mov edi/esi/edx, immediate …; mov eax, number; syscall (clobbers rcx and r11)."""
    loads = zip((0xBF, 0xBE, 0xBA), arguments, strict=False)
    return b"".join(struct.pack("<BI", op, value) for op, value in (*loads, (0xB8, number))) + _SYSCALL


def _parse_decimal() -> bytes:
    """ebx = the decimal number at rsi, up to its NUL."""
    clear = bytes.fromhex("31db")  # xor ebx, ebx
    load = bytes.fromhex("0fb606 85c0")  # movzx eax, byte [rsi]; test eax, eax
    # sub eax, '0'; imul ebx, ebx, 10; add ebx, eax; inc rsi
    digit = bytes.fromhex("83e830 6bdb0a 01c3 48ffc6")
    again = -(len(load) + len(_skip(0)) + len(digit) + 2)
    return clear + load + _skip(len(digit) + 2) + digit + struct.pack("<Bb", 0xEB, again)  # jmp load


def _skip(size: int) -> bytes:
    """je over the next ``size`` bytes."""
    return struct.pack("<Bb", 0x74, size)


def program() -> bytes:
    """The ELF file.  At the start the stack holds argc, argv[0], argv[1] …"""
    power_off = _call(_REBOOT, _MAGIC1, _MAGIC2, _POWER_OFF) + _call(_EXIT, 1)
    refused_size = len(_call(_WRITE, 0, 0, 0)) + len(_call(_EXIT, 0))
    send = bytes.fromhex("89d8") + bytes((0xE6, EXIT_PORT))  # mov eax, ebx; out EXIT_PORT, al
    # An engine may end the machine a moment later: poll(2) of nothing waits, and keeps the CPU quiet.
    send += _call(_POLL, 0, 0, 1000)
    hand_over = (
        bytes.fromhex("488b742410")  # mov rsi, [rsp+16]
        + _parse_decimal()
        + _call(_IOPERM, EXIT_PORT, 1, 1)
        + bytes.fromhex("85c0")  # test eax, eax
        + _skip(refused_size)
    )
    has_argument = bytes.fromhex("833c2401")  # cmp dword [rsp], 1
    before = _call(_SYNC) + _call(_IOCTL, 1, _TCSBRK, 1) + has_argument
    before += _skip(len(hand_over) + refused_size + len(send))  # to power_off
    text = _BASE + _HEADERS + len(before) + len(hand_over) + refused_size + len(send) + len(power_off)
    refused = _call(_WRITE, 2, text, len(_REFUSED)) + _call(_EXIT, 1)
    return _elf(before + hand_over + refused + send + power_off + _REFUSED)


def _elf(code: bytes) -> bytes:
    """An ET_EXEC for x86-64 with one readable and executable segment: the whole file (gABI 4.1)."""
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identity + header + segment + code
