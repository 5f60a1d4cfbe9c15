"""The supervisor's side of a VM process that may say anything: a program that sleeps stands in for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from runner.engine.kvm.early import Waiting
from runner.engine.kvm.engine import LINE_LIMIT, KvmProcess
from runner.errors import HostError, InternalError


class FakeProcess:
    """Our end, and that of the VM process."""

    def __init__(self) -> None:
        child = subprocess.Popen(["sleep", "60"])
        ours, self.control = socket.socketpair()
        self.process = KvmProcess(Waiting(child.pid, ours.detach()))

    def tell(self, kind: str, **data: object) -> None:
        self.control.sendall(json.dumps({"kind": kind, "data": data}).encode() + b"\n")

    def starts(self) -> None:
        self.tell("phase", name="first-instruction", at_ns=1)
        self.process.await_start(5)
        self.process.events()


@pytest.fixture
def vm():
    fake = FakeProcess()
    yield fake
    fake.process.close()
    fake.control.close()


def test_a_line_of_a_device_is_not_the_start(vm):
    """A function that is passed through logs while it is plugged in; what kept the guest comes after."""
    vm.tell("log", level="warning", event="a BAR stays where it was")
    vm.tell("failed", message="no room", hint="make some", status=69)
    with pytest.raises(HostError, match="no room") as caught:
        vm.process.await_start(5)
    assert caught.value.hint == "make some"


def test_what_was_logged_before_the_start_is_not_lost(vm):
    vm.tell("log", level="warning", event="a BAR stays where it was")
    vm.tell("phase", name="first-instruction", at_ns=1)
    vm.process.await_start(5)
    assert [event.kind for event in vm.process.events()] == ["log", "phase"]


def test_lines_that_come_one_by_one_do_not_lengthen_the_patience(vm):
    vm.tell("log", level="warning", event="still busy")
    with pytest.raises(HostError, match="has not started the guest within 0 s"):
        vm.process.await_start(0.1)


@pytest.mark.parametrize(
    "words",
    [
        b"<html>\n", b"[]\n", b'{"kind": "end"}\n', b'{"kind": 1, "data": {}}\n',
        b'{"kind": "log", "data": 3}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n",
    ],
)  # fmt: skip
def test_what_is_no_event_ends_the_run_and_not_the_supervisor(vm, words):
    """A guest that has taken the VM process over may write there."""
    vm.starts()
    vm.tell("state", state="paused")
    vm.control.sendall(words)
    vm.tell("state", state="running")
    told = drained(vm)
    assert [event.kind for event in told] == ["state", "end"]
    assert told[1].data["reason"] == "engine-died"
    assert "does not speak as it should" in str(told[1].data["detail"])


def test_a_line_without_end_is_not_kept(vm):
    vm.starts()
    vm.control.setblocking(False)
    told = []
    for _ in range(4 * LINE_LIMIT // 65536):
        with suppress(BlockingIOError):
            vm.control.send(b"x" * 65536)
        told += vm.process.events()
    assert [event.data["reason"] for event in told] == ["engine-died"]
    assert len(vm.process._partial) == 0


def test_nonsense_before_the_start_is_a_fault_of_ours(vm):
    vm.control.sendall(b"nonsense\n")
    with pytest.raises(InternalError, match="does not speak as it should"):
        vm.process.await_start(5)


def drained(vm) -> list:
    """All that has been told."""
    told = []
    for _ in range(10):
        told += vm.process.events()
    return told


def test_closing_twice_kills_once(vm):
    pid = vm.process.pid
    vm.process.close()
    vm.process.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_vm_process_that_cannot_even_begin_is_not_a_second_supervisor():
    """An installation that is being replaced: a module is gone when the child wants it."""
    script = """
import sys, time
sys.modules["runner.engine.kvm.process"] = None
from runner.engine.kvm import early
try:
    waiting = early.fork()
finally:
    print("on", flush=True)
import os
print(os.waitstatus_to_exitcode(os.waitpid(waiting.pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.split() == ["on", "1"], done.stderr
