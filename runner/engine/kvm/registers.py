"""A vCPU's registers: set as the boot protocol wants them, told when something went wrong."""

from __future__ import annotations

from runner.firmware.entry import CpuState, SegmentRegister
from runner.host.kvm import Vcpu
from runner.typed import Any

MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 0x806  # SDM 3A §11.11.2.1: E and FE set, default type write-back
MSR_IA32_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRING = 1

NAMES = ("rip", "rflags", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip


def reset(vcpu: Vcpu) -> None:
    """What a PC's firmware leaves on every CPU, the sleeping ones included."""
    vcpu.reset_fpu()
    vcpu.set_local_interrupts()
    # One after the other: an AMD host has no MISC_ENABLE, and that must not cost the MTRRs.
    vcpu.set_msrs([(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK)])
    vcpu.set_msrs([(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING)])


def enter(vcpu: Vcpu, state: CpuState) -> None:
    """The boot processor at the kernel's entry."""
    sregs = vcpu.get_sregs()
    _segment(sregs.cs, state.cs)
    for name in ("ds", "es", "fs", "gs", "ss"):
        _segment(getattr(sregs, name), state.data)
    _segment(sregs.tr, state.tr)
    sregs.gdt.base, sregs.gdt.limit = state.gdt_base, state.gdt_limit
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = state.cr0, state.cr3, state.cr4, state.efer
    vcpu.set_sregs(sregs)
    vcpu.set_regs(rip=state.rip, rsp=state.rsp, rsi=state.rsi, rbx=state.rbx, rflags=state.rflags)


def snapshot(vcpu: Vcpu) -> dict[str, str]:
    """Registers in hex, for the verdict on a guest that hangs or broke; {} if KVM refuses."""
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except Exception as error:  # a dead VM must still get its verdict
        return {"unreadable": str(error)}
    values = {name: f"{getattr(regs, name):#x}" for name in NAMES}
    values |= {name: f"{getattr(sregs, name):#x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")}
    values["cs"] = f"{sregs.cs.selector:#x}"
    return values


def _segment(target: Any, source: SegmentRegister) -> None:
    target.selector, target.base, target.limit = source.selector, source.base, source.limit
    target.type, target.dpl, target.present = source.type, source.dpl, source.present
    target.s, target.db, target.l, target.g = source.s, source.db, source.l, source.g
    target.unusable = 0
