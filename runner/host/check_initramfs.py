"""The initramfs file, held against what Linux unpacks and against the guest's memory."""

from __future__ import annotations

import os

from runner.definition.checks import memory_size
from runner.definition.findings import Complaint
from runner.typed import Any, Iterator

ARCHIVES = (
    b"070701", b"070702",  # cpio, newc without and with checksums
    b"\x1f\x8b", b"\x1f\x9e", b"BZh", b"\xfd7zXZ", b"\x89LZO", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd",
    b"\x5d\x00\x00",
)  # fmt: skip
"""How what Linux takes begins (early-userspace/buffer-format.rst, lib/decompress.c)."""

PADDING = 4096  # zeros before an archive are skipped; more of them than this are no padding


def check_initramfs(value: Any) -> Iterator[Complaint]:
    """A file that is empty, is no archive, or is larger than all of the memory."""
    said = value.get("initramfs")
    path = str(said["resolved"]) if isinstance(said, dict) and "resolved" in said else ""
    if not os.path.isfile(path):
        return
    size, memory = os.stat(path).st_size, memory_size(value)
    if size == 0:
        yield _complaint("file-size", "the initramfs is an empty file", "an archive", path)
    elif memory is not None and size >= memory[1]:
        words = "the initramfs alone is larger than the memory"
        yield _complaint("does-not-fit", words, f"less than {memory[1]} bytes", f"{size} bytes")
    elif os.access(path, os.R_OK) and (start := _beginning(path)) is not None:
        words = "the initramfs is no archive that Linux knows: the kernel will not unpack it"
        found = f"the bytes {start[:6].hex(' ')}"
        yield _complaint("no-archive", words, "cpio, plain or compressed", found)._replace(severity="warning")


def _beginning(path: str) -> bytes | None:
    """How the file begins, after padding; None if an archive may begin so."""
    with open(path, "rb") as file:
        start = file.read(PADDING + 8)
    first = start.lstrip(b"\0") or start
    return None if first.startswith(ARCHIVES) else first


def _complaint(code: str, message: str, expected: str, found: str) -> Complaint:
    return Complaint(("initramfs",), "value", code, message, expected, found)
