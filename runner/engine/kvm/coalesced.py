"""A port whose writes KVM puts by while there are many of them (KVM_CAP_COALESCED_PIO, api.rst 4.116).

A serial port costs an exit a byte.  While a guest writes much, the kernel collects the bytes in
a ring, and they are taken out before anything else that the port does, so the device sees the
order that the guest made.  A guest that writes and then does nothing else at all would wait for
ever, so the ring is looked at by a timer too; and since a timer is not free, the port is only
coalesced while bytes come.
"""

from __future__ import annotations

import time

from runner.devices.ports import Effect, EventLoop
from runner.host.kvm import Vcpu, Vm
from runner.typed import Protocol

BEGIN = 48
"""Writes without a pause from which on it is worth it."""
PAUSE_NS = 20_000_000
LOOK_NS = 10_000_000
IDLE_LOOKS = 10  # looks at an empty ring before the port is as before


class Stream(Protocol):
    """A device whose offset 0 takes a stream of bytes."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> Effect | None: ...

    def write_burst(self, data: bytes) -> None:
        """Several one-byte writes to offset 0."""


class CoalescedPort:
    """``RegisterDevice`` in front of one; every call is under the machine's lock."""

    def __init__(self, device: Stream, port: int, vm: Vm, vcpu: Vcpu, loop: EventLoop, page: int) -> None:
        self._device, self._port, self._vm, self._vcpu, self._loop = device, port, vm, vcpu, loop
        self._on = False
        self._count = self._last = self._idle = 0
        vcpu.join_ring(page)

    def read(self, offset: int, size: int) -> int:
        if self._on:
            self.drain()
        return self._device.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        if self._on:
            self.drain()
        elif not offset:
            self._consider()
        return self._device.write(offset, size, value)

    def drain(self) -> int:
        """Hand over what has been put by; returns how many bytes that were."""
        data = self._vcpu.drain_bytes()
        if data:
            self._device.write_burst(data)
        return len(data)

    def _consider(self) -> None:
        now = time.monotonic_ns()
        self._count = self._count + 1 if now - self._last < PAUSE_NS else 0
        self._last = now
        if self._count >= BEGIN:
            self._on, self._idle = True, 0
            self._vm.coalesce_pio(self._port, 1)
            self._loop.call_at(now + LOOK_NS, self._look)

    def _look(self) -> None:
        self._idle = 0 if self.drain() else self._idle + 1
        if self._idle < IDLE_LOOKS:
            self._loop.call_at(time.monotonic_ns() + LOOK_NS, self._look)
            return
        self._vm.coalesce_pio(self._port, 1, on=False)
        self._on, self._count = False, 0
        self.drain()  # what came between the last look and the end of it
