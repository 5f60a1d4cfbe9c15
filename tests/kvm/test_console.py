"""virtio-console under real KVM: a guest of a few instructions writes, and a thread in C takes it."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest

from runner.wire import virtio
from tests.kvm import tiny
from tests.kvm.tiny_virtio import BUFFER, DEVICE, DRIVER, TABLE, Function, memory, store, until_word

pytestmark = pytest.mark.kvm

TRANSMIT = 1
TEXT = b"said on the console\n"


def transmit() -> Function:
    return Function("virtio_console", TRANSMIT, console="tty")


def descriptor(address: int, length: int) -> bytes:
    return struct.pack("<QIHH", address, length, 0, 0)


def start(boot: Any, code: bytes, length: int = len(TEXT)) -> Any:
    kernel = tiny.vmlinux(code, memory(descriptor(BUFFER, length), buffer=TEXT))
    return boot(kernel, console="tty")


def heard(screen: socket.socket) -> bytes:
    """All of it; the VM process has ended, or soon will."""
    screen.settimeout(10)
    data = b""
    while part := screen.recv(1 << 16):
        data += part
    return data


def test_output_arrives_and_the_buffer_comes_back(boot):
    """Through the doorbell to the used ring, and what was said last is there before the end."""
    function = transmit()
    run = start(boot, function.start() + function.ask() + until_word(DEVICE + 2, 1) + tiny.exit_with(0))
    assert run.end()["status"] == 0
    assert heard(run.screen) == TEXT


def test_after_a_reset_the_queue_is_served_again(boot):
    """The status reads zero when the thread has let go, and the next driver begins with empty rings."""
    function = transmit()
    said = function.ask() + until_word(DEVICE + 2, 1)
    code = function.start() + said + function.status(0) + store(DRIVER + 2, 2, 0) + store(DEVICE + 2, 2, 0)
    run = start(boot, code + function.drive() + said + tiny.exit_with(0))
    assert run.end()["status"] == 0
    assert heard(run.screen) == 2 * TEXT


def word_at(address: int, instruction: bytes) -> bytes:
    """mov rdi, address; an instruction on [rdi]."""
    return b"\x48\xbf" + struct.pack("<Q", address) + instruction


def test_row_16_nobody_reads_and_the_guest_goes_on(boot):
    """Device-bugs 16: a megabyte into a console that nobody looks at, and its last words are kept."""
    function, count, length = transmit(), 256, 4096
    turn = word_at(BUFFER, b"\x88\x0f")  # mov [rdi], cl
    turn += word_at(DRIVER + 2, b"\x66\xff\x07\x66\x8b\x07")  # inc word [rdi]; mov ax, [rdi]
    turn += function.ring()
    turn += word_at(DEVICE + 2, b"\xf3\x90\x66\x39\x07\x75\xf9")  # pause; cmp [rdi], ax; jne
    turn += b"\x48\xff\xc9"  # dec rcx
    code = b"\x48\xc7\xc1" + struct.pack("<I", count) + turn  # mov rcx, count
    code += b"\x0f\x85" + struct.pack("<i", -(len(turn) + 6)) + tiny.say(b"done")  # jnz
    code += tiny.inb(tiny.UART + 5) + b"\xa8\x01\x74\xfb"  # until there is input
    run = start(boot, function.start() + code + tiny.exit_with(0), length)
    run.until(lambda: run.output == b"done")
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(heard(run.screen)))
    reader.start()
    run.console.send(b"!")
    assert run.end()["status"] == 0
    reader.join()
    assert [said[0][-length * at] for at in range(16, 0, -1)] == list(range(16, 0, -1))
    assert len(said[0]) < count * length


def test_a_guest_that_breaks_the_ring_reads_needs_reset(boot):
    """Device-bugs 4, found in C: the machine lives, and the log says which queue it was."""
    function = transmit()
    code = function.start() + store(DRIVER + 2, 2, 500) + function.ring()
    run = start(
        boot, code + function.until_status(virtio.NEEDS_RESET) + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    )
    assert run.end()["status"] == 15 | virtio.NEEDS_RESET
    assert any("transmit queue of console" in str(event.data) for event in run.events)


def test_a_descriptor_outside_memory_ends_the_queue(boot):
    """Device-bugs 5: nothing of the host is sent."""
    function = transmit()
    code = function.start() + store(TABLE + 6, 2, 0x7FFF) + function.ask()
    run = start(boot, code + function.until_status(virtio.NEEDS_RESET) + tiny.exit_with(0))
    assert run.end()["status"] == 0
    assert heard(run.screen) == b""
