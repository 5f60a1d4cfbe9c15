"""A VM with the chips that every PC has, before it is known which PC it will be."""

from __future__ import annotations

from runner.errors import VmrunError
from runner.host.kvm import Kvm, Vm
from runner.typed import NamedTuple

TSS_ADDRESS = 0xFFFBD000
IDENTITY_MAP = 0xFFFBC000


class Chips(NamedTuple):
    """KVM and a VM of it: interrupt controllers, timer and the routes of a PC, no memory, no CPU."""

    kvm: Kvm
    vm: Vm


def make(kvm_fd: int | None = None) -> Chips:
    """By a descriptor of ``/dev/kvm``, or one that is opened here.  Raises HostError."""
    kvm = Kvm(kvm_fd)
    vm = kvm.create_vm()
    vm.create_irqchip(TSS_ADDRESS, IDENTITY_MAP)
    vm.create_pit()
    vm.set_routes()
    return Chips(kvm, vm)


def in_advance() -> Chips | None:
    """The same while nobody waits for it; what goes wrong is told when it is needed and fails again."""
    try:
        return make()
    except VmrunError:
        return None
