"""What an ELF program says about how it is started: System V ABI, gABI 4.1 chapters 4 and 5."""

from __future__ import annotations

import os
import struct

from runner.typed import BinaryIO, NamedTuple

EM_X86_64 = 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_INTERP = 3
_PATH_MAX = 4096
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
        if kind not in (_ET_EXEC, _ET_DYN) or entry_size != _PHDR.size:
            return None
        raw = _read_at(file, table, _PHDR.size * count)
        for at in range(0, len(raw) - _PHDR.size + 1, _PHDR.size):
            segment, _flags, offset, _vaddr, _paddr, size, _memory, _align = _PHDR.unpack_from(raw, at)
            if segment == _PT_INTERP:
                name = _read_at(file, offset, min(size, _PATH_MAX)).split(b"\0", 1)[0]
                return Program(machine, name.decode("utf-8", "replace"))
        return Program(machine, None)


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """What the file has of ``size`` bytes at ``offset``: nothing when that is past its end."""
    if offset >= os.fstat(file.fileno()).st_size:
        return b""
    file.seek(offset)
    return file.read(size)
