"""The CPU a guest sees: KVM's own offer, less what nothing here emulates, plus the topology.

Leaves after Intel SDM volume 2A "CPUID" and AMD APM volume 3 appendix E.
"""

from __future__ import annotations

import struct

from runner.definition.model import Cpus
from runner.errors import DefinitionError
from runner.graph.model import Vcpu
from runner.graph.x86 import CPU_FEATURES
from runner.host.kvm import BRAND_LEAVES, CpuidEntry
from runner.typed import Iterable

EAX, EBX, ECX, EDX = 3, 4, 5, 6  # positions in CpuidEntry
REGISTERS = {"ebx": EBX, "ecx": ECX, "edx": EDX}

HYPERVISOR = 31
TSC_DEADLINE = 24
HTT = 28
CMP_LEGACY = 1 << 1

# (leaf, register, bits): promised by some host CPUs, emulated by nobody here.
NOT_EMULATED: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (1, ECX, (2, 3, 5, 7, 8, 15)),  # DTES64, MONITOR, VMX, EIST, TM2, PDCM
    (1, EDX, (22, 29, 31)),  # thermal monitor and clock control
    (7, EBX, (2, 25)),  # SGX, processor trace
    (7, ECX, (30,)),  # SGX launch control
    (0x80000001, ECX, (2, 10, 23, 24)),  # SVM, IBS, performance counter extensions
)
SVM_LEAF = 0x8000000A
EMPTY_LEAVES = (0xA, 0x12, 0x14, SVM_LEAF, 0x8000001B)  # PMU, SGX, trace, SVM, IBS


INTEL = b"GenuineIntel"
MOST_CORES = 64  # what leaf 4 has bits for; more are told by leaves 0xB and 0x1F

Brand = tuple[tuple[int, int, int, int], ...]


def guest_cpuid(
    offer: Iterable[CpuidEntry], cpus: Cpus, vcpu: Vcpu, *, tsc_deadline: bool, brand: Brand = ()
) -> list[CpuidEntry]:
    """The table for one vCPU; ``offer`` is KVM_GET_SUPPORTED_CPUID's, which leaves the CPU's name out."""
    supported = [_with_deadline(entry, tsc_deadline) for entry in offer]
    wanted = _wanted(supported, cpus.features)
    multi = _multi_core_bit(supported, cpus)
    table = [_filtered(entry, wanted) for entry in supported]
    table = [_with_identity(entry, vcpu, cpus, multi) for entry in table]
    table = [_with_features(entry, wanted) for entry in table]
    names = dict(zip(BRAND_LEAVES, brand, strict=False))
    table = [CpuidEntry(*entry[:3], *names.get(entry.leaf, entry[3:])) for entry in table]
    leaves = {entry.leaf for entry in table}
    table = [entry for entry in table if entry.leaf not in (0xB, 0x1F)]
    for leaf in sorted(leaves & {0xB, 0x1F}):
        table += _extended_topology(leaf, vcpu, cpus)
    return table


def topology_bits(cpus: Cpus) -> tuple[int, int]:
    """Width of the thread and core fields of an APIC id."""
    return (cpus.threads - 1).bit_length(), (cpus.cores - 1).bit_length()


def _with_deadline(entry: CpuidEntry, tsc_deadline: bool) -> CpuidEntry:
    """KVM tells of this one by a capability and not in its offer (api.rst 4.46, KVM_GET_SUPPORTED_CPUID)."""
    if entry.leaf != 1:
        return entry
    return entry._replace(ecx=entry.ecx & ~(1 << TSC_DEADLINE) | int(tsc_deadline) << TSC_DEADLINE)


def _wanted(offer: list[CpuidEntry], words: tuple[str, ...]) -> dict[str, bool]:
    """Features by name, and whether the guest is to have them.  Raises DefinitionError."""
    given = {entry.leaf: entry for entry in offer if entry.subleaf == 0}
    for word in words:
        name = word[1:]
        leaf, register, bit = CPU_FEATURES[name]  # the plan has refused any other
        if word[0] == "+" and not (leaf in given and given[leaf][REGISTERS[register]] >> bit & 1):
            raise DefinitionError(f"cpus.features: this host's KVM does not offer `{name}` to guests")
    return {word[1:]: word[0] == "+" for word in words}


