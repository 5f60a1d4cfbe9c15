"""Each way a guest can end has its own reason."""

from __future__ import annotations

import os
import signal

import pytest

from tests.kvm import tiny
from tests.kvm.conftest import SECONDS

pytestmark = pytest.mark.kvm


def test_the_exit_port_carries_all_eight_bits(boot):
    end = boot(tiny.vmlinux(tiny.exit_with(203))).end()
    assert (end["reason"], end["status"]) == ("exit", 203)


def test_power_off_by_acpi(boot):
    code = tiny.outw(tiny.PM1_CONTROL, 5 << 10 | 1 << 13) + tiny.IDLE
    assert boot(tiny.vmlinux(code)).end()["reason"] == "power-off"


@pytest.mark.parametrize(("port", "value"), [(tiny.I8042, 0xFE), (tiny.RESET_PORT, 6)])
def test_reset_by_each_register(boot, port, value):
    assert boot(tiny.vmlinux(tiny.outb(port, value) + tiny.IDLE)).end()["reason"] == "reset"


def test_a_fault_without_handlers_is_a_triple_fault(boot):
    code = tiny.store32(tiny.BASE + 0x1000, 0) + tiny.lidt(tiny.BASE + 0x1000) + tiny.UD2
    assert boot(tiny.vmlinux(code, bytes(16))).end()["reason"] == "triple-fault"


def test_output_that_came_before_the_end_is_all_there(boot):
    text = b"last words, no newline"
    run = boot(tiny.vmlinux(tiny.say(text) + tiny.exit_with(0)))
    run.end()
    assert run.output == text


def test_a_spinning_guest_can_be_told_to_quit(boot):
    run = boot(tiny.vmlinux(tiny.say(b"x") + tiny.SPIN))
    run.until(lambda: run.output == b"x")
    run.process.ask("quit")
    _, status = os.waitpid(run.process.pid, 0)
    assert status == 0
    run.process._closed = True


def test_killing_the_vm_process_closes_the_console(boot):
    run = boot(tiny.vmlinux(tiny.say(b"x") + tiny.IDLE))
    run.until(lambda: run.output == b"x")
    os.kill(run.process.pid, signal.SIGKILL)
    run.console.settimeout(SECONDS)
    assert run.console.recv(1) == b""
