"""The head of a qcow2 image: what it refers to outside itself.

Specification: QEMU docs/interop/qcow2.txt, "Header".  Integers are big-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104
LONGEST_NAME = 1023  # bytes of a backing file's name
EXTERNAL_DATA = 1 << 2  # incompatible feature bit 2
KNOWN_VERSIONS = (2, 3)

_HEAD = struct.Struct(">4sIQIIQ")
_INCOMPATIBLE = struct.Struct(">Q")
_INCOMPATIBLE_AT = 72


class Qcow2Head(NamedTuple):
    """``backing``: where the name of a backing file lies (offset, length), or None; ``size``: the disk's."""

    version: int
    size: int
    backing: tuple[int, int] | None
    external_data: bool


def parse(head: bytes) -> Qcow2Head:
    """The first :data:`HEADER_SIZE` bytes of an image.  Raises ValueError, in words, for what is no qcow2."""
    if len(head) < _INCOMPATIBLE_AT or head[:4] != MAGIC:
        raise ValueError("it does not begin with qcow2's signature")
    _, version, offset, length, _, size = _HEAD.unpack_from(head)
    if version not in KNOWN_VERSIONS:
        raise ValueError(f"it is qcow2 of version {version}, and only 2 and 3 are known")
    incompatible = 0
    if version >= 3:
        if len(head) < HEADER_SIZE:
            raise ValueError("its header is cut off")
        (incompatible,) = _INCOMPATIBLE.unpack_from(head, _INCOMPATIBLE_AT)
    if offset and not 0 < length <= LONGEST_NAME:
        raise ValueError(f"its backing file's name would have {length} bytes")
    backing = (offset, length) if offset else None
    return Qcow2Head(version, size, backing, bool(incompatible & EXTERNAL_DATA))
