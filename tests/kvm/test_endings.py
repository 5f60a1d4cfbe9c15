"""Each way a guest can end has its own reason."""

from __future__ import annotations

import os
import signal

import pytest

from runner.engine.kvm import registers
from tests.kvm import tiny
from tests.kvm.run import SECONDS

pytestmark = pytest.mark.kvm

NOWHERE = 0x30000000
"""Within the page tables that the guest starts with, and behind its memory."""


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


def test_an_instruction_that_kvm_cannot_emulate_is_an_emulation_failure(boot):
    """Where there is no memory every KVM has to emulate, and no emulator has a 16-byte exchange."""
    end = boot(tiny.vmlinux(tiny.cmpxchg16b(NOWHERE))).end()
    assert (end["reason"], end["detail"]) == (
        "emulation-failure",
        "vCPU 0: KVM could not emulate an instruction",
    )
    assert end["facts"]["registers"]["rip"] == f"{tiny.BASE:#x}"


@pytest.mark.guest  # a KVM that enters hardware; one that interprets never fails to enter
def test_a_state_that_the_cpu_refuses_to_enter_is_told_as_such(boot, monkeypatch):
    """CS with both L and D set (APM volume 2 §15.5.1, SDM volume 3 §26.3.1.2): KVM itself lets it pass."""
    enter = registers.enter

    def enter_badly(vcpu, state):
        enter(vcpu, state._replace(cs=state.cs._replace(l=1, db=1)))

    monkeypatch.setattr(registers, "enter", enter_badly)
    end = boot(tiny.vmlinux(tiny.exit_with(0))).end()
    assert end["reason"] == "entry-failed"
    assert end["detail"].startswith("vCPU 0: hardware entry failure reason 0x")


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


@pytest.mark.parametrize("merges", [True, False])
def test_a_host_that_merges_no_pages_is_told(boot, monkeypatch, merges):
    """`memory.merge` is advice; where the kernel does not take it, the user hears so."""
    from runner.host.memory import Ram

    monkeypatch.setattr(Ram, "merge", lambda self: merges)
    run = boot(tiny.vmlinux(tiny.exit_with(0)), merge=True)
    run.end()
    said = [event.data["event"] for event in run.events if event.kind == "log"]
    assert [("no effect" in line) for line in said] == ([] if merges else [True])
