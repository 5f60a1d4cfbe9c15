"""The CPU a guest sees: KVM's own offer, less what nothing here emulates, plus the topology.

Leaves after Intel SDM volume 2A "CPUID" and AMD APM volume 3 appendix E.
"""

from __future__ import annotations

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

# (leaf, register, bits): promised by some host CPUs, emulated by nobody here.
NOT_EMULATED: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (1, ECX, (2, 3, 5, 7, 8, 15)),  # DTES64, MONITOR, VMX, EIST, TM2, PDCM
    (1, EDX, (22, 29, 31)),  # thermal monitor and clock control
    (7, EBX, (2, 25)),  # SGX, processor trace
    (7, ECX, (30,)),  # SGX launch control
    (0x80000001, ECX, (2, 10, 23, 24)),  # SVM, IBS, performance counter extensions
)
EMPTY_LEAVES = (0xA, 0x12, 0x14, 0x8000000A, 0x8000001B)  # PMU, SGX, trace, SVM, IBS


Brand = tuple[tuple[int, int, int, int], ...]


def guest_cpuid(
    offer: Iterable[CpuidEntry], cpus: Cpus, vcpu: Vcpu, *, tsc_deadline: bool, brand: Brand = ()
) -> list[CpuidEntry]:
    """The table for one vCPU; ``offer`` is KVM_GET_SUPPORTED_CPUID's, which leaves the CPU's name out."""
    supported = list(offer)
    table = [_filtered(entry) for entry in supported]
    table = [_with_features(entry, supported, cpus.features) for entry in table]
    table = [_with_identity(entry, vcpu, cpus, tsc_deadline) for entry in table]
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


def _filtered(entry: CpuidEntry) -> CpuidEntry:
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


def _with_features(entry: CpuidEntry, offer: list[CpuidEntry], wanted: tuple[str, ...]) -> CpuidEntry:
    values = list(entry)
    for word in wanted:
        sign, name = word[0], word[1:]
        leaf, field, bit = CPU_FEATURES[name]  # the plan has refused any other
        register = REGISTERS[field]
        if entry.leaf != leaf or entry.subleaf != 0:
            continue
        if sign == "-":
            values[register] &= ~(1 << bit)
            continue
        given = next(e for e in offer if e.leaf == leaf and e.subleaf == 0)
        if not given[register] >> bit & 1:
            raise DefinitionError(f"cpus.features: this host's KVM does not offer `{name}` to guests")
        values[register] |= 1 << bit
    return CpuidEntry(*values)


def _with_identity(entry: CpuidEntry, vcpu: Vcpu, cpus: Cpus, tsc_deadline: bool) -> CpuidEntry:
    thread_bits, core_bits = topology_bits(cpus)
    per_package = 1 << (thread_bits + core_bits)
    apic8 = vcpu.apic_id & 0xFF
    if entry.leaf == 1:
        ecx = entry.ecx | 1 << HYPERVISOR | int(tsc_deadline) << TSC_DEADLINE
        edx = entry.edx | 1 << HTT if per_package > 1 else entry.edx & ~(1 << HTT)
        ebx = (entry.ebx & 0xFFFF) | min(per_package, 255) << 16 | apic8 << 24
        return entry._replace(ebx=ebx, ecx=ecx, edx=edx)
    if entry.leaf == 4 and entry.eax & 0x1F:
        level = entry.eax >> 5 & 7
        sharing = (1 << thread_bits if level < 3 else per_package) - 1
        eax = (entry.eax & 0x3FFF) | sharing << 14 | ((1 << core_bits) - 1) << 26
        return entry._replace(eax=eax)
    if entry.leaf == 0x80000001:
        multi = entry.ecx | 2 if per_package > 1 else entry.ecx & ~2  # CmpLegacy
        return entry._replace(ecx=multi)
    if entry.leaf == 0x80000008:
        ecx = (cpus.cores * cpus.threads - 1) & 0xFF | (thread_bits + core_bits) << 12
        return entry._replace(ecx=ecx)
    if entry.leaf == 0x8000001D and entry.eax & 0x1F:
        level = entry.eax >> 5 & 7
        sharing = (cpus.threads if level < 3 else cpus.cores * cpus.threads) - 1
        return entry._replace(eax=(entry.eax & 0x3FFF) | sharing << 14)
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
