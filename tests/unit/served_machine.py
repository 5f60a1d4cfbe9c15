"""A machine without KVM, for backends: real memory, a real event loop, doorbells that are eventfds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import RLock
from typing import Any

from runner.engine.kvm.loop import DeviceLoop
from runner.host.memory import Ram

PATIENCE = 60.0


class Machine:
    """What a backend in the VM process sees of it."""

    def __init__(self, *, layout: tuple[tuple[int, int], ...] = ((0, 4 << 20),)) -> None:
        self.lock = RLock()
        self.loop = DeviceLoop(self.lock)
        self.ram = Ram(layout, shared=True)
        self.logged: list[tuple[str, str, dict[str, Any]]] = []
        self.failures: list[str] = []

    def log(self, level: str, event: str, **data: int | str) -> None:
        self.logged.append((level, event, dict(data)))

    def host_failed(self, detail: str) -> None:
        self.failures.append(detail)

    def turn(self, seconds: float = 0.05) -> None:
        """Let the device loop run for so long, and five times at least: a busy machine may be late."""
        for patience in (seconds, 0, 0, 0, 0):
            self.loop.running = True
            self.loop.call_at(time.monotonic_ns() + int(patience * 1e9), self.loop.stop)
            self.loop.run()

    def until(self, met: Callable[[], object]) -> None:
        """Turn until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not met():
            assert time.monotonic() < deadline, "it never happened"
            self.turn(0.005)


class Bell:
    """Doorbell with the eventfd that the kernel would signal."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.heard_here = True

    def listen(self, on_ring: Callable[[], None]) -> None:
        self.heard_here = True

    def deaf(self) -> None:
        self.heard_here = False


class Vectors:
    """The function's messages: one eventfd each."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def eventfd(self, vector: int) -> int:
        return self._fds.setdefault(vector, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


class Attachment:
    """What a joined backend asks of its device's attachment."""

    def __init__(self) -> None:
        self.vectors = Vectors()

    def msi(self) -> Vectors:
        return self.vectors
