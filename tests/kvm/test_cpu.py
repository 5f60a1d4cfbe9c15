"""What the engine promises about CPUs, memory and accesses, seen from inside a guest."""

from __future__ import annotations

import os
import struct

import pytest

from runner.host.kvm import BRAND_LEAVES, cpu_brand
from tests.kvm import tiny

pytestmark = pytest.mark.kvm


def test_a_string_instruction_arrives_byte_by_byte(boot):
    text = b"rep outsb"
    code = tiny.rep_outsb(tiny.UART, tiny.BASE + 0x1000, len(text)) + tiny.exit_with(0)
    run = boot(tiny.vmlinux(code, text))
    run.end()
    assert run.output == text


def test_a_port_that_nothing_claims_reads_all_ones(boot):
    code = tiny.inb(0x2E8) + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    assert boot(tiny.vmlinux(code)).end()["status"] == 0xFF


def test_an_address_that_nothing_claims_reads_all_ones(boot):
    code = tiny.load32(0x10000000) + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    boundary = boot(tiny.vmlinux(code), memory=512 << 20)  # the page tables end at 1 GiB
    assert boundary.end()["status"] == 0
    assert boot(tiny.vmlinux(code), memory=16 << 20).end()["status"] == 0xFF


def test_cpuid_says_hypervisor_and_hides_virtualization(boot):
    # mov eax,1; cpuid; shr ecx,31; shl cl,… : report ECX bit 31 in bit 0 and bit 5 (VMX) in bit 1
    code = (
        tiny.mov_eax(1) + b"\x0f\xa2"  # cpuid
        + b"\x89\xc8\xc1\xe8\x1f"  # mov eax, ecx; shr eax, 31
        + b"\xc1\xe9\x05\x83\xe1\x01\x01\xc9\x09\xc8"  # shr ecx,5; and ecx,1; add ecx,ecx; or eax,ecx
        + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    )  # fmt: skip
    assert boot(tiny.vmlinux(code)).end()["status"] == 1


def test_the_guest_sees_the_name_of_the_hosts_cpu(boot):
    """KVM_GET_SUPPORTED_CPUID leaves it out, and Linux then says `model name: 06/55`, or nothing."""
    first = struct.pack("<4I", *cpu_brand()[0])[0]
    code = tiny.mov_eax(BRAND_LEAVES[0]) + b"\x0f\xa2" + tiny.out_al(tiny.EXIT_PORT) + tiny.IDLE
    assert first
    assert boot(tiny.vmlinux(code)).end()["status"] == first


def start_others(trampoline: int) -> bytes:
    """INIT and SIPI to all but self through the LAPIC at 0xfee00000 (SDM 3A §8.4.4.1)."""
    lapic = 0xFEE00300
    write = b"\x48\xb8" + struct.pack("<Q", lapic)  # mov rax, lapic

    def icr(value: int) -> bytes:
        return write + b"\xc7\x00" + struct.pack("<I", value)

    return icr(0xC4500) + icr(0xC4600 | trampoline >> 12)


@pytest.mark.parametrize("cpus", [2, 64])
def test_every_cpu_starts(boot, cpus):
    # Each AP (real mode, at 0x8000): lock inc byte [0x7000]; hlt.  The boot CPU waits for all.
    ap = b"\xfa\x31\xc0\x8e\xd8\xf0\xfe\x06\x00\x70\xf4\xeb\xfd"
    copy = b"".join(
        b"\xc6\x04\x25" + struct.pack("<IB", 0x8000 + at, byte) for at, byte in enumerate(ap)
    )  # mov byte [0x8000+at], byte
    zero = b"\xc6\x04\x25" + struct.pack("<IB", 0x7000, 0)
    wait = b"\xf3\x90\x8a\x04\x25" + struct.pack("<I", 0x7000)  # pause; mov al, [0x7000]
    wait += b"\x3c" + bytes((cpus - 1,))  # cmp al, cpus-1
    wait += b"\x75" + struct.pack("b", -(len(wait) + 2))
    code = copy + zero + map_lapic() + start_others(0x8000) + wait + tiny.exit_with(7)
    assert boot(tiny.vmlinux(code), cpus=cpus).end()["status"] == 7


def map_lapic() -> bytes:
    """A page directory at 0x4000 for the fourth GiB, with the LAPIC's 2 MiB in it."""
    from runner.firmware import entry

    def store(at: int, value: int) -> bytes:
        return tiny.mov_rax(value) + b"\x48\xa3" + struct.pack("<Q", at)  # mov [at], rax

    directory = 0x4000
    pointer = entry.PAGE_TABLES_AT + 0x1000 + 3 * 8
    return store(directory + 8 * (0x3EE00000 >> 21), 0xFEE00000 | 0x83) + store(pointer, directory | 3)


def beating() -> bytes:
    """A guest that prints without end."""
    beat = tiny.say(b".") + b"\xb9" + struct.pack("<I", 2000) + b"\xe2\xfe"  # mov ecx; loop
    return tiny.vmlinux(beat + b"\xe9" + struct.pack("<i", -(len(beat) + 5)))


def stands_still(run) -> None:
    """What was on its way has come, and nothing follows it."""
    said = []
    for _ in range(2):
        with pytest.raises(AssertionError):
            run.until(lambda: False, seconds=0.5)
        said.append(len(run.output))
    assert said[0] == said[1]


def test_a_paused_guest_stands_still_and_goes_on(boot):
    run = boot(beating())
    run.until(lambda: len(run.output) > 3)
    run.process.ask("pause")
    run.until(lambda: any(e.data.get("state") == "paused" for e in run.events))
    stands_still(run)
    run.process.ask("resume")
    before = len(run.output)
    run.until(lambda: len(run.output) > before + 256)


def test_a_snapshot_of_a_paused_guest_leaves_it_paused(boot):
    run = boot(beating())
    run.until(lambda: len(run.output) > 3)
    run.process.ask("pause")
    run.process.ask("snapshot-state")
    run.until(lambda: any(e.data.get("event") == "cpu-state" for e in run.events))
    stands_still(run)
    run.process.ask("resume")
    before = len(run.output)
    run.until(lambda: len(run.output) > before + 256)


def test_a_snapshot_tells_where_the_cpu_is(boot):
    run = boot(tiny.vmlinux(tiny.say(b"x") + tiny.SPIN))
    run.until(lambda: run.output == b"x")
    run.process.ask("snapshot-state")
    run.until(lambda: any(e.data.get("event") == "cpu-state" for e in run.events))
    state = next(e.data for e in run.events if e.data.get("event") == "cpu-state")
    assert int(state["cpus"][0]["rip"], 16) == tiny.BASE + len(tiny.say(b"x"))


def test_vcpus_run_where_they_are_placed(boot):
    """Each vCPU's thread has the host CPUs of its entry; the process's own thread has what it had."""
    first, *others = sorted(os.sched_getaffinity(0))
    last = others[-1] if others else first
    run = boot(tiny.vmlinux(tiny.SPIN), cpus=2, affinity=((first,), (last,)))

    def masks() -> list[set[int]]:
        return [os.sched_getaffinity(int(task)) for task in os.listdir(f"/proc/{run.process.pid}/task")]

    run.until(lambda: {first} in masks() and {last} in masks())
    assert os.sched_getaffinity(run.process.pid) == os.sched_getaffinity(0)
