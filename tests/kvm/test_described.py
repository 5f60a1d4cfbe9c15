"""What a definition says of CPUs and memory, seen where it acts: in CPUID and in the VM process."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

from runner.definition.model import Cpus, Memory
from runner.engine.kvm.engine import KvmEngine
from runner.engine.protocol import Resources
from runner.graph import x86
from runner.graph.model import BootFiles
from tests.kvm import tiny
from tests.kvm.conftest import Run, graph
from tests.kvm.test_cpu import map_lapic, start_others

pytestmark = pytest.mark.kvm

COUNT, SEEN = 0x7000, 0x3000  # how many CPUs have begun, and a byte for each APIC id
SIZE = 16 << 20
REGISTERS = {"ebx": b"\x89\xd8", "ecx": b"\x89\xc8", "edx": b"\x89\xd0"}  # mov eax, …


@pytest.fixture
def boot(tmp_path):
    """``boot(code, cpus=…, memory=…)`` starts a guest; every one is ended with the test."""
    started = []

    def start(code: bytes, cpus: Cpus = Cpus(), memory: Memory = Memory(SIZE)) -> Run:  # noqa: B008
        path = tmp_path / f"kernel{len(started)}"
        path.write_bytes(tiny.vmlinux(code))
        ours, theirs = socket.socketpair()
        made = graph(cpus=cpus.total, memory=memory.size)
        made = made._replace(cpus=cpus, vcpus=x86.vcpus(cpus), memory=memory)
        files = BootFiles(str(path), str(path), None)
        run = Run(KvmEngine().start(made, files, Resources({"serial": theirs.fileno()})), ours)
        theirs.close()
        started.append(run)
        return run

    yield start
    for run in started:
        run.process.close()
        run.console.close()


def say_cpuid(leaf: int, register: str, subleaf: int = 0) -> bytes:
    """The four bytes of a register, lowest first."""
    ask = tiny.mov_eax(leaf) + b"\xb9" + struct.pack("<I", subleaf) + b"\x0f\xa2"  # mov ecx; cpuid
    return ask + REGISTERS[register] + 4 * (tiny.out_al(tiny.UART) + b"\xc1\xe8\x08")  # shr eax, 8


def store8(address: int, value: int) -> bytes:
    return b"\xc6\x04\x25" + struct.pack("<IB", address, value)


def every_cpu_tells_its_id(cpus: int) -> bytes:
    """Each other CPU (real mode, at 0x8000) counts a byte up that its id of leaf 0xB chooses, then all."""
    other = (
        b"\xfa\x31\xc0\x8e\xd8"  # cli; xor ax, ax; mov ds, ax
        b"\x66\xb8\x0b\0\0\0\x66\x31\xc9\x0f\xa2"  # mov eax, 0xb; xor ecx, ecx; cpuid
        b"\x89\xd3\xf0\xfe\x87\x00\x30"  # mov bx, dx; lock inc byte [bx + 0x3000]
        b"\xf0\xfe\x06\x00\x70\xf4\xeb\xfd"  # lock inc byte [0x7000]; hlt
    )
    copy = b"".join(store8(0x8000 + at, byte) for at, byte in enumerate(other))
    wait = b"\xf3\x90\x8a\x04\x25" + struct.pack("<I", COUNT) + b"\x3c" + bytes((cpus - 1,))
    wait += b"\x75" + struct.pack("b", -(len(wait) + 2))
    return copy + map_lapic() + start_others(0x8000) + wait + tiny.rep_outsb(tiny.UART, SEEN, 256)


@pytest.mark.parametrize(("sockets", "cores", "threads"), [(2, 3, 2), (1, 1, 2), (1, 255, 1)])
def test_every_cpu_finds_its_place_in_the_topology(boot, sockets, cores, threads):
    """Each has an id of its own, whose bits are socket, core and thread as leaf 0xB says (SDM 3A §9.9.5)."""
    cpus = Cpus(sockets * cores * threads, sockets, cores, threads)
    levels = say_cpuid(0xB, "ebx", 0) + say_cpuid(0xB, "ebx", 1)
    run = boot(levels + every_cpu_tells_its_id(cpus.total) + tiny.exit_with(0), cpus)
    run.end()
    assert struct.unpack("<2I", run.output[:8]) == (threads, cores * threads)
    thread_bits, core_bits = (threads - 1).bit_length(), (cores - 1).bit_length()
    expected = [
        (socket << core_bits | core) << thread_bits | thread
        for socket in range(sockets)
        for core in range(cores)
        for thread in range(threads)
    ]
    told = run.output[8:]
    assert [number for number, times in enumerate(told) if times] == expected[1:]  # without the first itself
    assert set(told) == {0, 1}


def test_a_feature_that_is_switched_off_is_not_there(boot):
    """x2APIC (leaf 1, ECX bit 21) and NX (leaf 0x80000001, EDX bit 20); the others are as without."""
    code = say_cpuid(1, "ecx") + say_cpuid(0x80000001, "edx") + tiny.exit_with(0)
    plain, less = boot(code), boot(code, Cpus(features=("-x2apic", "-nx")))
    plain.end()
    less.end()
    before, after = struct.unpack("<2I", plain.output), struct.unpack("<2I", less.output)
    assert (before[0] >> 21 & 1, before[1] >> 20 & 1) == (1, 1)
    assert after == (before[0] & ~(1 << 21), before[1] & ~(1 << 20))


def mapping(run: Run, size: int) -> dict[str, str]:
    """The guest's memory, the mapping of this size, as proc_pid_smaps(5) tells of it."""
    text = Path(f"/proc/{run.process.pid}/smaps").read_text()
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
    told = [dict(re.findall(r"^(\w+): +(.*?)(?: kB)? *$", block, re.MULTILINE)) for block in blocks]
    (found,) = [each for each in told if each.get("Size") == str(size >> 10)]
    return found


ODD_SIZE = 63 << 20  # as no other mapping has
WAIT = tiny.say(b"x") + tiny.SPIN


@pytest.mark.parametrize("shared", [False, True])
def test_prefault_has_all_of_memory_there_before_the_first_instruction(boot, shared):
    """And without it a guest that touches nothing has next to nothing."""
    for prefault in (True, False):
        run = boot(WAIT, memory=Memory(ODD_SIZE, shared=shared, prefault=prefault))
        run.until(lambda run=run: run.output == b"x")
        there = int(mapping(run, ODD_SIZE)["Rss"]) << 10
        assert there == ODD_SIZE if prefault else there < ODD_SIZE >> 2


@pytest.mark.parametrize("merge", [False, True])
def test_merge_lets_the_kernel_look_for_equal_pages(boot, merge):
    """`mg` is what madvise(2) with MADV_MERGEABLE leaves, on a kernel that has samepage merging."""
    run = boot(WAIT, memory=Memory(ODD_SIZE, merge=merge))
    run.until(lambda: run.output == b"x")
    has_ksm = Path("/sys/kernel/mm/ksm").exists()
    assert ("mg" in mapping(run, ODD_SIZE)["VmFlags"].split()) == (merge and has_ksm)
