"""virtio-vsock's layouts (virtio 1.2 §5.10)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final, NamedTuple

CONFIG: Final = Struct("<Q")  # guest_cid
HOST_CID: Final = 2
TYPE_STREAM: Final = 1

OP_REQUEST: Final = 1
OP_RESPONSE: Final = 2
OP_RST: Final = 3
OP_SHUTDOWN: Final = 4
OP_RW: Final = 5
OP_CREDIT_UPDATE: Final = 6
OP_CREDIT_REQUEST: Final = 7

SHUTDOWN_RECEIVE: Final = 1  # will receive no more
SHUTDOWN_SEND: Final = 2  # will send no more
SHUTDOWN_BOTH: Final = 3

RX: Final = 0
TX: Final = 1
EVENT: Final = 2

_HEADER: Final = Struct("<QQIIIHHIII")
HEADER_SIZE: Final = _HEADER.size


class Header(NamedTuple):
    """struct virtio_vsock_hdr (§5.10.6), in its own order."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int

    def pack(self) -> bytes:
        """44 bytes."""
        return _HEADER.pack(*self)


def unpack(data: bytes) -> Header:
    """The header at the start of a packet."""
    return Header(*_HEADER.unpack_from(data))
