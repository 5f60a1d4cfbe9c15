"""The VM process gets its machine first and what its devices need of the host afterwards."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from runner.definition.model import Cpus
from runner.engine.kvm import early
from runner.engine.kvm.engine import KvmEngine, KvmProcess
from runner.engine.protocol import Resources
from runner.errors import InternalError, VmrunError
from runner.graph.model import BootFiles
from tests.kvm import tiny
from tests.kvm.conftest import graph
from tests.kvm.run import Run

pytestmark = pytest.mark.kvm


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Line(ours, theirs)


class Line(NamedTuple):
    """A serial line: its end outside, and the guest's."""

    ours: socket.socket
    theirs: socket.socket

    @property
    def resources(self) -> Resources:
        return Resources({"serial": self.theirs.fileno()})

    def end_of(self, process: KvmProcess) -> Run:
        """The run of a guest that has this line, once it is over."""
        self.theirs.close()
        run = Run(process, self.ours)
        try:
            run.end()
        finally:
            process.close()
        return run


def files(tmp_path, kernel: bytes) -> BootFiles:
    path = tmp_path / "kernel"
    path.write_bytes(kernel)
    return BootFiles(str(path), None, str(path))


def test_a_machine_prepared_beforehand_starts_when_its_resources_come(tmp_path, line):
    engine = KvmEngine(early.fork())
    machine, boot = graph(), files(tmp_path, tiny.vmlinux(tiny.exit_with(5)))
    engine.prepare(machine, boot)
    engine.prepare(machine, boot)  # once is enough
    guest = engine.start(machine, boot, line.resources)
    assert [end["status"] for end in line.end_of(guest).told("end")] == [5]


def test_a_kernel_that_is_none_is_told_at_the_start(tmp_path, line):
    """It is loaded on a thread, whose fault waits until the resources have come."""
    engine = KvmEngine(early.fork())
    machine, boot = graph(), files(tmp_path, b"no kernel at all" * 64)
    engine.prepare(machine, boot)
    with pytest.raises(VmrunError, match="kernel"):
        engine.start(machine, boot, line.resources)


def test_what_a_process_said_that_ended_before_the_resources_came_is_told_at_the_start(tmp_path, line):
    waiting = early.fork()
    engine = KvmEngine(waiting)
    machine = graph()._replace(cpus=Cpus(features=("+nosuch",)))
    boot = files(tmp_path, tiny.vmlinux(tiny.IDLE))
    engine.prepare(machine, boot)
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)  # nobody takes the resources any more
    with pytest.raises(VmrunError, match="nosuch"):
        engine.start(machine, boot, line.resources)


def test_a_machine_that_is_not_wanted_after_all_is_gone_at_once(tmp_path):
    waiting = early.fork()
    KvmEngine(waiting).prepare(graph(), files(tmp_path, tiny.vmlinux(tiny.IDLE)))
    pid = waiting.pid
    waiting.close()
    waiting.close()
    assert not os.path.exists(f"/proc/{pid}")


@pytest.fixture
def thousand_descriptors() -> Iterator[None]:
    """More than select(2) can number, as a machine with many disks and queues has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as keep:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        keep.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1024):
            keep.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        yield


@pytest.mark.usefixtures("thousand_descriptors")
@pytest.mark.parametrize("prepared", [False, True])
def test_a_vm_process_that_is_killed_early_is_an_end_like_a_later_one(tmp_path, line, prepared):
    """The status is that of ``engine-died`` (70), and the signal is named, whenever it comes."""
    waiting = early.fork()
    engine = KvmEngine(waiting)
    machine, boot = graph(), files(tmp_path, tiny.vmlinux(tiny.IDLE))
    if prepared:
        engine.prepare(machine, boot)
    os.kill(waiting.pid, signal.SIGKILL)
    with pytest.raises(InternalError, match=r"first instruction \(killed by SIGKILL\)") as caught:
        engine.start(machine, boot, line.resources)
    assert caught.value.status == 70
    assert "dmesg" in caught.value.hint


def test_what_the_vm_process_did_until_then_is_told_in_order(tmp_path, line):
    """The guest does not wait for it: its first instruction is told first, the rest with their times."""
    engine = KvmEngine(early.fork())
    machine, boot = graph(), files(tmp_path, tiny.vmlinux(tiny.exit_with(5)))
    engine.prepare(machine, boot)
    guest = engine.start(machine, boot, line.resources)
    phases = {phase["name"]: phase["at_ns"] for phase in line.end_of(guest).told("phase")}
    assert next(iter(phases)) == "first-instruction"
    assert phases["vm-job-received"] <= phases["vm-kernel-read"] <= phases["first-instruction"]
    assert phases["vm-imported"] <= phases["vm-devices-built"] <= phases["first-instruction"]
