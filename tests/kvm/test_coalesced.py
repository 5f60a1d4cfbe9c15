"""Much output on the serial port: KVM puts the bytes by, and nothing about them changes."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from tests.kvm import tiny

pytestmark = pytest.mark.kvm

TEXT = b"".join(b"%06d\n" % number for number in range(2000))
LSR = tiny.UART + 5


def loop(body: bytes, count: int) -> bytes:
    """``body`` for each byte of the text, which it finds in AL (it keeps RSI and RCX)."""
    head = b"\x48\xc7\xc6" + struct.pack("<I", tiny.BASE + 0x1000)  # mov rsi, text
    head += b"\x48\xc7\xc1" + struct.pack("<I", count) + b"\xfc"  # mov rcx, count; cld
    turn = b"\xac" + body + b"\x48\xff\xc9"  # lodsb; body; dec rcx
    return head + turn + b"\x0f\x85" + struct.pack("<i", -(len(turn) + 6))  # jnz


WRITE = tiny.mov_dx(tiny.UART) + b"\xee"
POLL = b"\x50" + tiny.inb(LSR) + b"\xa8\x20\x74\xfb\x58"  # push rax; in; test al, 0x20; jz; pop rax


def counted(run) -> tuple[bytes, dict]:
    end = run.end()
    return run.output, end["facts"]["counters"][0]


def test_all_bytes_come_in_order_before_the_end_and_most_cost_no_exit(boot):
    output, counters = counted(boot(tiny.vmlinux(loop(WRITE, len(TEXT)) + tiny.exit_with(0), TEXT)))
    assert output == TEXT
    assert counters["exits"] < len(TEXT) / 10


def test_a_driver_that_polls_for_room_is_answered_without_python(boot):
    code = tiny.outb(tiny.UART + 1, 0) + loop(POLL + WRITE, 2000) + tiny.exit_with(0)
    output, counters = counted(boot(tiny.vmlinux(code, TEXT)))
    assert output == TEXT[:2000]
    assert counters["quiet"] >= 1900


def test_a_guest_that_writes_and_then_sleeps_for_ever_is_heard(boot):
    run = boot(tiny.vmlinux(loop(WRITE, 1000) + tiny.IDLE, TEXT))
    run.until(lambda: len(run.output) >= 1000)
    assert run.output == TEXT[:1000]


def test_what_is_written_after_a_pause_is_in_order_too(boot):
    """The port goes back to an exit a byte when nothing comes, and to the ring again; LSR tells of input."""
    code = loop(WRITE, 500) + tiny.WAIT_FOR_INPUT + loop(WRITE, 500) + tiny.say(b"end") + tiny.exit_with(0)
    run = boot(tiny.vmlinux(code, TEXT))
    run.until(lambda: len(run.output) >= 500)
    time.sleep(0.5)
    run.console.send(b"x")
    output, _ = counted(run)
    assert output == TEXT[:500] * 2 + b"end"


def test_the_divisor_is_not_output(boot):
    """While DLAB is set, offset 0 is no data: an LCR write comes between, so the order holds."""
    latch = tiny.outb(tiny.UART + 3, 0x83) + tiny.outb(tiny.UART, 1) + tiny.outb(tiny.UART + 3, 0x03)
    code = loop(WRITE, 300) + latch + loop(WRITE, 300) + tiny.exit_with(0)
    output, _ = counted(boot(tiny.vmlinux(code, TEXT)))
    assert output == TEXT[:300] * 2


def test_what_nobody_takes_holds_nothing_up_and_is_counted(boot):
    """device-bugs 16: the guest comes to its end, and how much is missing is told."""
    held = int(Path("/proc/sys/net/core/wmem_default").read_text()) + 65536  # by a socket and the port's ring
    rounds = 2 * held // len(TEXT)
    code = loop(WRITE, len(TEXT)) * rounds + tiny.say(b"end") + tiny.exit_with(0)
    run = boot(tiny.vmlinux(code, TEXT))
    deadline = time.monotonic() + 60
    while not run.told("end"):
        assert time.monotonic() < deadline
        run.events += run.process.events()
        time.sleep(0.05)
    end = run.end()
    assert end["dropped"] > 0
    assert len(run.output) + end["dropped"] == rounds * len(TEXT) + 3
