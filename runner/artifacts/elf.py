"""What an ELF program says about how it is started: System V ABI, gABI 4.1 chapters 4 and 5."""

from __future__ import annotations

import struct
from typing import NamedTuple

EM_X86_64 = 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_INTERP = 3
_PHDR = struct.Struct("<IIQQQQQQ")


class Program(NamedTuple):
    """A 64-bit little-endian executable; ``interpreter`` None: static."""

    machine: int  # e_machine
    interpreter: str | None


def read_program(path: str) -> Program | None:
    """The program in a file, or None when it is no 64-bit ELF executable.

    Offsets come from the file and are checked against it (device-bugs 19).  Raises OSError.
    """
    with open(path, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        kind, machine = struct.unpack_from("<HH", header, 16)
        (table,) = struct.unpack_from("<Q", header, 32)
        entry_size, count = struct.unpack_from("<HH", header, 54)
        if kind not in (_ET_EXEC, _ET_DYN) or entry_size != _PHDR.size or table > 1 << 62:
            return None
        file.seek(table)
        raw = file.read(_PHDR.size * count)
        for at in range(0, len(raw) - _PHDR.size + 1, _PHDR.size):
            segment, _flags, offset, _vaddr, _paddr, size, _memory, _align = _PHDR.unpack_from(raw, at)
            if segment == _PT_INTERP:
                return Program(machine, _string(file.name, offset, size))
        return Program(machine, None)


def _string(path: str, offset: int, size: int) -> str:
    """The NUL-terminated string at a checked place of the file."""
    if not 0 < size <= 4096 or offset > 1 << 62:
        return ""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size).split(b"\0", 1)[0].decode("utf-8", "replace")
