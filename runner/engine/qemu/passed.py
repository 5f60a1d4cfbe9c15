"""What QEMU says of a passed-through function that its host wants back, or that has failed.

It would keep the first for ever: it asks its own bus to unplug the function, pcie.0 refuses, and QEMU
warns of that and goes on (hw/vfio/pci.c, vfio_req_notifier_handler), while the host's unbind waits.
"""

from __future__ import annotations

from runner.engine.protocol import BROKEN, WANTED_BACK
from runner.hostfacts import is_address

_REFUSED = "does not support hotplugging"
_FAILED = "Unrecoverable error detected"


def lost(line: str) -> str:
    """Why a run is over after this line of QEMU's; "" when it is not."""
    if _REFUSED in line:
        address = line.partition(" vfio ")[2].partition(": ")[0]
        return WANTED_BACK.format(address=address) if is_address(address) else ""
    if _FAILED in line:
        address = line.partition("(")[2].partition(")")[0]
        return BROKEN.format(address=address) if is_address(address) else ""
    return ""
