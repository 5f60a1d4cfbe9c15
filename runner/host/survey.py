"""Reads the host once, into one :class:`~runner.hostfacts.HostFacts`.

On the run path only what is asked for is read: a machine without passed-through devices
costs some forty system calls, and no program is started.
"""

from __future__ import annotations

import os

from runner.host.kvm_facts import Ioctl, kvm_facts
from runner.host.sysfs import HostSysfs, Sysfs, int_or, names_or, text_or
from runner.hostfacts import HostFacts, KvmFacts, QemuFacts

QEMU = "qemu-system-x86_64"
PROGRAMS = ("virtiofsd", "passt", "qemu-storage-daemon", "qemu-img")
PROGRAM_FOLDERS = ("/usr/libexec", "/usr/lib/qemu")  # where distributions hide virtiofsd
DEVICES = ("/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/vfio/vfio", "/dev/iommu")
MODULES = (
    "iommufd", "kvm", "kvm_amd", "kvm_intel", "kvm_pvm", "tun",
    "vfio", "vfio_iommu_type1", "vfio_pci", "vhost_net", "vhost_vsock",
)  # fmt: skip
CAP_IPC_LOCK = 14  # include/uapi/linux/capability.h


def survey(
    sysroot: str = "/", *, pci: bool = True, qemu_version: bool | None = None, ioctl: Ioctl | None = None
) -> HostFacts:
    """This host, or the one whose files lie below ``sysroot``.

    ``pci`` False leaves functions and IOMMU out.  ``qemu_version`` starts QEMU once to ask
    for its version; None: only where KVM is not usable, so that QEMU will run anyway.
    """
    sysfs = HostSysfs(sysroot)
    root = sysfs.root
    kvm = kvm_facts(sysfs, f"{root}/dev/kvm", ioctl)
    cpu_vendor, physical_bits = _cpu(sysfs)
    total, available = _memory(text_or(sysfs, "/proc/meminfo"))
    identity = os.uname()
    facts = HostFacts(
        arch=identity.machine,
        kernel=text_or(sysfs, "/proc/sys/kernel/osrelease", identity.release),
        cpus=len(os.sched_getaffinity(0)),
        memory_total=total,
        memory_available=available,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        euid=os.geteuid(),
        memlock=_memlock(sysfs),
        hugepages=_hugepages(sysfs),
        thp=_transparent_hugepages(sysfs),
        kvm=kvm,
        qemu=_qemu(root, kvm, qemu_version),
        modules=_modules(sysfs),
        devices=_devices(sysfs, root, pci),
        programs=_programs(root),
        open_files=_open_files(),
        cpu_vendor=cpu_vendor,
        physical_bits=physical_bits,
    )
    return _with_pci(facts, sysfs) if pci else facts


def _with_pci(facts: HostFacts, sysfs: Sysfs) -> HostFacts:
    from runner.host.iommu_facts import iommu_facts
    from runner.host.pci_facts import pci_facts

    iommu = iommu_facts(sysfs)
    return facts._replace(
        iommu=iommu.on,
        interrupt_remapping=iommu.interrupt_remapping,
        unsafe_interrupts=iommu.unsafe_interrupts,
        dma_entry_limit=iommu.dma_entry_limit,
        iova_bits=iommu.iova_bits,
        acs_override=iommu.acs_override,
        pci=pci_facts(sysfs),
    )


def _cpu(sysfs: Sysfs) -> tuple[str, int]:
    """("intel" | "amd" | "", physical address bits) of the first CPU; the file has a page for each."""
    try:
        rows = sysfs.read_at("/proc/cpuinfo", 0, 8192).decode("ascii", "replace").splitlines()
    except OSError:
        return "", 0
    values = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in reversed(rows))}
    vendor = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(values.get("vendor_id", ""), "")
    bits = values.get("address sizes", "").partition(" ")[0]  # "48 bits physical, 48 bits virtual"
    return vendor, int(bits) if bits.isdigit() else 0


def _memory(meminfo: str) -> tuple[int, int]:
    """MemTotal and MemAvailable, in bytes."""
    rows = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, available = (
        int(rows.get(key, "0").split()[0]) * 1024 if rows.get(key, "0").split() else 0
        for key in ("MemTotal", "MemAvailable")
    )
    return total, available


def _memlock(sysfs: Sysfs) -> int | None:
    """Bytes that may be locked; None where no limit applies, and none does with CAP_IPC_LOCK."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return None
    for line in text_or(sysfs, "/proc/self/status").splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> CAP_IPC_LOCK & 1:
            return None
    return soft


def _open_files() -> int | None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _hugepages(sysfs: Sysfs) -> tuple[tuple[int, int, int], ...]:
    """(bytes of a page, pages in the pool, pages free), by size."""
    base = "/sys/kernel/mm/hugepages"
    rows = []
    for name in names_or(sysfs, base):
        size = name.removeprefix("hugepages-").removesuffix("kB")
        if size.isdigit():
            total = int_or(sysfs, f"{base}/{name}/nr_hugepages")
            rows.append((int(size) * 1024, total, int_or(sysfs, f"{base}/{name}/free_hugepages")))
    return tuple(sorted(rows))


def _transparent_hugepages(sysfs: Sysfs) -> str:
    """The chosen word of "always [madvise] never"."""
    words = text_or(sysfs, "/sys/kernel/mm/transparent_hugepage/enabled")
    return words.partition("[")[2].partition("]")[0]


def _modules(sysfs: Sysfs) -> tuple[str, ...]:
    """Loaded or built in.  A built-in driver without parameters has no folder, but a bus entry."""
    found = [name for name in MODULES if sysfs.exists(f"/sys/module/{name}")]
    if "vfio_pci" not in found and sysfs.exists("/sys/bus/pci/drivers/vfio-pci"):
        found.append("vfio_pci")
    return tuple(sorted(found))


def _devices(sysfs: Sysfs, root: str, pci: bool) -> tuple[str, ...]:
    """Nodes that this user may read and write; opening some of them would have effects."""
    groups = [f"/dev/vfio/{name}" for name in names_or(sysfs, "/dev/vfio") if name.isdigit()] if pci else []
    return tuple(path for path in (*DEVICES, *groups) if os.access(root + path, os.R_OK | os.W_OK))


def _find_program(root: str, name: str) -> str:
    for folder in (*os.environ.get("PATH", "/usr/bin:/bin").split(":"), *PROGRAM_FOLDERS):
        path = f"{folder}/{name}"
        if folder.startswith("/") and os.access(root + path, os.X_OK):
            return path
    return ""


def _programs(root: str) -> tuple[tuple[str, str], ...]:
    found = ((name, _find_program(root, name)) for name in PROGRAMS)
    return tuple((name, path) for name, path in found if path)


def _qemu(root: str, kvm: KvmFacts, ask_version: bool | None) -> QemuFacts:
    path = _find_program(root, QEMU)
    if not path or not (not kvm.usable if ask_version is None else ask_version):
        return QemuFacts(path)
    return QemuFacts(path, qemu_version_of(root + path))


def qemu_version_of(path: str) -> str:
    """ "7.2.22" out of ``QEMU emulator version 7.2.22 (Debian …)``; "" when it does not tell."""
    import subprocess

    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    words = answer.stdout.split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""
