"""The checked definition: what the file says, resolved and frozen, with no trace of this host.

Made by :mod:`runner.definition.load` from TOML text that has passed the schema; every
later stage only reads it.  Sizes are bytes, durations seconds, and a path keeps both
the words of the file (what is printed) and where it leads (what is opened).
"""

from __future__ import annotations

from runner.definition.findings import Finding
from runner.typed import Mapping, NamedTuple

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class FilePath(NamedTuple):
    """A path as written, and resolved against the file that says it."""

    text: str
    resolved: str


class KernelFile(NamedTuple):
    """``kernel = "vmlinuz"``: a bzImage or an ELF vmlinux on this host."""

    path: FilePath


class KernelDeb(NamedTuple):
    """``kernel = { deb = "linux-image-cloud-amd64" }``: out of a Debian package."""

    package: str
    version: str | None = None
    flavour: str = "vmlinuz"  # which file of the package: "vmlinuz"


class KernelUrl(NamedTuple):
    """``kernel = { url = …, sha256 = … }``: fetched once, kept by its hash."""

    url: str
    sha256: str


KernelSource = KernelFile | KernelDeb | KernelUrl


class InitramfsFile(NamedTuple):
    """``initramfs = "initrd.img"``."""

    path: FilePath


class InitramfsBuild(NamedTuple):
    """``[initramfs]``: built by vmrun, reproducibly.

    ``modules`` are names as modprobe takes them; their dependencies are added and all
    are loaded in order.  ``files`` maps a guest path to a host path.  ``run`` is the
    shell command that is the guest's work; its exit status becomes the run's.  ``root``
    instead is the block device of an installed system, whose init takes over.
    """

    modules: tuple[str, ...] = ()
    files: tuple[tuple[str, FilePath], ...] = ()
    run: str | None = None
    busybox: FilePath | None = None  # None: the host's static busybox
    root: str | None = None  # as mount(8) takes it: "/dev/vda", "LABEL=root"


InitramfsSource = InitramfsFile | InitramfsBuild


class Cpus(NamedTuple):
    """``cpus = 4`` or a table.  total == sockets * cores * threads."""

    total: int = 1
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    model: str | None = None  # qemu only; None: what the engine has best
    features: tuple[str, ...] = ()  # "+name" / "-name"
    affinity: tuple[tuple[int, ...], ...] = ()  # per vCPU: host CPUs it may run on


class NumaZone(NamedTuple):
    """One guest NUMA node: bytes of memory and the vCPUs that are near."""

    size: int
    cpus: tuple[int, ...]


class Memory(NamedTuple):
    """``memory = "512M"`` or a table.  ``size`` in bytes, a multiple of 4096."""

    size: int
    hugepages: str | None = None  # "2M" | "1G": hugetlbfs pages; None: transparent ones
    shared: bool = False
    prefault: bool = False
    merge: bool = False
    zones: tuple[NumaZone, ...] = ()


class CharPort(NamedTuple):
    """A named port of the virtio console, and where it goes (as in CharBackend)."""

    name: str
    mode: str
    path: FilePath | None = None


class CharBackend(NamedTuple):
    """Where a serial line or console goes: tty, null, off, file, pty or socket."""

    mode: str
    path: FilePath | None = None
    ports: tuple[CharPort, ...] = ()  # of the console only


class Expect(NamedTuple):
    """``[expect]``: what a run has to show; None and () demand nothing."""

    console: tuple[str, ...] = ()  # texts on any console, in any order
    reason: str | None = None  # of runner.verdict.reasons
    status: int | None = None  # that the guest hands over
    stop: bool = False  # press the power button when all of ``console`` has been seen


class DeviceEntry(NamedTuple):
    """One device of the file: ``[disks.root]`` is section "disks", name "root".

    ``kind`` names the module in :mod:`runner.devices` (``virtio_blk``); ``options`` is the
    table after the schema: defaults filled in, sizes as bytes (int), durations as seconds,
    paths as ``{"text": …, "resolved": …}``.  It is JSON all through.
    """

    section: str
    name: str
    kind: str
    options: Mapping[str, Json]
    slot: str | None = None  # "00:05.0" in the guest


class Definition(NamedTuple):
    """One virtual machine, as the file says it."""

    name: str
    source: FilePath
    digest: str  # sha256 of the text, hex
    kernel: KernelSource | None
    initramfs: InitramfsSource | None
    cmdline: str
    cpus: Cpus
    memory: Memory
    serial: CharBackend
    console: CharBackend
    engine: tuple[str, ...] = ("kvm", "qemu")
    timeout: float | None = None  # seconds
    devices: tuple[DeviceEntry, ...] = ()
    machine: Mapping[str, Json] = {}  # qemu-only parts: vIOMMU, nested virtualization  # noqa: RUF012
    expect: Expect | None = None
    shorten_boot: tuple[str, ...] = ()  # names of graph/shorter_boot.py
    pieces: tuple[tuple[str, str], ...] = ()  # path and text of each file that it extends
    warnings: tuple[Finding, ...] = ()  # what is wrong with it and does not keep it from running
