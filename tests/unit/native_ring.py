"""The driver's side of one ring that native code serves, by hand; and what hostile drivers do with theirs."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from typing import Any

from runner.host.memory import Ram

SIZE, DESC, AVAIL, USED, DATA, INNER = 8, 0x1000, 0x2000, 0x3000, 0x10000, 0x8000
NEXT, WRITE, INDIRECT = 1, 2, 4
RAM = 2 << 20


class NativeRing:
    """Descriptors, available and used ring, doorbell and interrupt."""

    def __init__(self, ram: int = RAM) -> None:
        self.ram = Ram(((0, ram),))
        self.kick, self.call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.broken: list[int] = []
        self.told = threading.Event()
        self.index = 0

    def on_broken(self, *facts: int) -> None:
        """The errno comes last."""
        self.broken.append(facts[-1])
        self.told.set()

    def desc(
        self, number: int, address: int, length: int, flags: int = 0, following: int = 0, table: int = DESC
    ) -> None:
        self.ram.write(table + 16 * number, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, *heads: int, jump: int = 0, ring: bool = True) -> None:
        for head in heads:
            self.ram.write(AVAIL + 4 + 2 * (self.index % SIZE), struct.pack("<H", head))
            self.index += 1
        self.index += jump
        self.ram.write(AVAIL + 2, struct.pack("<H", self.index & 0xFFFF))
        if ring:
            os.eventfd_write(self.kick, 1)

    def interrupted(self, seconds: float = 10) -> bool:
        """Wait for the interrupt, and take it."""
        if not select.select([self.call], [], [], seconds)[0]:
            return False
        os.eventfd_read(self.call)
        return True

    @property
    def used(self) -> int:
        """How many chains have come back."""
        return int(struct.unpack("<H", self.ram.read(USED + 2, 2))[0])

    def returned(self, at: int) -> int:
        """The head of the chain that came back as the one of this number."""
        return int(struct.unpack("<I", self.ram.read(USED + 4 + 8 * (at % SIZE), 4))[0])

    def close_ring(self) -> None:
        self.ram.close()
        for fd in (self.kick, self.call):
            os.close(fd)


def loops(queue: NativeRing) -> None:
    queue.desc(0, DATA, 0, NEXT, 1)
    queue.desc(1, DATA, 0, NEXT, 0)
    queue.offer(0)


def nested(queue: NativeRing) -> None:
    queue.desc(0, INNER, 16, INDIRECT)
    queue.desc(0, INNER, 16, INDIRECT, table=INNER)
    queue.offer(0)


def oversized(queue: NativeRing) -> None:
    queue.desc(0, INNER, 16 * (SIZE + 1), INDIRECT)
    queue.offer(0)


def uneven(queue: NativeRing) -> None:
    queue.desc(0, INNER, 17, INDIRECT)
    queue.offer(0)


def outside(queue: NativeRing) -> None:
    queue.desc(0, (2 << 20) - 8, 16, NEXT, 1)
    queue.offer(0)


def wrapping(queue: NativeRing) -> None:
    queue.desc(0, 0xFFFFFFFFFFFFFFF8, 0xFFFFFFFF, NEXT, 1)
    queue.offer(0)


def strange_head(queue: NativeRing) -> None:
    queue.offer(SIZE)


def strange_next(queue: NativeRing) -> None:
    queue.desc(0, DATA, 16, NEXT, 500)
    queue.offer(0)


def jumping(queue: NativeRing) -> None:
    queue.offer(jump=SIZE + 1)


def readable_after_writable(queue: NativeRing) -> None:
    queue.desc(0, DATA, 16, WRITE | NEXT, 1)
    queue.desc(1, DATA, 16)
    queue.offer(0)


ATTACKS: list[Any] = [
    (loops, errno.ELOOP), (nested, errno.ELOOP), (oversized, errno.EOVERFLOW), (uneven, errno.EOVERFLOW),
    (outside, errno.EFAULT), (wrapping, errno.EFAULT), (strange_head, errno.ERANGE),
    (strange_next, errno.ERANGE), (jumping, errno.ERANGE), (readable_after_writable, errno.EPROTO),
]  # fmt: skip
"""(what the driver does, the errno that ends the queue)"""
