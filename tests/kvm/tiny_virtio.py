"""A virtio driver of a few instructions: one queue of one function, spoken to as a tiny guest does."""

from __future__ import annotations

import struct
from typing import Any

from runner.bus import virtio_pci
from runner.wire import pci, virtio
from tests.kvm import tiny
from tests.kvm.conftest import graph

DATA = tiny.BASE + 0x1000
TABLE, DRIVER, DEVICE, BUFFER = DATA, DATA + 0x100, DATA + 0x200, DATA + 0x300
PAGES = DATA + 0x1000  # page tables of our own: the entry's reach only low memory
PRESENT, LARGE = 3, 0x83


def store(address: int, size: int, value: int) -> bytes:
    """mov rdi, address; mov [rdi], value."""
    opcode = {1: b"\xc6\x07", 2: b"\x66\xc7\x07", 4: b"\xc7\x07"}[size]
    return b"\x48\xbf" + struct.pack("<Q", address) + opcode + value.to_bytes(size, "little")


def load(address: int, size: int) -> bytes:
    """Into AL, AX or EAX."""
    return (
        b"\x48\xbf" + struct.pack("<Q", address) + {1: b"\x8a\x07", 2: b"\x66\x8b\x07", 4: b"\x8b\x07"}[size]
    )


def configure(slot: str, register: int, value: int) -> bytes:
    """A dword to configuration space through 0xcf8 and 0xcfc."""
    address = 1 << 31 | pci.slot_number(slot) << 8 | register
    words = ((0xCF8, address), (0xCFC, value))
    return b"".join(tiny.mov_dx(port) + tiny.mov_eax(word) + b"\xef" for port, word in words)


def until_word(address: int, value: int) -> bytes:
    """Spin until the 16-bit word has this value."""
    body = load(address, 2) + b"\x66\x3d" + struct.pack("<H", value)
    return body + b"\xf3\x90" + b"\x75" + struct.pack("b", -(len(body) + 4))


def page_tables() -> bytes:
    """The first and the fourth GiB, identity-mapped in pages of 2 MiB (SDM volume 3, 4.5)."""
    top = struct.pack("<Q", PAGES + 0x1000 | PRESENT).ljust(0x1000, b"\0")
    entries = [PAGES + 0x2000 | PRESENT, 0, 0, PAGES + 0x3000 | PRESENT]
    directories = struct.pack("<4Q", *entries).ljust(0x1000, b"\0")
    for gib in (0, 3):
        directories += b"".join(struct.pack("<Q", (gib << 30) + (at << 21) | LARGE) for at in range(512))
    return top + directories


class Function:
    """Where the plan has put the function of this kind, and what a driver of its queue ``queue`` does."""

    def __init__(self, kind: str, queue: int = 0, **machine: Any) -> None:
        node = next(node for node in graph(**machine).nodes if node.kind == kind)
        assert node.claim.pci is not None
        assert node.claim.pci.slot is not None
        self.slot, self.queue = node.claim.pci.slot, queue
        self.bar = node.claim.pci.bars[0].at or 0

    def common(self, register: int, size: int, value: int) -> bytes:
        return store(self.bar + virtio_pci.COMMON + register, size, value)

    def status(self, value: int) -> bytes:
        return self.common(virtio.COMMON_STATUS, 1, value)

    def until_status(self, bits: int) -> bytes:
        """Spin until one of the bits is set; the status is in AL then."""
        body = (
            load(self.bar + virtio_pci.COMMON + virtio.COMMON_STATUS, 1) + b"\xa8" + bytes((bits,)) + b"\x74"
        )
        return body + struct.pack("b", -(len(body) + 1))

    def start(self) -> bytes:
        """Our page tables, decode, and :meth:`drive`."""
        code = tiny.mov_rax(PAGES) + b"\x0f\x22\xd8"  # mov cr3, rax
        code += configure(self.slot, pci.COMMAND, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
        return code + self.status(0) + self.drive()

    def drive(self) -> bytes:
        """Negotiate VERSION_1, set up the queue, DRIVER_OK."""
        code = self.status(1) + self.status(3)
        code += self.common(virtio.COMMON_DRIVER_FEATURE_SELECT, 4, 1)
        code += self.common(virtio.COMMON_DRIVER_FEATURE, 4, virtio.F_VERSION_1 >> 32)
        code += self.status(11)
        code += self.common(virtio.COMMON_QUEUE_SELECT, 2, self.queue)
        for register, address in (
            (virtio.COMMON_QUEUE_DESC, TABLE),
            (virtio.COMMON_QUEUE_DRIVER, DRIVER),
            (virtio.COMMON_QUEUE_DEVICE, DEVICE),
        ):
            code += self.common(register, 4, address)
        return code + self.common(virtio.COMMON_QUEUE_ENABLE, 2, 1) + self.status(15)

    def ask(self, bar: int | None = None) -> bytes:
        """Offer the first descriptor and ring the doorbell."""
        return store(DRIVER + 2, 2, 1) + self.ring(bar)

    def ring(self, bar: int | None = None) -> bytes:
        at = (bar or self.bar) + virtio_pci.NOTIFY + virtio_pci.NOTIFY_MULTIPLIER * self.queue
        return store(at, 2, self.queue)


def memory(*descriptors: bytes, buffer: bytes = b"") -> bytes:
    """The data segment: descriptors, empty rings, what is in the buffer, page tables."""
    head = b"".join(descriptors).ljust(BUFFER - DATA, b"\0") + buffer
    assert len(head) <= PAGES - DATA
    return head.ljust(PAGES - DATA, b"\0") + page_tables()
