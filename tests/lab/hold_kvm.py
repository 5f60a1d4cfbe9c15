"""A program of the lab: two virtual machines that never run, so that its kernel is patched no more.

KVM counts what it has by static keys: whether there is any VM (``preempt_notifier_key``), any vCPU whose
APIC is switched off by software (``apic_sw_disabled``, as each is at first), any without an APIC in the
kernel (``kvm_has_noapic_vcpu``).  Whenever such a count leaves nought or comes back to it, the kernel
patches itself, and that is what the emulation of two CPUs by QEMU before 8.1 cannot always do
(docs/decisions/0045).  While this program lives, none of the counts comes back to nought.
"""

import contextlib
import fcntl
import os
import signal

CREATE_VM, CREATE_IRQCHIP, CREATE_VCPU = 0xAE01, 0xAE60, 0xAE41
"""linux/kvm.h; said here, since the lab's start waits for no import."""


def hold() -> None:
    """Make both; the program is over when they are there, and a child of it stays until killed."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    with_chips, without = fcntl.ioctl(kvm, CREATE_VM, 0), fcntl.ioctl(kvm, CREATE_VM, 0)
    fcntl.ioctl(with_chips, CREATE_IRQCHIP, 0)
    for vm in (with_chips, without):
        fcntl.ioctl(vm, CREATE_VCPU, 0)
    if os.fork() == 0:
        os.setsid()
        while True:
            signal.pause()


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # a lab without KVM is told of by its tests
        hold()
