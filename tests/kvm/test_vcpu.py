"""One vCPU on the real /dev/kvm, without an engine around it."""

from __future__ import annotations

import mmap
import socket
from threading import RLock, Thread

import pytest

from runner.engine.kvm.loop import DeviceLoop
from runner.host.kvm import HLT, KICKED, Kvm, claimed_port_map, install_kick_signal
from runner.host.memory import Ram
from runner.host.uart import NativeUart

pytestmark = pytest.mark.kvm

RESET_PAGE, RESET_AT = 0xFFFFF000, 0xFF0  # SDM 3A §9.1.4: the first instruction is at 0xfffffff0
RESET_SEGMENT = 0xFFFF0000
IMMEDIATE_EXIT = 1  # its place in struct kvm_run


@pytest.fixture
def spinning():
    """A vCPU whose first instruction jumps to itself, and its kvm_run."""
    install_kick_signal()
    vm = Kvm().create_vm()
    ram = Ram(((0, 0x1000),), shared=False)
    ram.write(RESET_AT, b"\xeb\xfe")
    vm.set_memory(0, RESET_PAGE, 0x1000, ram.regions[0].host_address)
    vcpu = vm.create_vcpu(0, claimed_port_map())
    with mmap.mmap(vcpu.fd, mmap.PAGESIZE) as page:
        yield vcpu, page


def in_a_thread(vcpu) -> list[int]:
    stops: list[int] = []
    thread = Thread(target=lambda: stops.append(vcpu.run()), daemon=True)
    thread.start()
    thread.join(2)
    ended = list(stops)
    vcpu.kick()
    thread.join(5)
    assert not thread.is_alive(), "a whole kick always counts"
    return ended


def test_whatever_makes_kvm_run_return_at_once_is_met_as_a_kick(spinning):
    """A kick may come while the last one is taken: were only this left of it, the CPU would stand still."""
    vcpu, page = spinning
    page[IMMEDIATE_EXIT] = 1
    assert in_a_thread(vcpu) == [KICKED]
    page[IMMEDIATE_EXIT] = 0
    assert in_a_thread(vcpu) == []


SAYS = bytes.fromhex(
    "baf803"  # mov dx, 0x3f8
    "b041ee"  # mov al, 'A'; out dx, al
    "be20f0b90300fc"  # mov si, 0xf020; mov cx, 3; cld
    "f32e6e"  # rep cs outsb
    "bafd03ec"  # mov dx, 0x3fd; in al, dx
    "baf803eef4"  # mov dx, 0x3f8; out dx, al; hlt
).ljust(0x20, b"\x90") + b"bcd"  # fmt: skip
CODE_AT = 0xF000
LETTERS = 0x7000  # so many for each of two CPUs: less than the port keeps in all


class Talking:
    """CPUs without an operating system at the last 64 KiB below 4 GiB, and a port on which they speak."""

    def __init__(self, memory: bytes, cpus: int) -> None:
        self.vm = Kvm().create_vm()
        self.ram = Ram(((0, 0x10000),), shared=False)
        self.ram.write(0, memory)
        self.vm.set_memory(0, RESET_SEGMENT, 0x10000, self.ram.regions[0].host_address)
        self.vcpus = [self.vm.create_vcpu(number, claimed_port_map()) for number in range(cpus)]
        self.ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.uart = NativeUart(self._theirs.fileno(), DeviceLoop(RLock()))
        self.uart.join(self.vm, 4, 0x3F8, self.vcpus, 0)

    def run(self, number: int) -> None:
        assert self.vcpus[number].run() == HLT

    def heard(self) -> bytes:
        self.uart.flush()
        self._theirs.close()
        with self.ours, self.ours.makefile("rb") as said:
            return said.read()


def test_the_serial_port_is_served_without_python():
    """Single bytes, a string of them and a read of the line's status: KVM_RUN comes back at the HLT."""
    talking = Talking(bytes(CODE_AT) + SAYS, 1)
    talking.vcpus[0].set_regs(rip=CODE_AT)
    talking.run(0)
    assert talking.heard() == b"Abcd\x60"


def test_two_cpus_on_the_serial_port_lose_nothing():
    """Native code runs without the interpreter's lock, so the port's own must hold."""
    memory = (b"a" * LETTERS + b"b" * LETTERS).ljust(CODE_AT) + bytes.fromhex(
        "fcf32e6ef4"
    )  # cld; rep cs outsb; hlt
    talking = Talking(memory, 2)
    for number, vcpu in enumerate(talking.vcpus):
        vcpu.set_regs(rip=CODE_AT, rsi=number * LETTERS, rcx=LETTERS, rdx=0x3F8)
    threads = [Thread(target=talking.run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = talking.heard()
    assert (heard.count(b"a"), heard.count(b"b"), talking.uart.lost) == (LETTERS, LETTERS, 0)
