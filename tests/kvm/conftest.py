"""A machine for tiny guests: the real engine, its VM process and the real /dev/kvm."""

from __future__ import annotations

import select
import socket
import time
from typing import Any

import pytest

from runner.definition.model import CharBackend, Cpus, Definition, DeviceEntry, FilePath, Memory
from runner.engine.kvm.engine import KvmEngine, KvmProcess
from runner.engine.protocol import Event, Resources
from runner.graph.model import BootFiles, Graph
from runner.graph.plan import plan
from runner.hostfacts import HostFacts, KvmFacts

SECONDS = 60


class Run:
    """One run of a tiny guest: what it printed, what it told, how it ended."""

    def __init__(self, process: KvmProcess, console: socket.socket) -> None:
        self.process, self.console = process, console
        self.output = b""
        self.events: list[Event] = []

    def until(self, done: Any, seconds: float = SECONDS) -> Any:
        """Serve both descriptors until ``done()`` is true; fail the test after ``seconds``."""
        poll = select.poll()
        for fd in (self.console.fileno(), self.process.events_fd):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"nothing within {seconds} s: {self.output!r} {self.events}"
            for fd, _ in poll.poll(100):
                self._serve(fd, poll)
        return self

    def _serve(self, fd: int, poll: select.poll) -> None:
        if fd == self.process.events_fd:
            self.events += self.process.events()
        elif data := self.console.recv(65536):
            self.output += data
        else:
            poll.unregister(fd)

    def end(self, seconds: float = SECONDS) -> Any:
        """Wait for the end and all output; returns the event's data."""
        self.until(lambda: any(event.kind == "end" for event in self.events), seconds)
        self.console.settimeout(SECONDS)
        while data := self.console.recv(65536):
            self.output += data
        return next(event.data for event in self.events if event.kind == "end")


FACTS = HostFacts(cpus=2, kvm=KvmFacts(True, True, 12, "kvm_amd", True, "made up for the plan", (), 255))


def graph(cpus: int = 1, memory: int = 16 << 20, devices: tuple[DeviceEntry, ...] = ()) -> Graph:
    definition = Definition(
        name="tiny",
        source=FilePath("tiny.toml", "tiny.toml"),
        digest="",
        kernel=None,
        initramfs=None,
        cmdline="console=ttyS0",
        cpus=Cpus(cpus, 1, cpus, 1),
        memory=Memory(memory),
        serial=CharBackend("tty"),
        console=CharBackend("off"),
        engine=("kvm",),
        devices=devices,
    )
    return plan(definition, FACTS)


@pytest.fixture
def boot(tmp_path):
    """``boot(kernel_bytes, cpus=…)`` starts a guest; every one is ended with the test."""
    started = []

    def start(kernel: bytes, **machine: Any) -> Run:
        path = tmp_path / f"kernel{len(started)}"
        path.write_bytes(kernel)
        ours, theirs = socket.socketpair()
        files = BootFiles(str(path), str(path), None)
        process = KvmEngine().start(graph(**machine), files, Resources({"serial": theirs.fileno()}))
        theirs.close()
        run = Run(process, ours)
        started.append(run)
        return run

    yield start
    for run in started:
        run.process.close()
        run.console.close()
