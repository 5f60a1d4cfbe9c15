"""PCI and virtio under real KVM: a guest of a few instructions drives virtio-rng by itself."""

from __future__ import annotations

import struct

import pytest

from runner.bus import virtio_pci
from runner.definition.model import DeviceEntry
from runner.wire import pci, virtio
from tests.kvm import tiny
from tests.kvm.conftest import graph

pytestmark = pytest.mark.kvm

RNG = (DeviceEntry("rng", "rng", "virtio_rng", {}),)
DATA = tiny.BASE + 0x1000
TABLE, DRIVER, DEVICE, BUFFER = DATA, DATA + 0x100, DATA + 0x200, DATA + 0x300
MOVED = 0xC8000000
COUNT = 16
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


class Rng:
    """Where the plan has put the function."""

    def __init__(self) -> None:
        node = next(node for node in graph(devices=RNG).nodes if node.kind == "virtio_rng")
        assert node.claim.pci is not None
        assert node.claim.pci.slot is not None
        self.slot = node.claim.pci.slot
        self.bar = node.claim.pci.bars[0].at or 0

    def common(self, register: int, size: int, value: int) -> bytes:
        return store(self.bar + virtio_pci.COMMON + register, size, value)

    def status(self, value: int) -> bytes:
        return self.common(virtio.COMMON_STATUS, 1, value)

    def start(self) -> bytes:
        """Decode, negotiate VERSION_1, set up queue 0, DRIVER_OK."""
        code = tiny.mov_rax(PAGES) + b"\x0f\x22\xd8"  # mov cr3, rax
        code += configure(self.slot, pci.COMMAND, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
        code += self.status(0) + self.status(1) + self.status(3)
        code += self.common(virtio.COMMON_DRIVER_FEATURE_SELECT, 4, 1)
        code += self.common(virtio.COMMON_DRIVER_FEATURE, 4, virtio.F_VERSION_1 >> 32)
        code += self.status(11)
        code += self.common(virtio.COMMON_QUEUE_SELECT, 2, 0)
        for register, address in (
            (virtio.COMMON_QUEUE_DESC, TABLE),
            (virtio.COMMON_QUEUE_DRIVER, DRIVER),
            (virtio.COMMON_QUEUE_DEVICE, DEVICE),
        ):
            code += self.common(register, 4, address)
        return code + self.common(virtio.COMMON_QUEUE_ENABLE, 2, 1) + self.status(15)

    def ask(self, bar: int | None = None) -> bytes:
        """Offer the one descriptor and ring the doorbell."""
        return store(DRIVER + 2, 2, 1) + self.ring(bar)

    def ring(self, bar: int | None = None) -> bytes:
        return store((bar or self.bar) + virtio_pci.NOTIFY, 2, 0)


def rings() -> bytes:
    """The data segment: one writable descriptor of COUNT bytes, empty rings, page tables."""
    descriptor = struct.pack("<QIHH", BUFFER, COUNT, virtio.DESC_WRITE, 0)
    return descriptor.ljust(PAGES - DATA, b"\0") + page_tables()


ANSWERED = until_word(DEVICE + 2, 1) + tiny.rep_outsb(tiny.UART, BUFFER, COUNT) + tiny.exit_with(0)


def test_a_guest_gets_entropy_through_the_doorbell(boot):
    """From configuration space to the used ring: the kernel hears the doorbell, the device answers."""
    rng = Rng()
    run = boot(tiny.vmlinux(rng.start() + rng.ask() + ANSWERED, rings()), devices=RNG)
    end = run.end()
    assert (end["reason"], end["status"]) == ("exit", 0)
    assert len(run.output) == COUNT
    assert run.output != bytes(COUNT)


def test_the_doorbell_moves_with_its_bar(boot):
    """A BAR moved while it is decoded: registers and ioeventfd are at the new place."""
    rng = Rng()
    code = rng.start() + configure(rng.slot, pci.BAR0, MOVED) + rng.ask(MOVED) + ANSWERED
    run = boot(tiny.vmlinux(code, rings()), devices=RNG)
    assert run.end()["status"] == 0
    assert run.output != bytes(COUNT)


def test_a_refused_move_leaves_everything_where_it_was(boot):
    """Device-bugs 11: onto RAM, the BAR stays, and the device works on at its old place."""
    rng = Rng()
    code = rng.start() + configure(rng.slot, pci.BAR0, 0x200000) + rng.ask() + ANSWERED
    run = boot(tiny.vmlinux(code, rings()), devices=RNG)
    assert run.end()["status"] == 0
    assert run.output != bytes(COUNT)
    assert any("stays where it was" in str(event.data) for event in run.events)


def test_a_guest_that_breaks_its_ring_reads_needs_reset(boot):
    """Device-bugs 4: an index that jumps; the machine lives and the status says what is owed."""
    rng = Rng()
    status = rng.bar + virtio_pci.COMMON + virtio.COMMON_STATUS
    wait = load(status, 1) + b"\xa8" + bytes((virtio.NEEDS_RESET,)) + b"\x74"
    wait += struct.pack("b", -(len(wait) + 1))
    code = rng.start() + store(DRIVER + 2, 2, 500) + rng.ring() + wait
    code += load(status, 1) + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    run = boot(tiny.vmlinux(code, rings()), devices=RNG)
    assert run.end()["status"] == 15 | virtio.NEEDS_RESET


def test_nobody_in_a_slot_reads_as_ones(boot):
    """Configuration space through the ports, in the live machine."""
    code = tiny.mov_dx(0xCF8) + tiny.mov_eax(0x8000F800) + b"\xef" + tiny.mov_dx(0xCFC) + b"\xed"
    code += tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    assert boot(tiny.vmlinux(code), devices=RNG).end()["status"] == 0xFF
