"""Disk images: whether the file is what its ``format`` says, and whether it can be opened so.

The format is stated and never guessed (device-bugs 17); here it is only compared, and what
looks wrong is told before the guest meets it.
"""

from __future__ import annotations

import os
import stat

from runner.definition.checks_devices import says_whether_it_writes
from runner.definition.conform import HostPath
from runner.definition.findings import Complaint
from runner.typed import Any, Iterator

QCOW2 = b"QFI\xfb"
SECTOR = 512
PMEM_ALIGNMENT = 2 << 20  # what the kernel's pmem driver maps in one piece
IMAGE_KEYS = {("disks", "path"), ("pmem", "path"), ("devices", "path"), ("devices", "card")}


def check_image(host: HostPath, value: Any) -> Iterator[Complaint]:
    """One file that a device reads as a whole."""
    if len(host.path) != 3 or (host.path[0], host.path[-1]) not in IMAGE_KEYS:
        return
    device = value.get(host.path[0], {}).get(host.path[1])
    if not isinstance(device, dict):
        return
    yield from _writable(host, device)
    size, magic = _look(host.resolved)
    if magic is None:
        return
    stated = device.get("format", "" if host.path[0] == "disks" else "raw")  # a disk's is always stated
    if stated == "qcow2" and magic != QCOW2:
        yield Complaint(
            (*host.path[:-1], "format"),
            "value",
            "image-format",
            "the file is not a qcow2 image",
            "qcow2's signature",
            f"the bytes {magic.hex(' ')}" if magic else "an empty file",
            suggestion='"raw"',
        )
    elif stated == "raw" and magic == QCOW2:
        yield Complaint(
            (*host.path[:-1], "format"),
            "value",
            "image-format",
            "the file is a qcow2 image: as raw, the guest sees that format's header as its first sector",
            "a raw image",
            "qcow2's signature",
            suggestion='"qcow2"',
            severity="warning",
        )
    elif stated == "raw":
        yield from _size(host, device, size)


def _look(path: str) -> tuple[int, bytes | None]:
    """Size and first four bytes; None for what is not a plain file (a device is not opened)."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return 0, None
        with open(path, "rb") as file:
            return found.st_size, file.read(len(QCOW2))
    except OSError:
        return 0, None


def _writable(host: HostPath, device: dict[str, Any]) -> Iterator[Complaint]:
    if not says_whether_it_writes(host.path, device):
        return
    if device.get("readonly") or device.get("ephemeral") or os.access(host.resolved, os.W_OK):
        return
    yield Complaint(
        host.path,
        "value",
        "permission",
        "this user may not write to the file",
        "permission to write",
        host.resolved,
        hint="readonly = true or ephemeral = true needs none",
    )


def _size(host: HostPath, device: dict[str, Any], size: int) -> Iterator[Complaint]:
    """A raw image is a whole number of sectors; an SD card's a power of two; pmem's of 2 MiB."""
    wanted = ""
    if size == 0:
        wanted = "some bytes"
    elif host.path[-1] == "card" and size & (size - 1):
        wanted = f"a power of two, such as {1 << size.bit_length()} bytes"
    elif host.path[0] == "pmem" and size % PMEM_ALIGNMENT:
        wanted = f"a multiple of 2 MiB, such as {-(-size // PMEM_ALIGNMENT) * PMEM_ALIGNMENT} bytes"
    elif size % SECTOR:
        wanted = f"a multiple of {SECTOR} bytes"
    if wanted:
        yield Complaint(
            host.path,
            "value",
            "image-size",
            "the image's size is not one that the device can have",
            wanted,
            f"{size} bytes",
            hint=f"truncate -s SIZE {host.resolved}",
        )
