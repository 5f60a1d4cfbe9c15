"""A machine for tiny guests: the real engine and the real QEMU, emulating."""

from __future__ import annotations

import importlib
import socket
import struct
from typing import Any

import pytest

from runner.backends import block, scratch
from runner.definition.model import Cpus, FilePath, Memory
from runner.engine.protocol import Resources
from runner.engine.qemu import QemuEngine
from runner.graph.model import Boot, BootFiles, EngineChoice, Graph, Node
from tests.kvm.run import Run
from tests.kvm.tiny import BASE

OPENERS: dict[str, Any] = {"block": block, "scratch": scratch}


def pvh(code: bytes) -> bytes:
    """An ELF that QEMU enters in 32-bit protected mode at its first byte (Xen's PVH, note 18)."""
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", BASE)
    text = code.ljust(0x1000, b"\xcc") + bytes(0x1000)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, BASE, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    start = 64 + 2 * 56 + len(note)
    load = struct.pack("<IIQQQQQQ", 1, 7, start, BASE, BASE, len(text), len(text), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 64 + 2 * 56, 0, 0, len(note), len(note), 4)
    return header + load + notes + note + text


def node(kind: str, name: str, section: str = "", options: Any = None) -> Node:
    qualified = f"{section}.{name}" if section else name
    claim = importlib.import_module(f"runner.devices.{kind}").claim(qualified, options or {})
    return Node(kind, name, section, options or {}, claim)


def graph(*nodes: Node, cpus: Cpus | None = None, memory: Memory | None = None, **more: Any) -> Graph:
    platform = (node("uart16550", "serial"), node("exit_port", "exit_port"), node("pvpanic", "pvpanic"))
    return Graph(
        name="tiny, with a comma",
        source=FilePath("tiny.toml", "tiny.toml"),
        digest="",
        engine=EngineChoice("qemu", "tcg", ()),
        boot=Boot(None, None, "console=ttyS0"),
        cpus=cpus or Cpus(),
        vcpus=(),
        memory=memory or Memory(32 << 20),
        regions=(),
        nodes=(*platform, *nodes),
        timeout=None,
        **more,
    )


@pytest.fixture
def boot(tmp_path):
    """``boot(code, …)`` starts a guest; every one is ended with the test."""
    started = []

    def start(code: bytes, *nodes: Node, **machine: Any) -> Run:
        path = tmp_path / f"kernel{len(started)}"
        path.write_bytes(pvh(code))
        ours, theirs = socket.socketpair()
        files = BootFiles(str(path), str(path), None)
        machine_graph = graph(*nodes, **machine)
        opened = [
            OPENERS[claim.kind].open_host(claim, machine_graph)
            for each in nodes
            for claim in each.claim.backends
            if claim.kind in OPENERS
        ]
        fds = {"serial": theirs.fileno()}
        for one in opened:
            fds |= one.fds
        process = QemuEngine().start(machine_graph, files, Resources(fds))
        theirs.close()
        for one in opened:
            one.close()
        run = Run(process, ours)
        started.append(run)
        return run

    yield start
    for run in started:
        run.close()
