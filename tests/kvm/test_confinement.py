"""The process that runs a guest has nothing to give to one that takes it over."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runner.backends import pmem
from runner.definition.model import DeviceEntry
from runner.engine.kvm.engine import KvmEngine
from runner.engine.protocol import BootFiles, Resources
from tests.kvm import tiny
from tests.kvm.conftest import Run, graph

pytestmark = pytest.mark.kvm

SIZE = 2 << 20


@pytest.fixture
def run(tmp_path):
    """A guest with two CPUs and persistent memory, whose file a thread writes back."""
    (tmp_path / "data").write_bytes(bytes(SIZE))
    given = {"path": {"text": "data", "resolved": str(tmp_path / "data")}, "size": SIZE}
    made = graph(cpus=2, devices=(DeviceEntry("pmem", "data", "virtio_pmem", given),))
    claim = next(node for node in made.nodes if node.kind == "virtio_pmem").claim.backends[0]
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny.vmlinux(tiny.say(b"x") + tiny.SPIN))
    opened = pmem.open_host(claim, made)
    ours, theirs = socket.socketpair()
    resources = Resources({"serial": theirs.fileno(), **opened.fds})
    process = KvmEngine().start(made, BootFiles(str(kernel), str(kernel), None), resources)
    theirs.close()
    running = Run(process, ours)
    running.until(lambda: running.output == b"x")
    yield running
    process.close()
    ours.close()
    opened.close()


def states(pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread (proc(5), /proc/pid/status)."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = (line.split(":", 1) for line in status.read_text().splitlines())
        found.append({name: value.strip() for name, value in lines})
    return found


def test_every_thread_has_lost_its_privileges_and_is_under_the_filter(run):
    """A thread that was made before keeps what it had: capset(2) is for the one that calls it."""
    threads = states(run.process.pid)
    assert len(threads) >= 3
    for state in threads:
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(state[kind], 16) == 0, (state["Name"], kind)
        assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2")


def test_it_has_a_session_of_its_own_and_no_terminal(run):
    assert os.getsid(run.process.pid) == run.process.pid != os.getsid(0)
    assert {os.readlink(f"/proc/{run.process.pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
