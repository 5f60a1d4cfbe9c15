"""virtio-blk's layouts (virtio 1.2 §5.2): features, configuration, requests."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

F_SIZE_MAX: Final = 1 << 1
F_SEG_MAX: Final = 1 << 2
F_RO: Final = 1 << 5
F_BLK_SIZE: Final = 1 << 6
F_FLUSH: Final = 1 << 9
F_TOPOLOGY: Final = 1 << 10
F_MQ: Final = 1 << 12
F_DISCARD: Final = 1 << 13
F_WRITE_ZEROES: Final = 1 << 14

SECTOR: Final = 512
SECTOR_SHIFT: Final = 9
ID_LENGTH: Final = 20

T_IN: Final = 0
T_OUT: Final = 1
T_FLUSH: Final = 4
T_GET_ID: Final = 8
T_DISCARD: Final = 11
T_WRITE_ZEROES: Final = 13

S_OK: Final = 0
S_IOERR: Final = 1
S_UNSUPP: Final = 2

HEADER: Final = Struct("<IIQ")  # type, reserved, sector
SEGMENT: Final = Struct("<QII")  # of discard and write-zeroes: sector, sectors, flags
SEGMENT_UNMAP: Final = 1

_CONFIG: Final = Struct("<QIIHBBIBBHIBBHIIIIIB3x")


def config(
    sectors: int,
    seg_max: int,
    block_size: int,
    sector: int,
    queues: int,
    discard_sectors: int,
    discard_segments: int,
) -> bytes:
    """struct virtio_blk_config (§5.2.4) up to write_zeroes_may_unmap; 60 bytes.

    ``sector`` is the guest's logical block, in which partition tables count: 512 bytes for an
    image on every host.  ``block_size`` is the physical block, a hint for alignment.  Fields of
    features that are not offered are zero or ignored by the driver.
    """
    physical = block_size // sector
    alignment = block_size // SECTOR
    return _CONFIG.pack(
        sectors, 0, seg_max, 0, 0, 0, sector,
        physical.bit_length() - 1, 0, physical, 0,
        0, 0, queues,
        discard_sectors, discard_segments, alignment,
        discard_sectors, discard_segments, 1,
    )  # fmt: skip
