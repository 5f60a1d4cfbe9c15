"""A qcow2 image may name other files of the host, chosen by whoever wrote the image (device-bugs 18)."""

from __future__ import annotations

import os

from runner.errors import HostError
from runner.wire.qcow2 import HEADER_SIZE, Qcow2Head, check, parse


def refuse_references(fd: int, name: str) -> Qcow2Head:
    """The image's head.  Raises HostError when it leads to any place but itself, or is no sound qcow2."""
    try:
        head = parse(os.pread(fd, HEADER_SIZE, 0))
    except ValueError as error:
        raise HostError(f"the image of `{name}` is stated to be qcow2, and {error}") from None
    if head.backing is not None:
        offset, length = head.backing
        backing = os.pread(fd, length, offset).decode(errors="replace")
        raise HostError(
            f"the image of `{name}` rests on another file, {backing!r}, which the definition does not name",
            hint="qemu-img convert -O qcow2 IMAGE ALONE.qcow2",
        )
    if head.external_data:
        raise HostError(
            f"the image of `{name}` keeps its data in another file, which the definition does not name",
            hint="qemu-img convert -O qcow2 IMAGE ALONE.qcow2",
        )
    try:
        check(head, os.lseek(fd, 0, os.SEEK_END))
    except ValueError as error:
        raise HostError(f"the image of `{name}` is broken: {error}", hint="qemu-img check IMAGE") from None
    return head
