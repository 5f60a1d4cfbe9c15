"""The head of a qcow2 image: what it refers to outside itself and where its tables are; and an empty image.

An image may come from anywhere, and a program that trusts it reads and writes where its head
says (CVE-2014-0144, CVE-2024-4467; device-bugs 18).

Specification: QEMU docs/interop/qcow2.txt, "Header".  Integers are big-endian.
"""

from __future__ import annotations

import struct

from runner.typed import NamedTuple

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104
LONGEST_NAME = 1023  # bytes of a backing file's name
KNOWN_VERSIONS = (2, 3)
SECTOR = 512
CORRUPT, EXTERNAL_DATA = 1 << 1, 1 << 2  # incompatible feature bits
KNOWN_FEATURES = 0x1F  # dirty, corrupt, external data, compression type, extended L2 entries

MOST_L1 = 32 << 20  # bytes of each table; QEMU's own limits
MOST_REFCOUNTS = 8 << 20
MOST_SNAPSHOTS, SNAPSHOT_ENTRY = 65536, 40

_HEAD = struct.Struct(">4sIQIIQIIQQIIQ")  # up to snapshots_offset
_HEAD_3 = struct.Struct(">QQQII")  # feature bits: incompatible, compatible, autoclear; refcounts, length
_INCOMPATIBLE = struct.Struct(">Q")
_INCOMPATIBLE_AT = 72


class Table(NamedTuple):
    """A table of the image: where it lies in the file, its bytes, and how many there may be."""

    name: str
    offset: int
    length: int
    most: int


class Qcow2Head(NamedTuple):
    """``backing``: where the name of a backing file lies (offset, length), or None; ``size``: the disk's.

    ``cluster``: bytes of a cluster; ``features``: the incompatible ones.
    """

    version: int
    size: int
    backing: tuple[int, int] | None
    external_data: bool
    cluster: int = 1 << 16
    encrypted: bool = False
    features: int = 0
    tables: tuple[Table, ...] = ()


def parse(head: bytes) -> Qcow2Head:
    """The first :data:`HEADER_SIZE` bytes of an image.  Raises ValueError, in words, for what is no qcow2."""
    if len(head) < _INCOMPATIBLE_AT or head[:4] != MAGIC:
        raise ValueError("it does not begin with qcow2's signature")
    _, version, offset, length, cluster_bits, size, encrypted, *places = _HEAD.unpack_from(head)
    if version not in KNOWN_VERSIONS:
        raise ValueError(f"it is qcow2 of version {version}, and only 2 and 3 are known")
    if not 9 <= cluster_bits <= 21:
        raise ValueError(f"its clusters would have 2^{cluster_bits} bytes")
    features = 0
    if version >= 3:
        if len(head) < HEADER_SIZE:
            raise ValueError("its header is cut off")
        (features,) = _INCOMPATIBLE.unpack_from(head, _INCOMPATIBLE_AT)
    if offset and not 0 < length <= LONGEST_NAME:
        raise ValueError(f"its backing file's name would have {length} bytes")
    backing = (offset, length) if offset else None
    external = bool(features & EXTERNAL_DATA)
    tables = _tables(1 << cluster_bits, *places)
    return Qcow2Head(version, size, backing, external, 1 << cluster_bits, bool(encrypted), features, tables)


def _tables(
    cluster: int,
    l1_entries: int,
    l1_at: int,
    refcounts_at: int,
    refcount_clusters: int,
    snapshots: int,
    snapshots_at: int,
) -> tuple[Table, ...]:
    tables = [
        Table("L1 table", l1_at, 8 * l1_entries, MOST_L1),
        Table("refcount table", refcounts_at, cluster * refcount_clusters, MOST_REFCOUNTS),
    ]
    if snapshots:
        least = SNAPSHOT_ENTRY * snapshots
        tables.append(Table("snapshot table", snapshots_at, least, SNAPSHOT_ENTRY * MOST_SNAPSHOTS))
    return tuple(tables)


def check(head: Qcow2Head, file_size: int) -> None:
    """Raise ValueError, in words, for an image that cannot be used or whose tables lie outside its file."""
    if head.encrypted:
        raise ValueError("it is encrypted, and there is no way to give its key")
    if head.features & CORRUPT:
        raise ValueError("it is marked as corrupt")
    if head.features & ~KNOWN_FEATURES:
        raise ValueError(f"it needs features {head.features & ~KNOWN_FEATURES:#x}, which are unknown here")
    if head.size < SECTOR or head.size % SECTOR:
        raise ValueError(f"the disk in it would have {head.size} bytes")
    for table in head.tables:
        if table.length > table.most:
            raise ValueError(f"its {table.name} would have {table.length} bytes")
        inside = table.offset > 0 and table.offset + table.length <= file_size
        if not table.length or not inside or table.offset % head.cluster:
            raise ValueError(f"its {table.name} would lie at {table.offset:#x}, where it cannot be")
    if head.tables[0].length // 8 * head.cluster * (head.cluster // 8) < head.size:
        raise ValueError("its L1 table is too short for its disk")


def empty(size: int) -> bytes:
    """An empty image for a disk of ``size`` bytes that names no other file: an overlay.

    Header, refcount table, one block of refcounts and the L1 table, in clusters of 64 KiB.
    """
    cluster_bits, cluster = 16, 1 << 16
    l1_entries = -(-size // (cluster * (cluster // 8)))
    l1_clusters = -(-8 * l1_entries // cluster)
    head = _HEAD.pack(MAGIC, 3, 0, 0, cluster_bits, size, 0, l1_entries, 3 * cluster, cluster, 1, 0, 0)
    refcounts = struct.pack(">H", 1) * (3 + l1_clusters)
    assert len(refcounts) <= cluster, "one block of refcounts is enough for any disk below 60 PiB"
    parts = (head + _HEAD_3.pack(0, 0, 0, 4, HEADER_SIZE), struct.pack(">Q", 2 * cluster), refcounts)
    return b"".join(part.ljust(cluster, b"\0") for part in parts) + bytes(l1_clusters * cluster)
