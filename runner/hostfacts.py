"""What this host offers, as one frozen, JSON-storable value: an input of the plan.

Only :mod:`runner.host.survey` reads the host; everybody else gets a :class:`HostFacts`.
So a machine can be planned, tested and diffed on any host (``vmrun plan --host FILE``).
"""

from __future__ import annotations

from runner.typed import NamedTuple


class KvmFacts(NamedTuple):
    """``/dev/kvm`` and whether a stock kernel runs under it, which are two things."""

    present: bool = False
    accessible: bool = False
    api_version: int = 0
    vendor_module: str = ""  # kvm_intel, kvm_amd, kvm_pvm, …
    usable: bool = False
    why: str = ""  # one clause: why (not) usable
    capabilities: tuple[tuple[str, int], ...] = ()  # ("KVM_CAP_IRQFD", 1), sorted
    max_vcpus: int = 0
    cpuid: tuple[
        tuple[str, int], ...
    ] = ()  # ("7.ebx", bits) of the registers that have features, for guests; (): unknown


class QemuFacts(NamedTuple):
    """The system emulator, if installed."""

    path: str = ""
    version: str = ""


class BarFacts(NamedTuple):
    """One BAR of a host function: kind is "io", "mem32" or "mem64"; size in bytes."""

    bar: int
    kind: str
    size: int
    prefetchable: bool = False


class PciFacts(NamedTuple):
    """One PCI function of the host, from sysfs; ids are lower-case hex without 0x."""

    address: str  # "0000:01:00.0"
    vendor: str
    device: str
    subsystem_vendor: str = ""
    subsystem_device: str = ""
    class_code: str = ""  # six hex digits
    revision: str = ""
    driver: str = ""  # "" when unbound
    driver_override: str = ""
    iommu_group: int | None = None
    reset_methods: tuple[str, ...] = ()
    bars: tuple[BarFacts, ...] = ()
    rom_size: int = 0
    intx_pin: int = 0  # 0 none, 1 INTA … 4 INTD
    msi_vectors: int = 0
    msix_vectors: int = 0
    serial: str = ""  # device serial number capability
    slot: str = ""  # physical slot, /sys/bus/pci/slots
    parent: str = ""  # the bridge above, "" on a root bus
    is_bridge: bool = False
    boot_vga: bool = False
    vfs: int = 0  # SR-IOV functions enabled
    uses: tuple[str, ...] = ()  # what the host lives on below it: "mount /", "default route"
    reserved: tuple[tuple[int, int, str], ...] = ()  # its group's reserved IOVAs: (first, last, kind)
    capabilities_known: bool = True  # False: this user sees no vectors and no serial number


class HostFacts(NamedTuple):
    """Everything a plan may depend on."""

    arch: str = "x86_64"
    kernel: str = ""  # uname -r
    cpus: int = 1
    memory_total: int = 0  # bytes
    memory_available: int = 0
    page_size: int = 4096
    euid: int = 0
    memlock: int | None = None  # bytes, RLIMIT_MEMLOCK soft; None: unlimited
    hugepages: tuple[tuple[int, int, int], ...] = ()  # (page bytes, total, free)
    thp: str = ""  # always | madvise | never
    kvm: KvmFacts = KvmFacts()
    qemu: QemuFacts = QemuFacts()
    iommu: bool = False
    interrupt_remapping: bool = False
    unsafe_interrupts: bool = False  # vfio_iommu_type1's switch as it is now
    dma_entry_limit: int = 0
    iova_bits: int = 0
    modules: tuple[str, ...] = ()  # loaded or built in, of those that matter to us
    devices: tuple[str, ...] = ()  # nodes that exist and open: /dev/vhost-net, /dev/net/tun …
    programs: tuple[tuple[str, str], ...] = ()  # (name, path) of helper programs
    pci: tuple[PciFacts, ...] = ()
    acs_override: bool = False  # the kernel runs with pcie_acs_override: its groups may be none
    open_files: int | None = None  # RLIMIT_NOFILE hard; None: unlimited
    cpu_vendor: str = ""  # "intel" | "amd" | "": whose virtualization and IOMMU to speak of
    physical_bits: int = 0  # width of the CPU's physical addresses; 0: unknown


def is_address(text: str) -> bool:
    """Whether ``text`` is a full PCI address such as 0000:01:00.0 (VMD domains have more digits)."""
    domain, colon, rest = text.partition(":")
    digits = domain + rest[0:2] + rest[3:5] + rest[6:]
    return (
        colon == ":" and len(domain) >= 4 and len(rest) == 7 and rest[2] == ":" and rest[5] == "."
        and rest[6] in "01234567" and all(digit in "0123456789abcdef" for digit in digits)
    )  # fmt: skip
