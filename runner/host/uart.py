"""The serial port that native code serves (host/native/uart.c): what Python has to do with it.

Of the guest's accesses only those come here that are wider than a register.  Native code asks by two
eventfds for a look after a while (at output that waits, at KVM's ring of coalesced writes) and for more
input.
"""

from __future__ import annotations

import os
import time

from runner.devices.ports import Effect, EventLoop, RegisterDevice
from runner.host.kvm import Vcpu, Vm
from runner.host.native._native import ffi, lib
from runner.host.outlet import FLUSH_MS, PATIENCE_MS, untaken
from runner.typed import Any, Callable

LINGER_NS = 10_000_000
"""A prompt without a newline is shown after this; so is what follows a line at once."""


class NativeUart:
    """A 16550A whose line is ``sink``, a non-blocking descriptor (``SerialPort``)."""

    def __init__(self, sink: int, loop: EventLoop) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)
        self.on_room: Callable[[], None] | None = None  # input that was refused is taken now
        self._loop = loop
        attention, room = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        made = lib.vmrun_uart_new(sink, attention, room)
        if made == ffi.NULL:
            raise MemoryError
        self.native: Any = ffi.gc(made, lib.vmrun_uart_free)
        self.native.linger_ns, self.native.out.patience_ms = LINGER_NS, PATIENCE_MS
        loop.add_reader(attention, lambda: _heard(attention, self._plan))
        loop.add_reader(room, lambda: _heard(room, self._tell_room))

    def join(self, vm: Vm, irq: int, port: int, vcpus: list[Vcpu], ring_page: int) -> None:
        """Serve ``port`` and the seven after it on every vCPU, and interrupt by GSI ``irq``.

        ``ring_page``: where in a vCPU's mapping KVM's ring of coalesced writes is; 0: it has none.
        """
        self.native.vm, self.native.irq, self.native.port = vm.fd, irq, port
        if ring_page:
            self.native.ring = vcpus[0].coalesced_ring(ring_page)
        for vcpu in vcpus:
            vcpu.serve_uart(self.native)

    @property
    def lost(self) -> int:
        """Output bytes that nobody took, those that still wait among them."""
        return untaken(self.native.out)

    def read(self, offset: int, size: int) -> int:
        """The device is eight bits wide: a wider read floats."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """A wider write reaches nobody."""
        return None

    def feed(self, data: bytes) -> int:
        """Input from the line: how many bytes were taken; the rest stays with the caller."""
        return int(lib.vmrun_uart_feed(self.native, data, len(data)))

    def flush(self) -> None:
        """The guest has halted: its last words go out."""
        lib.vmrun_uart_flush(self.native, FLUSH_MS)

    def _plan(self) -> None:
        self._loop.call_at(time.monotonic_ns() + LINGER_NS, self._look)

    def _look(self) -> None:
        if lib.vmrun_uart_look(self.native):
            self._plan()

    def _tell_room(self) -> None:
        if self.on_room is not None:
            self.on_room()


def _heard(event: int, then: Callable[[], None]) -> None:
    os.eventfd_read(event)
    then()