def _multi_core_bit(offer: list[CpuidEntry], cpus: Cpus) -> int:
    """CmpLegacy of leaf 0x80000001: several CPUs in a package are cores.  Intel's CPUs do not have it."""
    names = next((entry for entry in offer if entry.leaf == 0), None)
    if names is not None and struct.pack("<3I", names.ebx, names.edx, names.ecx) == INTEL:
        return 0
    return CMP_LEGACY if cpus.cores * cpus.threads > 1 else 0


def _filtered(entry: CpuidEntry, wanted: dict[str, bool]) -> CpuidEntry:
    if entry.leaf == SVM_LEAF and wanted.get("svm"):
        return entry
    if entry.leaf in EMPTY_LEAVES:
        return entry._replace(eax=0, ebx=0, ecx=0, edx=0)
    if entry.leaf == 6:
        return entry._replace(eax=entry.eax & 4, ebx=0, ecx=0, edx=0)  # only ARAT: the APIC timer never stops
    values = list(entry)
    for leaf, register, bits in NOT_EMULATED:
        if entry.leaf == leaf and entry.subleaf == 0:
            for bit in bits:
                values[register] &= ~(1 << bit)
    return CpuidEntry(*values)


def _with_features(entry: CpuidEntry, wanted: dict[str, bool]) -> CpuidEntry:
    values = list(entry)
    for name, on in wanted.items():
        leaf, register, bit = CPU_FEATURES[name]
        if entry.leaf == leaf and entry.subleaf == 0:
            at = REGISTERS[register]
            values[at] = values[at] & ~(1 << bit) | on << bit
    return CpuidEntry(*values)


def _with_identity(entry: CpuidEntry, vcpu: Vcpu, cpus: Cpus, multi_core: int) -> CpuidEntry:
    """Who this CPU is, and whom it shares what with: counted in APIC ids, whole powers of two."""
    thread_bits, core_bits = topology_bits(cpus)
    per_package = 1 << (thread_bits + core_bits)
    if entry.leaf == 1:
        edx = entry.edx | 1 << HTT if per_package > 1 else entry.edx & ~(1 << HTT)
        ebx = (entry.ebx & 0xFFFF) | min(per_package, 255) << 16 | (vcpu.apic_id & 0xFF) << 24
        return entry._replace(ebx=ebx, ecx=entry.ecx | 1 << HYPERVISOR, edx=edx)
    if entry.leaf in (4, 0x8000001D) and entry.eax & 0x1F:
        level = entry.eax >> 5 & 7
        sharing = (1 << thread_bits if level < 3 else per_package) - 1
        cores = min(1 << core_bits, MOST_CORES) - 1 if entry.leaf == 4 else 0
        return entry._replace(eax=(entry.eax & 0x3FFF) | sharing << 14 | cores << 26)
    if entry.leaf == 0x80000001:
        return entry._replace(ecx=entry.ecx & ~CMP_LEGACY | multi_core)
    if entry.leaf == 0x80000008:
        ecx = (cpus.cores * cpus.threads - 1) & 0xFF | (thread_bits + core_bits) << 12
        return entry._replace(ecx=ecx)
    if entry.leaf == 0x8000001E:
        ebx = vcpu.core & 0xFF | (cpus.threads - 1) << 8
        return entry._replace(eax=vcpu.apic_id, ebx=ebx, ecx=vcpu.socket & 0xFF)
    return entry


def _extended_topology(leaf: int, vcpu: Vcpu, cpus: Cpus) -> list[CpuidEntry]:
    """Leaves 0xB and 0x1F: how far to shift an x2APIC id for the next level up."""
    thread_bits, core_bits = topology_bits(cpus)
    levels = (
        (thread_bits, cpus.threads, 1 << 8),
        (thread_bits + core_bits, cpus.threads * cpus.cores, 2 << 8),
        (0, 0, 0),
    )
    return [
        CpuidEntry(leaf, number, 1, shift, count, kind | number, vcpu.apic_id)
        for number, (shift, count, kind) in enumerate(levels)
    ]
