"""What a native queue is told of its ring (host/native/ring.c)."""

from __future__ import annotations

import os

from runner.host.memory import Ram
from runner.host.native._native import ffi, lib
from runner.typed import Any


class RingAddresses:
    """One virtqueue as the driver set it up; addresses are guest-physical."""

    def __init__(self, number: int, size: int, descriptors: int, driver: int, device: int) -> None:
        self.number, self.size = number, size
        self.descriptors, self.driver, self.device = descriptors, driver, device


class RingMemory:
    """The guest's RAM as native queues look into it; it has to live as long as they do."""

    def __init__(self, ram: Ram) -> None:
        self._regions = ffi.new(
            "struct vmrun_ram[]",
            [(r.start, r.size, ffi.cast("uint8_t *", r.pointer)) for r in ram.regions],
        )

    def open(self, native: Any, ring: RingAddresses, *, indirect: bool, event_idx: bool) -> None:
        """Begin ``native.ring`` at these addresses.  Raises OSError when they are no RAM."""
        native.ring.ram, native.ring.regions, native.ring.size = self._regions, len(self._regions), ring.size
        native.ring.indirect, native.ring.event_idx = indirect, event_idx
        at = ffi.addressof(native.ring)
        result = lib.vmrun_ring_open(at, ring.descriptors, ring.driver, ring.device)
        if result < 0:
            raise OSError(-result, f"queue {ring.number}: {os.strerror(-result)}")
