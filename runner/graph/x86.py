"""The memory map and the processors of an x86 PC, as our own engine lays them out.

Ends of ranges are exclusive here.  RAM below 3 GiB, then the 32-bit PCI window, the
configuration window (ECAM), the interrupt controllers where every PC has them (Intel SDM
volume 3, 10.4.1; 82093AA data sheet), KVM's three reserved pages on VMX and its identity
map (Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR), and
the rest of RAM from 4 GiB.
"""

from __future__ import annotations

from runner.definition.model import Cpus
from runner.errors import DefinitionError
from runner.graph.allocator import Space
from runner.graph.model import Region, Vcpu

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

LOW_RAM_END = 0xA_0000
ACPI_AREA = 0xE_0000  # where firmware looks for the RSDP (ACPI 6.4, section 5.2.5.1)
HIGH_MEMORY = 0x10_0000
RAM_END_BELOW_4G = 0xC000_0000
PCI_WINDOW_32 = (0xC000_0000, 0xE000_0000)
PLATFORM_WINDOW = (0xFEB0_0000, 0xFEC0_0000)  # registers without a fixed address
PORT_WINDOW = (0xC000, 0x1_0000)  # I/O BARs
PLATFORM_PORTS = (0x700, 0xC00)  # ports without a fixed number
IOAPIC, LAPIC = 0xFEC0_0000, 0xFEE0_0000
KVM_IDENTITY_MAP, KVM_TSS = 0xFFFB_C000, 0xFFFB_D000
ABOVE_4G = 0x1_0000_0000

GSIS = 24  # pins of the I/O APIC
FIRST_PCI_GSI = 16
ISA_LINES = (5, 10, 11, 7, 3, 6, 12, 14, 15)  # for devices without a fixed line
XAPIC_BROADCAST = 255  # the highest id is 254 without x2APIC (SDM volume 3, 10.6.2.1)
ASSUMED_ADDRESS_BITS = 39  # what every processor with nested paging has at least

# Names as /proc/cpuinfo writes them, for cpus.features = ["+svm", "-avx512f"]: CPUID leaf, register, bit.
CPU_FEATURES: dict[str, tuple[int, str, int]] = {
    "vmx": (1, "ecx", 5), "pcid": (1, "ecx", 17), "x2apic": (1, "ecx", 21), "aes": (1, "ecx", 25),
    "xsave": (1, "ecx", 26), "avx": (1, "ecx", 28), "f16c": (1, "ecx", 29), "rdrand": (1, "ecx", 30),
    "sse4_1": (1, "ecx", 19), "sse4_2": (1, "ecx", 20), "popcnt": (1, "ecx", 23), "fma": (1, "ecx", 12),
    "tsc_deadline_timer": (1, "ecx", 24), "fsgsbase": (7, "ebx", 0), "bmi1": (7, "ebx", 3),
    "avx2": (7, "ebx", 5), "smep": (7, "ebx", 7), "bmi2": (7, "ebx", 8), "erms": (7, "ebx", 9),
    "invpcid": (7, "ebx", 10), "avx512f": (7, "ebx", 16), "avx512dq": (7, "ebx", 17),
    "rdseed": (7, "ebx", 18), "adx": (7, "ebx", 19), "smap": (7, "ebx", 20), "sha_ni": (7, "ebx", 29),
    "avx512bw": (7, "ebx", 30), "avx512vl": (7, "ebx", 31), "umip": (7, "ecx", 2), "pku": (7, "ecx", 3),
    "vaes": (7, "ecx", 9), "la57": (7, "ecx", 16), "svm": (0x80000001, "ecx", 2),
    "nx": (0x80000001, "edx", 20), "pdpe1gb": (0x80000001, "edx", 26), "rdtscp": (0x80000001, "edx", 27),
}  # fmt: skip


def backing(size: int) -> tuple[tuple[int, int], ...]:
    """Where ``size`` bytes of guest memory appear: (start, size), the hole below 1 MiB included.

    The memory behind 0xa0000–0xfffff exists (the ACPI tables live in it) but is no RAM for
    the guest; the graph's regions of kind ``ram`` are.
    """
    low = min(size, RAM_END_BELOW_4G)
    return ((0, low),) if size == low else ((0, low), (ABOVE_4G, size - low))


