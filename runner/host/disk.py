"""A disk's queues served by the native data path (host/native/blk.c), one thread a queue."""

from __future__ import annotations

import os

from runner.errors import HostError
from runner.host.affinity import run_anywhere
from runner.host.memory import Ram
from runner.host.native._native import ffi, lib
from runner.host.ring import RingAddresses, RingMemory
from runner.light import Thread
from runner.typed import Any, Callable

ENTRIES = 512  # of virtio_blk.QUEUE_SIZE
SLOW_NS = 2_000_000  # a buffered write that takes longer waits for a disk


class DiskQueues:
    """The native side of one disk: its queues live as long as the driver wants them."""

    def __init__(
        self,
        ram: Ram,
        fd: int,
        *,
        queues: int,
        capacity: int,
        readonly: bool,
        discards: bool,
        overlay: int = -1,
        serial: bytes = b"",
        align: int = 0,
    ) -> None:
        self._memory = RingMemory(ram)
        self.notice = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        cow = lib.vmrun_overlay_new(capacity) if overlay >= 0 else None
        if cow is not None and cow == ffi.NULL:
            mib = capacity >> 39  # a bit for each 64 KiB
            raise HostError(f"the map of an ephemeral disk, {mib} MiB, does not fit into memory")
        self._flush_failed = ffi.new("int *")
        self._blks = [self._make(fd, capacity, readonly, discards, serial, align) for _ in range(queues)]
        for blk in self._blks:
            if cow is not None:
                lib.vmrun_blk_use_overlay(blk, overlay, cow)
        self._threads: list[Thread] = []

    def _make(self, fd: int, capacity: int, readonly: bool, discards: bool, serial: bytes, align: int) -> Any:
        blk = lib.vmrun_blk_new(ENTRIES)
        if blk == ffi.NULL:
            raise HostError(
                f"io_uring cannot be set up: {os.strerror(ffi.errno)}",
                hint="sysctl kernel.io_uring_disabled=0, where the kernel has that switch",
            )
        blk.fd, blk.capacity = fd, capacity
        blk.readonly, blk.discards, blk.align = readonly, discards, align
        blk.in_memory = lib.vmrun_blk_in_memory(fd)
        blk.flush_failed = self._flush_failed
        blk.slow_ns, blk.notice = SLOW_NS, self.notice
        blk.serial = serial[:20].ljust(20, b"\0")
        blk.stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return blk

    def start(
        self,
        ring: RingAddresses,
        *,
        kick: int,
        call: int,
        indirect: bool,
        event_idx: bool,
        write_through: bool,
        on_broken: Callable[[int, int], None],
    ) -> None:
        """Serve ``ring``; ``on_broken(queue, errno)`` from its thread when the driver breaks a rule.

        Raises OSError when the ring's addresses are no RAM.
        """
        blk = self._blks[ring.number]
        self._memory.open(blk, ring, indirect=indirect, event_idx=event_idx)
        blk.kick, blk.call, blk.write_through = kick, call, write_through

        def serve() -> None:
            run_anywhere()
            broken = lib.vmrun_blk_serve(blk)
            if broken < 0:
                on_broken(ring.number, -broken)

        thread = Thread(target=serve, name=f"disk-queue{ring.number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """No guest memory is touched any more when this returns."""
        for blk in self._blks:
            os.eventfd_write(blk.stop, 1)
        for thread in self._threads:
            thread.join()
        self._threads = []
        for blk in self._blks:  # a queue that never ran must not stop at once when it does
            try:
                os.eventfd_read(blk.stop)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Stop, and give back what the queues hold of this process."""
        self.stop()
        for blk in self._blks:
            os.close(blk.stop)
            lib.vmrun_blk_free(blk)
        self._blks = []
        os.close(self.notice)

    def errors(self) -> tuple[int, int]:
        """How many requests have failed so far, and the errno of the last."""
        last = [blk.last_error for blk in self._blks if blk.last_error]
        return sum(blk.errors for blk in self._blks), last[-1] if last else 0
