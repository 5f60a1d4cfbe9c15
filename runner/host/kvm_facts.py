"""``/dev/kvm``: is it there, may we, what can it do, and does a stock kernel run under it.

The last is not what an open or an ioctl tells: a KVM whose vendor module is ``kvm_pvm``
answers version 12, creates VMs, and stops at the first ``cmpxchg16b`` of a stock kernel.
So the vendor module decides.  (Documentation/virt/kvm/api.rst, 4.1 and 4.4.)
"""

from __future__ import annotations

import os

from runner.host.sysfs import Sysfs, names_or, text_or
from runner.hostfacts import KvmFacts
from runner.typed import Any, Callable

KVM_GET_API_VERSION = 0xAE00
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
API_VERSION = 12
MODULES_THAT_RUN_STOCK_KERNELS = ("kvm_intel", "kvm_amd")

# include/uapi/linux/kvm.h; a test compares each with the installed header.
CAPABILITIES: dict[str, int] = {
    "KVM_CAP_IRQCHIP": 0,
    "KVM_CAP_USER_MEMORY": 3,
    "KVM_CAP_SET_TSS_ADDR": 4,
    "KVM_CAP_EXT_CPUID": 7,
    "KVM_CAP_NR_VCPUS": 9,
    "KVM_CAP_NR_MEMSLOTS": 10,
    "KVM_CAP_MP_STATE": 14,
    "KVM_CAP_COALESCED_MMIO": 15,
    "KVM_CAP_SYNC_MMU": 16,
    "KVM_CAP_IRQ_ROUTING": 25,
    "KVM_CAP_IRQFD": 32,
    "KVM_CAP_PIT2": 33,
    "KVM_CAP_IOEVENTFD": 36,
    "KVM_CAP_SET_IDENTITY_MAP_ADDR": 37,
    "KVM_CAP_ADJUST_CLOCK": 39,
    "KVM_CAP_VCPU_EVENTS": 41,
    "KVM_CAP_TSC_CONTROL": 60,
    "KVM_CAP_MAX_VCPUS": 66,
    "KVM_CAP_TSC_DEADLINE_TIMER": 72,
    "KVM_CAP_SIGNAL_MSI": 77,
    "KVM_CAP_READONLY_MEM": 81,
    "KVM_CAP_IRQFD_RESAMPLE": 82,
    "KVM_CAP_DEVICE_CTRL": 89,
    "KVM_CAP_SPLIT_IRQCHIP": 121,
    "KVM_CAP_MAX_VCPU_ID": 128,
    "KVM_CAP_X2APIC_API": 129,
    "KVM_CAP_IMMEDIATE_EXIT": 136,
    "KVM_CAP_COALESCED_PIO": 162,
}

CPUID_REGISTERS = {1: ("ecx",), 7: ("ebx", "ecx"), 0x8000_0001: ("ecx", "edx")}
"""Those of runner.graph.x86.CPU_FEATURES, and no more: leaf 1's EBX names the CPU that was asked, which is
another one the next time, and nothing that was remembered of this host would hold."""
CPUID_ENTRIES = 256  # the most that KVM has (KVM_MAX_CPUID_ENTRIES)
CPUID_ENTRY = 40  # bytes: function, index, flags, eax, ebx, ecx, edx, padding

Ioctl = Callable[[int, int, Any], int]


def vendor_module(sysfs: Sysfs) -> str:
    """The module that makes KVM run on this processor: ``kvm_intel``, ``kvm_amd``, … or "".

    Built-in modules are listed even where their start failed, so a module that is neither
    of the two (and was loaded for a reason) is believed before them.
    """
    found = [name for name in names_or(sysfs, "/sys/module") if name.startswith("kvm_")]
    other = [name for name in found if name not in MODULES_THAT_RUN_STOCK_KERNELS]
    if other:
        return other[0]
    if len(found) > 1:
        return "kvm_amd" if "AuthenticAMD" in text_or(sysfs, "/proc/cpuinfo") else "kvm_intel"
    return found[0] if found else ""


def kvm_facts(sysfs: Sysfs, device: str = "/dev/kvm", ioctl: Ioctl | None = None) -> KvmFacts:
    """Open ``device`` and ask.  ``ioctl`` is fcntl.ioctl unless a test says otherwise."""
    vendor = vendor_module(sysfs)
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return KvmFacts(vendor_module=vendor, why=f"there is no {device}")
    except PermissionError:
        return KvmFacts(present=True, vendor_module=vendor, why=f"this user may not open {device}")
    except OSError as error:
        return KvmFacts(present=True, vendor_module=vendor, why=f"{device} does not open: {error.strerror}")
    try:
        return _ask(fd, vendor, ioctl or _fcntl_ioctl())
    finally:
        os.close(fd)


def _fcntl_ioctl() -> Ioctl:
    import fcntl

    return fcntl.ioctl


def _ask(fd: int, vendor: str, ioctl: Ioctl) -> KvmFacts:
    try:
        version = ioctl(fd, KVM_GET_API_VERSION, 0)
        values = {name: ioctl(fd, KVM_CHECK_EXTENSION, number) for name, number in CAPABILITIES.items()}
    except OSError as error:
        why = f"/dev/kvm does not answer as KVM: {error.strerror}"
        return KvmFacts(present=True, accessible=True, vendor_module=vendor, why=why)
    usable, why = _verdict(version, vendor)
    return KvmFacts(
        present=True,
        accessible=True,
        api_version=version,
        vendor_module=vendor,
        usable=usable,
        why=why,
        capabilities=tuple(sorted((name, value) for name, value in values.items() if value > 0)),
        max_vcpus=values["KVM_CAP_MAX_VCPUS"] or values["KVM_CAP_NR_VCPUS"],
        cpuid=_offered(fd, ioctl) if usable else (),
    )


def _offered(fd: int, ioctl: Ioctl) -> tuple[tuple[str, int], ...]:
    """What KVM can give a guest of the leaves that have features (api.rst 4.46); () when it does not tell."""
    table = bytearray(8 + CPUID_ENTRY * CPUID_ENTRIES)
    table[:4] = CPUID_ENTRIES.to_bytes(4, "little")
    try:
        ioctl(fd, KVM_GET_SUPPORTED_CPUID, table)
    except OSError:
        return ()
    words = memoryview(table).cast("I")
    rows = []
    for first in range(2, 2 + 10 * min(words[0], CPUID_ENTRIES), 10):
        leaf, subleaf = words[first], words[first + 1]
        registers = {"ebx": words[first + 4], "ecx": words[first + 5], "edx": words[first + 6]}
        if subleaf == 0:
            rows += [(f"{leaf:x}.{name}", registers[name]) for name in CPUID_REGISTERS.get(leaf, ())]
    return tuple(rows)


def _verdict(version: int, vendor: str) -> tuple[bool, str]:
    if version != API_VERSION:
        return False, f"KVM speaks API version {version}, and only {API_VERSION} is known"
    if vendor in MODULES_THAT_RUN_STOCK_KERNELS:
        return True, f"{vendor} runs stock kernels"
    if vendor == "kvm_pvm":
        return False, "its module kvm_pvm interprets unmodified guests and cannot run a stock kernel"
    if vendor:
        return False, f"its vendor module {vendor} is not known to run a stock kernel"
    return False, "no vendor module of KVM is loaded, so nothing says that a stock kernel runs"