def ram_end(size: int) -> int:
    """The first address above all RAM, at least 4 GiB."""
    return ABOVE_4G + max(0, size - RAM_END_BELOW_4G)


def fixed_regions(memory: int) -> tuple[Region, ...]:
    """What every machine has, with or without PCI."""
    if memory <= HIGH_MEMORY:
        raise DefinitionError(f"memory of {memory:#x} bytes leaves nothing above 1 MiB for a kernel")
    low = min(memory, RAM_END_BELOW_4G)
    regions = [
        Region(0, LOW_RAM_END, "ram", "memory"),
        Region(LOW_RAM_END, ACPI_AREA - LOW_RAM_END, "reserved", "legacy video and ROMs"),
        Region(ACPI_AREA, HIGH_MEMORY - ACPI_AREA, "reserved", "ACPI tables"),
        Region(HIGH_MEMORY, low - HIGH_MEMORY, "ram", "memory"),
        Region(IOAPIC, 4 * KIB, "ioapic", "I/O APIC"),
        Region(LAPIC, 4 * KIB, "lapic", "local APICs"),
        Region(KVM_IDENTITY_MAP, 4 * KIB, "reserved", "KVM identity map"),
        Region(KVM_TSS, 12 * KIB, "reserved", "KVM TSS"),
    ]
    if memory > low:
        regions.append(Region(ABOVE_4G, memory - low, "ram", "memory"))
    return tuple(regions)


def window_64(above: int, largest: int, total: int, address_bits: int) -> Region:
    """The 64-bit PCI window: from ``above`` on, for BARs of ``total`` bytes, the largest ``largest``.

    At least 64 GiB where the processor's address width has room for it; twice what is
    needed otherwise, so that a guest can move things.  Raises DefinitionError.
    """
    align = max(GIB, largest)
    start = -(-above // align) * align
    wanted = -(-max(64 * GIB, 2 * total) // align) * align
    end = min(start + wanted, 1 << address_bits)
    if end - start < total:
        raise DefinitionError(
            f"64-bit BARs of {total:#x} bytes do not fit between {start:#x} and {1 << address_bits:#x}, "
            f"the end of what {address_bits} address bits reach",
            hint="give the machine less memory or fewer devices",
        )
    return Region(start, end - start, "mmio64", "PCI")


def vcpus(cpus: Cpus) -> tuple[Vcpu, ...]:
    """APIC ids: each level of the topology takes a whole number of bits (SDM volume 3, 8.9.1)."""
    thread_bits = (cpus.threads - 1).bit_length()
    core_bits = (cpus.cores - 1).bit_length()
    made = []
    for number in range(cpus.total):
        core_number, thread = divmod(number, cpus.threads)
        socket, core = divmod(core_number, cpus.cores)
        apic_id = (socket << core_bits | core) << thread_bits | thread
        made.append(Vcpu(number, apic_id, socket, core, thread))
    if made[-1].apic_id >= XAPIC_BROADCAST:
        raise DefinitionError(
            f"{cpus.sockets} sockets x {cpus.cores} cores x {cpus.threads} threads need APIC id "
            f"{made[-1].apic_id}, and the highest is {XAPIC_BROADCAST - 1}",
            hint="use powers of two for cores and threads, or fewer CPUs",
        )
    return tuple(made)


def intx_gsi(device: int, pin: int) -> int:
    """The I/O APIC input of a root-bus device's INTx (pin 1 is INTA): 16–23, spread by slot."""
    return FIRST_PCI_GSI + (device + pin - 1) % (GSIS - FIRST_PCI_GSI)


def address_space(memory: int) -> Space:
    """All guest-physical addresses, with the fixed regions taken."""
    space = Space("the address space", 0, 1 << 52)
    for region in fixed_regions(memory):
        space.take(region.start, region.size, region.owner)
    return space
