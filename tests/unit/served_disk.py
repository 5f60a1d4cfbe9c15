"""A disk as it runs: the native data path on a file, behind a device that a test drives."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from runner.devices.ports import OffloadedQueue
from runner.host.disk import DiskQueues
from runner.host.memory import Ram
from runner.host.ring import RingAddresses
from runner.wire import virtio
from tests.unit.virtio_driver import HIGH, RAM, Memory

ALL = (1 << 24) - 1 | virtio.RING_FEATURES
PATIENCE = 10.0


class NativeMemory(Memory):
    """Guest memory that threads in C reach, too."""

    def __init__(self, size: int = RAM) -> None:
        self.ram = Ram(((0, size), (HIGH, size)))
        self.regions = {each.start: each.bytes_ for each in self.ram.regions}  # type: ignore[misc]

    def close(self) -> None:
        self.ram.close()


class ServedDisk:
    """``QueueOffload`` with a ``DiskShape``, as runner.backends.block has it, without a machine."""

    readonly = False
    block_size = sector = 512
    discards = True
    config = b""
    features = ALL

    def __init__(self, memory: NativeMemory, queues: int = 1, capacity: int = 64 * 512) -> None:
        self.capacity = capacity
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.file.truncate(capacity)
        self.on_broken: Callable[[str], None] | None = None
        self._memory = memory
        self._queues = DiskQueues(
            memory.ram, self.file.fileno(), queues=queues, capacity=capacity, readonly=False, discards=True,
            serial=b"serial",
        )  # fmt: skip
        self._bells: dict[int, tuple[int, int, OffloadedQueue]] = {}
        self._broken: list[str] = []

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """One thread a queue."""
        for queue in queues:
            kick, call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
            self._bells[queue.number] = kick, call, queue
            self._queues.start(
                RingAddresses(queue.number, queue.size, queue.descriptors, queue.driver, queue.device),
                kick=kick, call=call, indirect=bool(features & virtio.F_INDIRECT_DESC),
                event_idx=bool(features & virtio.F_EVENT_IDX), write_through=False,
                on_broken=lambda number, error: self._broken.append(f"queue {number}: {os.strerror(error)}"),
            )  # fmt: skip
            self.kick(queue.number)

    def stop(self, done: Callable[[], None]) -> None:
        """When no thread touches the memory any more."""
        self._queues.stop()
        for kick, call, _ in self._bells.values():
            os.close(kick)
            os.close(call)
        self._bells = {}
        self._broken = []
        done()

    def kick(self, number: int) -> None:
        """Ring for the guest."""
        if number in self._bells:
            os.eventfd_write(self._bells[number][0], 1)

    def turn(self) -> None:
        """What the device's thread would hear now: interrupts, and that a rule was broken."""
        for _, call, queue in tuple(self._bells.values()):
            try:
                os.eventfd_read(call)
            except BlockingIOError:
                continue
            queue.signal()
        while self._broken and self.on_broken is not None:
            self.on_broken(self._broken.pop(0))

    def until(self, met: Callable[[], Any]) -> Any:
        """Turn until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not (found := met()):
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.001)
            self.turn()
        return found

    def close(self) -> None:
        self.stop(lambda: None)
        self._queues.close()
        self.file.close()
