"""One vCPU on the real /dev/kvm, without an engine around it."""

from __future__ import annotations

import mmap
from threading import Thread

import pytest

from runner.host.kvm import KICKED, Kvm, claimed_port_map, install_kick_signal, steady_port_map

pytestmark = pytest.mark.kvm

RESET_PAGE, RESET_AT = 0xFFFFF000, 0xFF0  # SDM 3A §9.1.4: the first instruction is at 0xfffffff0
IMMEDIATE_EXIT = 1  # its place in struct kvm_run


@pytest.fixture
def spinning():
    """A vCPU whose first instruction jumps to itself, and its kvm_run."""
    from runner.host.memory import Ram

    install_kick_signal()
    vm = Kvm().create_vm()
    ram = Ram(((0, 0x1000),), shared=False)
    ram.write(RESET_AT, b"\xeb\xfe")
    vm.set_memory(0, RESET_PAGE, 0x1000, ram.regions[0].host_address)
    vcpu = vm.create_vcpu(0, claimed_port_map(), steady_port_map())
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
