"""A machine for tiny guests: the real engine, its VM process and the real /dev/kvm."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from runner.definition.model import CharBackend, Cpus, Definition, DeviceEntry, FilePath, Memory
from runner.engine.kvm.engine import KvmEngine
from runner.engine.protocol import Resources
from runner.graph.model import BootFiles, Graph
from runner.graph.plan import plan
from runner.hostfacts import HostFacts, KvmFacts
from tests.kvm.run import Run

FACTS = HostFacts(cpus=2, kvm=KvmFacts(True, True, 12, "kvm_amd", True, "made up for the plan", (), 255))


def graph(
    cpus: int = 1,
    memory: int = 16 << 20,
    devices: tuple[DeviceEntry, ...] = (),
    merge: bool = False,
    affinity: tuple[tuple[int, ...], ...] = (),
    console: str = "off",
) -> Graph:
    definition = Definition(
        name="tiny",
        source=FilePath("tiny.toml", "tiny.toml"),
        digest="",
        kernel=None,
        initramfs=None,
        cmdline="console=ttyS0",
        cpus=Cpus(cpus, 1, cpus, 1, affinity=affinity),
        memory=Memory(memory, merge=merge),
        serial=CharBackend("tty"),
        console=CharBackend(console),
        engine=("kvm",),
        devices=devices,
    )
    return plan(definition, FACTS)


@pytest.fixture
def boot(tmp_path):
    """``boot(kernel_bytes, cpus=…)`` starts a guest; every one is ended with the test.

    What it says on its virtio-console is for the test to read from ``run.screen``.
    """
    started = []

    def start(kernel: bytes, **machine: Any) -> Run:
        path = tmp_path / f"kernel{len(started)}"
        path.write_bytes(kernel)
        (ours, serial), (screen, console) = socket.socketpair(), socket.socketpair()
        files = BootFiles(str(path), str(path), None)
        fds = {"serial": serial.fileno(), "console": console.fileno()}
        process = KvmEngine().start(graph(**machine), files, Resources(fds))
        serial.close()
        console.close()
        run = Run(process, ours, screen)
        started.append(run)
        return run

    yield start
    for run in started:
        run.close()
