"""A console's transmit queue served by the native data path (host/native/console.c)."""

from __future__ import annotations

import os

from runner.host.affinity import run_anywhere
from runner.host.memory import Ram
from runner.host.native._native import ffi, lib
from runner.host.outlet import FLUSH_MS, PATIENCE_MS, untaken
from runner.host.ring import RingAddresses, RingMemory
from runner.light import Thread
from runner.typed import Callable

SPIN_NS = 50_000  # what a doorbell and a wake-up cost together, in the lab's best case


class TransmitQueue:
    """What the driver says goes into ``sink``, a non-blocking socket; between two drivers nobody serves."""

    def __init__(self, ram: Ram, sink: int) -> None:
        self._memory = RingMemory(ram)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        console = lib.vmrun_console_new(sink, self._wake)
        if console == ffi.NULL:
            raise MemoryError
        self._native = ffi.gc(console, lib.vmrun_console_free)
        self._native.spin_ns, self._native.out.patience_ms = SPIN_NS, PATIENCE_MS
        self._thread: Thread | None = None

    @property
    def lost(self) -> int:
        """Bytes that nobody has taken."""
        return untaken(self._native.out)

    def start(
        self,
        ring: RingAddresses,
        *,
        kick: int,
        call: int,
        indirect: bool,
        event_idx: bool,
        on_broken: Callable[[int], None],
    ) -> None:
        """Serve ``ring``; ``on_broken(errno)`` from its thread when the driver breaks a rule.

        Raises OSError when the ring's addresses are no RAM.
        """
        native = self._native
        self._memory.open(native, ring, indirect=indirect, event_idx=event_idx)
        native.kick, native.call, native.stopping = kick, call, False

        def serve() -> None:
            run_anywhere()
            broken = lib.vmrun_console_serve(native)
            if broken < 0:
                on_broken(-broken)

        self._thread = Thread(target=serve, name=f"console-queue{ring.number}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No guest memory is touched any more when this returns; what the socket has not taken waits."""
        if self._thread is not None:
            self._native.stopping = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None

    def say(self, data: bytes) -> int:
        """Output beside the queue, in order with it; the number of bytes that were taken."""
        taken = 0
        for byte in data:
            taken += lib.vmrun_console_say(self._native, byte)
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
        else:
            lib.vmrun_console_flush(self._native, 0)
        return taken

    def flush(self) -> None:
        """The guest has halted: its last words go out."""
        self.stop()
        lib.vmrun_console_flush(self._native, FLUSH_MS)
