"""virtio-net's layouts (virtio 1.2 §5.1)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

F_CSUM: Final = 1 << 0
F_GUEST_CSUM: Final = 1 << 1
F_MTU: Final = 1 << 3
F_MAC: Final = 1 << 5
F_GUEST_TSO4: Final = 1 << 7
F_GUEST_TSO6: Final = 1 << 8
F_GUEST_ECN: Final = 1 << 9
F_HOST_TSO4: Final = 1 << 11
F_HOST_TSO6: Final = 1 << 12
F_HOST_ECN: Final = 1 << 13
F_MRG_RXBUF: Final = 1 << 15
F_STATUS: Final = 1 << 16
F_CTRL_VQ: Final = 1 << 17
F_MQ: Final = 1 << 22
OFFLOADS: Final = (
    F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN
    | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN
)  # fmt: skip

CONFIG: Final = Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu
STATUS_LINK_UP: Final = 1

HEADER_SIZE: Final = 12  # with VERSION_1 always (§5.1.6.1): num_buffers is there
NUM_BUFFERS: Final = Struct("<H")
NUM_BUFFERS_OFFSET: Final = 10
LARGEST_FRAME: Final = 65550  # a TSO frame with its Ethernet header

CONTROL: Final = Struct("<BB")  # class, command
CLASS_MQ: Final = 4
MQ_PAIRS_SET: Final = 0
PAIRS: Final = Struct("<H")
CONTROL_OK: Final = 0
CONTROL_ERROR: Final = 1

# linux/if_tun.h: what the guest can receive, as a tap is told
_TUN: Final = ((F_GUEST_CSUM, 0x01), (F_GUEST_TSO4, 0x02), (F_GUEST_TSO6, 0x04), (F_GUEST_ECN, 0x08))


def receive_offloads(features: int) -> int:
    """TUNSETOFFLOAD's flags for what the driver accepted; segmentation needs checksums (§5.1.3.1)."""
    if not features & F_GUEST_CSUM:
        return 0
    return sum(flag for feature, flag in _TUN if features & feature)
