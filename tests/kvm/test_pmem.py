"""Persistent memory under real KVM: a file that a guest of a few instructions stores into."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from runner.backends import pmem
from runner.definition.model import DeviceEntry
from runner.engine.kvm.engine import KvmEngine
from runner.engine.protocol import Resources
from runner.errors import HostError
from runner.graph.model import BootFiles
from tests.kvm import tiny
from tests.kvm.conftest import graph
from tests.kvm.run import Run

pytestmark = pytest.mark.kvm

SIZE = 2 << 20


def machine(path, **options):
    """A graph with the file as memory, its claim, and where it lies."""
    given = {"path": {"text": path.name, "resolved": str(path)}, "size": SIZE, **options}
    made = graph(devices=(DeviceEntry("pmem", "data", "virtio_pmem", given),))
    node = next(node for node in made.nodes if node.kind == "virtio_pmem")
    return made, node.claim.backends[0], node.claim.regions[0]


def one_gib_at(address: int, data: int) -> tuple[bytes, bytes]:
    """Code that switches to page tables of our own, and those: low memory and 1 GiB at ``address``."""
    pages, large, present = data, 0x83, 3
    top = struct.pack("<Q", pages + 0x1000 | present).ljust(0x1000, b"\0")
    directory = bytearray(0x1000)
    struct.pack_into("<Q", directory, 0, pages + 0x2000 | present)
    struct.pack_into("<Q", directory, 8 * (address >> 30), pages + 0x3000 | present)
    tables = top + bytes(directory)
    for start in (0, address & ~((1 << 30) - 1)):
        tables += b"".join(struct.pack("<Q", start + (at << 21) | large) for at in range(512))
    return tiny.mov_rax(pages) + b"\x0f\x22\xd8", tables


def run_guest(tmp_path, made, claim, region, before=lambda: None):
    """When it is let, the guest reads a dword, adds one, stores it behind, and exits with what it read."""
    switch, tables = one_gib_at(region.start, tiny.BASE + 0x1000)
    code = tiny.say(b"?") + tiny.WAIT_FOR_INPUT + switch
    code += b"\x48\xbf" + struct.pack("<Q", region.start)  # mov rdi, start
    code += b"\x8b\x07\xff\xc0\x89\x47\x04\xff\xc8"  # mov eax,[rdi]; inc eax; mov [rdi+4],eax; dec eax
    code += tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny.vmlinux(code, tables))
    opened = pmem.open_host(claim, made)
    ours, theirs = socket.socketpair()
    fds = {"serial": theirs.fileno(), **opened.fds}
    process = KvmEngine().start(made, BootFiles(str(kernel), str(kernel), None), Resources(fds))
    theirs.close()
    run = Run(process, ours)
    try:
        run.until(lambda: run.output == b"?")
        before()
        ours.send(b"!")
        return run.end()
    finally:
        run.close()
        opened.close()


@pytest.mark.parametrize(("readonly", "stored"), [(False, 42), (True, 0)])
def test_the_guest_has_the_file_as_memory(tmp_path, readonly, stored):
    """Loads see the file, stores reach it; with readonly they stay in the guest's own copy."""
    path = tmp_path / "data"
    path.write_bytes(struct.pack("<II", 41, 0).ljust(SIZE, b"\0"))
    end = run_guest(tmp_path, *machine(path, readonly=readonly))
    assert (end["reason"], end["status"]) == ("exit", 41)
    assert struct.unpack_from("<II", path.read_bytes()) == (41, stored)


@pytest.mark.guest  # a KVM that interprets reads ones there
def test_a_file_that_is_cut_short_while_the_guest_runs_ends_it_with_the_errno_of_kvm(tmp_path):
    """There is no memory any more where KVM was told that there is: KVM_RUN fails, and that is told."""
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    end = run_guest(tmp_path, *machine(path), before=lambda: os.truncate(path, 0))
    assert (end["reason"], end["detail"]) == ("internal-error", "vCPU 0: KVM_RUN failed: Bad address")


def test_a_file_that_is_too_short_is_refused(tmp_path):
    """Beyond its end there would be no memory: the error says how to make it longer."""
    path = tmp_path / "data"
    path.write_bytes(bytes(4096))
    made, claim, _ = machine(path)
    with pytest.raises(HostError, match="has 0x1000 bytes") as caught:
        pmem.open_host(claim, made)
    assert caught.value.hint == f"truncate -s {SIZE} {path}"


def test_the_second_user_is_told_who_has_the_file(tmp_path):
    """One writer, as with a disk."""
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    made, claim, _ = machine(path)
    first = pmem.open_host(claim, made)
    try:
        with pytest.raises(HostError, match=f"in use by process {os.getpid()}|in use"):
            pmem.open_host(claim, made)
    finally:
        first.close()
    pmem.open_host(claim, made).close()
