"""The device status field as a table of what may follow what (virtio 1.2 §2.1, §3.1).

A driver only ever adds bits, each after its prerequisites; it takes all back by writing
zero.  What the table does not allow does not stick, and the driver sees that by reading.
"""

from __future__ import annotations

from runner.typed import Final
from runner.wire import virtio

PREREQUISITES: Final = (
    (virtio.ACKNOWLEDGE, 0),
    (virtio.DRIVER, virtio.ACKNOWLEDGE),
    (virtio.FEATURES_OK, virtio.ACKNOWLEDGE | virtio.DRIVER),
    (virtio.DRIVER_OK, virtio.ACKNOWLEDGE | virtio.DRIVER | virtio.FEATURES_OK),
    (virtio.FAILED, 0),
)


def advance(status: int, written: int, acceptable: bool) -> int:
    """The status after a driver's write other than zero.

    ``acceptable``: the features that the driver chose are ones we offered (§3.1.1 step 5).
    """
    for bit, needs in PREREQUISITES:
        if not written & bit or status & needs != needs:
            continue
        if bit == virtio.FEATURES_OK and not acceptable:
            continue
        status |= bit
    return status


def negotiating(status: int) -> bool:
    """Whether the driver may still choose features: after DRIVER, before FEATURES_OK."""
    return status & (virtio.DRIVER | virtio.FEATURES_OK) == virtio.DRIVER


def live(status: int) -> bool:
    """Whether the device works: DRIVER_OK, and nothing wrong."""
    return status & (virtio.DRIVER_OK | virtio.NEEDS_RESET | virtio.FAILED) == virtio.DRIVER_OK
