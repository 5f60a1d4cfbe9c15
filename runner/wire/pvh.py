"""The PVH start-of-day structures that a kernel finds behind EBX.

Source: Xen, docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h
(``struct hvm_start_info`` version 1, ``hvm_modlist_entry``, ``hvm_memmap_table_entry``).
Its memory types are those of e820.
"""

from __future__ import annotations

import struct

from runner.typed import Sequence
from runner.wire.bootparams import Range

MAGIC = 0x336EC578
_START_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MEMORY = struct.Struct("<QQII")


def start_info(
    address: int,
    *,
    memory: Sequence[Range],
    cmdline: int,
    initramfs: tuple[int, int],
    rsdp: int,
) -> bytes:
    """``hvm_start_info`` to be placed at ``address``, its module list and memory map behind it."""
    modules_at = address + _START_INFO.size
    count = 1 if initramfs[1] else 0
    memory_at = modules_at + count * _MODULE.size
    head = _START_INFO.pack(
        MAGIC, 1, 0, count, modules_at if count else 0, cmdline, rsdp, memory_at, len(memory), 0
    )
    modules = _MODULE.pack(*initramfs, 0, 0) if count else b""
    return head + modules + b"".join(_MEMORY.pack(start, size, kind, 0) for start, size, kind in memory)
