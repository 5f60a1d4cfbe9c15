"""The device graph: every address, line, slot and backend decided, and nothing started.

A frozen value between the definition and the engines.  It is deterministic (same
definition and facts, same bytes), JSON-storable (:mod:`runner.graph.encode`) and
printable.  Addresses are guest-physical; sizes are bytes.
"""

from __future__ import annotations

from runner.definition.model import Cpus, FilePath, InitramfsSource, Json, KernelSource, Memory
from runner.typed import Mapping, NamedTuple


class EngineChoice(NamedTuple):
    """Which engine runs, and for each of the preference list why (not)."""

    name: str  # "kvm" | "qemu" | "" when none can
    accelerator: str  # "kvm" | "tcg"
    reasons: tuple[tuple[str, str], ...]  # (engine, clause)


class Region(NamedTuple):
    """A part of the guest-physical address space."""

    start: int
    size: int
    kind: str  # ram | reserved | mmio32 | mmio64 | ecam | ioapic | lapic | device
    owner: str


class PortClaim(NamedTuple):
    """I/O ports a device answers; ``at`` None lets the allocator choose."""

    size: int
    at: int | None = None
    name: str = ""


class IrqClaim(NamedTuple):
    """A wired interrupt; ``line`` None lets the allocator choose one."""

    line: int | None = None
    trigger: str = "edge"  # edge | level
    polarity: str = "high"  # high | low
    name: str = ""


class BarClaim(NamedTuple):
    """A base address register: size is a power of two, kind io | mem32 | mem64."""

    bar: int
    size: int
    kind: str
    prefetchable: bool = False
    at: int | None = None  # set by the allocator


class PciClaim(NamedTuple):
    """One PCI function a device wants; ``slot`` is set by the allocator ("00:05.0")."""

    vendor: int
    device: int
    class_code: int  # 24 bits: class, subclass, programming interface
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    revision: int = 0
    bars: tuple[BarClaim, ...] = ()
    msix_vectors: int = 0
    msi_vectors: int = 0
    intx_pin: int = 0  # 0 none, 1 INTA
    slot: str | None = None
    bridge: bool = False  # a root port: functions can sit below it
    bus: str = ""  # name of the root port it sits below, "" for the root bus
    windows: tuple[Region, ...] = ()  # of a root port: what it forwards, kinds io, mem32, mem64


class BackendClaim(NamedTuple):
    """A host resource that a device is fed by; opened by the supervisor, by this name."""

    name: str
    kind: str  # char | block | tap | passt | vhost-net | vhost-vsock | hybrid-vsock | virtiofs | vfio …
    options: Mapping[str, Json] = {}  # noqa: RUF012


class Claim(NamedTuple):
    """What a device asks for (from a device module) or has been given (in the graph)."""

    ports: tuple[PortClaim, ...] = ()
    irqs: tuple[IrqClaim, ...] = ()
    pci: PciClaim | None = None
    regions: tuple[Region, ...] = ()  # fixed or (start 0) to be placed by the allocator
    backends: tuple[BackendClaim, ...] = ()


class Node(NamedTuple):
    """A device of the guest with everything it was given."""

    kind: str  # module name in runner.devices
    name: str  # the definition's name, or the kind for what every PC has
    section: str  # disks, net, devices …; "" for what every PC has
    options: Mapping[str, Json]
    claim: Claim


class Vcpu(NamedTuple):
    """One virtual CPU: its APIC id and its place in the topology."""

    number: int
    apic_id: int
    socket: int
    core: int
    thread: int


class Boot(NamedTuple):
    """What is started, before any artifact has been fetched or opened."""

    kernel: KernelSource | None
    initramfs: InitramfsSource | None
    cmdline: str  # as the kernel gets it
    added: tuple[
        tuple[str, str], ...
    ] = ()  # its last parameters, which `shorten_boot` added: parameter, name


class BootFiles(NamedTuple):
    """Artifacts after fetching: paths on this host, readable by us.

    ``kernel`` is what to boot (an uncompressed vmlinux out of the cache where there is
    one); ``kernel_given`` is the file as the definition names it, the fallback.
    ``notes`` say what was taken, one line each, for standard error and the report.
    """

    kernel: str
    kernel_given: str
    initramfs: str | None
    notes: tuple[str, ...] = ()


class Graph(NamedTuple):
    """One machine, resolved."""

    name: str
    source: FilePath
    digest: str  # of the definition's text
    engine: EngineChoice
    boot: Boot
    cpus: Cpus
    vcpus: tuple[Vcpu, ...]
    memory: Memory
    regions: tuple[Region, ...]  # sorted by start, never overlapping
    nodes: tuple[Node, ...]  # platform first, then as in the file
    timeout: float | None
    machine: Mapping[str, Json] = {}  # noqa: RUF012
    notes: tuple[str, ...] = ()  # warnings worth a line in the plan
    refusals: tuple[str, ...] = ()  # why these host facts would not let it run, each with what mends it
