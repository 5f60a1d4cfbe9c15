"""PCI and virtio under real KVM: a guest of a few instructions drives virtio-rng by itself."""

from __future__ import annotations

import struct

import pytest

from runner.definition.model import DeviceEntry
from runner.wire import pci, virtio
from tests.kvm import tiny
from tests.kvm.tiny_virtio import BUFFER, DEVICE, DRIVER, Function, configure, memory, store, until_word

pytestmark = pytest.mark.kvm

RNG = (DeviceEntry("rng", "rng", "virtio_rng", {}),)
MOVED = 0xC8000000
COUNT = 16


def rng() -> Function:
    return Function("virtio_rng", devices=RNG)


RINGS = memory(struct.pack("<QIHH", BUFFER, COUNT, virtio.DESC_WRITE, 0))
ANSWERED = until_word(DEVICE + 2, 1) + tiny.rep_outsb(tiny.UART, BUFFER, COUNT) + tiny.exit_with(0)


def test_a_guest_gets_entropy_through_the_doorbell(boot):
    """From configuration space to the used ring: the kernel hears the doorbell, the device answers."""
    function = rng()
    run = boot(tiny.vmlinux(function.start() + function.ask() + ANSWERED, RINGS), devices=RNG)
    end = run.end()
    assert (end["reason"], end["status"]) == ("exit", 0)
    assert len(run.output) == COUNT
    assert run.output != bytes(COUNT)


def test_the_doorbell_moves_with_its_bar(boot):
    """A BAR moved while it is decoded: registers and ioeventfd are at the new place."""
    function = rng()
    code = function.start() + configure(function.slot, pci.BAR0, MOVED) + function.ask(MOVED) + ANSWERED
    run = boot(tiny.vmlinux(code, RINGS), devices=RNG)
    assert run.end()["status"] == 0
    assert run.output != bytes(COUNT)


def test_a_refused_move_leaves_everything_where_it_was(boot):
    """Device-bugs 11: onto RAM, the BAR stays, and the device works on at its old place."""
    function = rng()
    code = function.start() + configure(function.slot, pci.BAR0, 0x200000) + function.ask() + ANSWERED
    run = boot(tiny.vmlinux(code, RINGS), devices=RNG)
    assert run.end()["status"] == 0
    assert run.output != bytes(COUNT)
    assert any("stays where it was" in str(event.data) for event in run.events)


def test_a_guest_that_breaks_its_ring_reads_needs_reset(boot):
    """Device-bugs 4: an index that jumps; the machine lives and the status says what is owed."""
    function = rng()
    code = function.start() + store(DRIVER + 2, 2, 500) + function.ring()
    code += function.until_status(virtio.NEEDS_RESET)
    code += tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    run = boot(tiny.vmlinux(code, RINGS), devices=RNG)
    assert run.end()["status"] == 15 | virtio.NEEDS_RESET


def test_nobody_in_a_slot_reads_as_ones(boot):
    """Configuration space through the ports, in the live machine."""
    code = tiny.mov_dx(0xCF8) + tiny.mov_eax(0x8000F800) + b"\xef" + tiny.mov_dx(0xCFC) + b"\xed"
    code += tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    assert boot(tiny.vmlinux(code), devices=RNG).end()["status"] == 0xFF
