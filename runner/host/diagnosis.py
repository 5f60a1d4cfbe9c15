"""What this host can do for machines, and the command that mends what it cannot.

Pure: facts in, checks out, so each piece of advice is tested on made-up facts.
"""

from __future__ import annotations

from runner.graph.engines import NEEDS, REQUIRED_CAPABILITIES, lacking, unusable
from runner.hostfacts import HostFacts
from runner.typed import Iterator, NamedTuple

OK, LIMITED, MISSING = "ok", "limited", "missing"

# For wired interrupts of passed-through devices.  (Linux 6.1 on x86 has KVM_CAP_DEVICE_CTRL and says 0.)
INTERRUPT_CAPABILITIES = ("KVM_CAP_IRQFD_RESAMPLE",)


class Surroundings(NamedTuple):
    """What advice depends on beside the facts."""

    user: str = "USER"
    distribution: str = ""  # ID or ID_LIKE of os-release that we know packages of: "debian"
    release: int = 0  # the number before the dot in VERSION_ID
    cpu_can_virtualize: bool = False  # vmx or svm in the CPU's flags
    loadable: tuple[str, ...] = ()  # modules that lie on disk for the running kernel
    nodes: tuple[str, ...] = ()  # device nodes that are there, whoever may open them
    landlock: bool = True  # the kernel has it, and it is on


class Check(NamedTuple):
    """One line of the doctor.  ``mend`` is "" where there is nothing to do, or nothing that helps."""

    key: str
    mark: str  # ok | limited | missing
    what: str
    mend: str = ""


def diagnose(facts: HostFacts, around: Surroundings = Surroundings()) -> tuple[Check, ...]:  # noqa: B008 - a frozen value
    """Every check, in the order of a report; the first is which engine a run gets."""
    return (
        *_engines(facts),
        *_kvm(facts, around),
        *_qemu(facts, around),
        *_memory(facts, around),
        *_nodes(facts, around),
        *_programs(facts, around),
        *_passthrough(facts, around),
    )


def engine_here(facts: HostFacts) -> str:
    """The engine of the default preference that runs here: kvm, qemu or ""."""
    return next((engine for engine in NEEDS if not unusable(engine, facts)), "")


def _engines(facts: HostFacts) -> Iterator[Check]:
    memory = f"{facts.memory_total / (1 << 30):.1f} GiB of memory"
    machine = f"Linux {facts.kernel} on {facts.arch}, {facts.cpus} CPUs, {memory}"
    if facts.arch != "x86_64":
        yield Check("machine", MISSING, f"{machine}; machines are built for x86_64")
    else:
        yield Check("machine", OK, machine)
    engine = engine_here(facts)
    words = {"kvm": "kvm, at the speed of the hardware", "qemu": "qemu, by emulation in software (slow)"}
    mark = {"kvm": OK, "qemu": LIMITED}.get(engine, MISSING)
    yield Check(
        "engine",
        mark,
        f"a machine runs with the engine {words[engine]}" if engine else "no machine runs here",
    )


def _kvm(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    kvm = facts.kvm
    if not kvm.present:
        yield Check("kvm", MISSING, f"KVM: {kvm.why}", _kvm_module(facts, around))
        return
    if not kvm.accessible:
        mend = f"usermod -aG kvm {around.user}, then log in again"
        yield Check("kvm", MISSING, f"KVM: {kvm.why}", mend)
        return
    if not kvm.usable:
        yield Check("kvm", MISSING, f"KVM: {kvm.why}", _kvm_module(facts, around))
        return
    yield Check("kvm", OK, f"KVM: {kvm.why}, API {kvm.api_version}, up to {kvm.max_vcpus} CPUs a machine")
    if absent := lacking(kvm, REQUIRED_CAPABILITIES):
        yield Check("kvm-capabilities", MISSING, f"KVM lacks {', '.join(absent)}", "use a newer kernel")
    elif absent := lacking(kvm, INTERRUPT_CAPABILITIES):
        what = f"KVM lacks {', '.join(absent)}, which passed-through devices need"
        yield Check("kvm-capabilities", LIMITED, what, "use a newer kernel")
    else:
        yield Check(
            "kvm-capabilities", OK, f"KVM has the {len(REQUIRED_CAPABILITIES)} capabilities that are needed"
        )


def _kvm_module(facts: HostFacts, around: Surroundings) -> str:
    """A module helps only where the CPU can do it."""
    if around.cpu_can_virtualize and facts.cpu_vendor:
        return load(around, f"kvm_{facts.cpu_vendor}")
    return (
        "switch VT-x or AMD-V on in the firmware; inside a virtual machine, nested virtualization on its host"
    )


def _qemu(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    if facts.qemu.path:
        version = f" {facts.qemu.version}" if facts.qemu.version else ""
        yield Check("qemu", OK, f"QEMU{version}: {facts.qemu.path}")
    else:
        mark = LIMITED if facts.kvm.usable else MISSING
        what = "QEMU: qemu-system-x86_64 is not installed, so there is no engine qemu"
        yield Check("qemu", mark, what, install("qemu-system-x86_64", around))


def _memory(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    if facts.thp in ("always", "madvise"):
        yield Check("thp", OK, f"transparent huge pages: {facts.thp}")
    else:
        what = f"transparent huge pages: {facts.thp or 'not in this kernel'}, so guests start more slowly"
        mend = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" if facts.thp else ""
        yield Check("thp", LIMITED, what, mend)
    pools = [f"{free} of {total} free with {_size(size)}" for size, total, free in facts.hugepages if total]
    if pools:
        yield Check("hugepages", OK, f"reserved huge pages: {', '.join(pools)}")
    else:
        mend = "sysctl vm.nr_hugepages=NUMBER (2 MiB each), for memory.hugepages"
        yield Check("hugepages", LIMITED, "reserved huge pages: none", mend)
    if facts.memlock is None:
        yield Check("memlock", OK, "locked memory: no limit")
    else:
        what = (
            f"locked memory: at most {_size(facts.memlock)}, and a passed-through device locks all of a guest"
        )
        mend = f"echo '{around.user} - memlock unlimited' >> /etc/security/limits.conf, then log in again"
        yield Check("memlock", LIMITED, what, mend)


def _nodes(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    """Device nodes that make a part of a machine possible, or fast."""
    sockets = "sockets between host and guest in the kernel"
    rows = (
        ("tun", "/dev/net/tun", "taps", "networks with a tap", "tun", 200),
        ("vhost-net", "/dev/vhost-net", "vhost-net", "fast networks", "vhost_net", 238),
        ("vhost-vsock", "/dev/vhost-vsock", "vhost-vsock", sockets, "vhost_vsock", 241),
    )
    for key, node, name, purpose, module, minor in rows:
        if node in facts.devices:
            yield Check(key, OK, f"{name}: {node}")
        elif node in around.nodes:
            what = f"{name}: this user may not open {node}, so there are no {purpose}"
            yield Check(key, LIMITED, what, f"run as root, or setfacl -m u:{around.user}:rw {node}")
        elif module in facts.modules:  # in a container, say
            what = f"{name}: no {node} although {module} is there, so there are no {purpose}"
            yield Check(key, LIMITED, what, made_by_hand(node, minor))
        else:
            yield Check(key, LIMITED, f"{name}: no {node}, so there are no {purpose}", load(around, module))


def _programs(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    rows = (
        ("passt", "networks without root"),
        ("virtiofsd", "shared folders (fs)"),
        ("qemu-storage-daemon", "disks in qcow2"),
        ("qemu-img", "making and checking of images"),
    )
    have = dict(facts.programs)
    for name, purpose in rows:
        if name in have:
            yield Check(name, OK, f"{name}: {have[name]}")
        else:
            what = f"{name} is not installed; it is needed for {purpose}"
            yield Check(name, LIMITED, what, install(name, around))
    if around.landlock:
        yield Check("landlock", OK, "Landlock: what reads qcow2 images opens nothing else")
    else:
        what = "Landlock: not in this kernel, so what reads qcow2 images could open this user's other files"
        mend = "boot with landlock in the kernel's lsm= list (Linux 5.13 with CONFIG_SECURITY_LANDLOCK)"
        yield Check("landlock", LIMITED, what, mend)


def _passthrough(facts: HostFacts, around: Surroundings) -> Iterator[Check]:
    groups = {one.iommu_group for one in facts.pci if one.iommu_group is not None}
    if facts.iommu:
        bits = f", addresses of {facts.iova_bits} bits" if facts.iova_bits else ""
        yield Check("iommu", OK, f"IOMMU: on, {len(groups)} groups for {len(facts.pci)} PCI functions{bits}")
    else:
        what = "IOMMU: off or missing, so no device can be passed through"
        yield Check("iommu", MISSING, what, iommu_mend(facts))
    if facts.interrupt_remapping:
        yield Check("interrupt-remapping", OK, "interrupt remapping: on")
    elif facts.iommu:
        what = "interrupt remapping: off, so a guest's device could send the host any interrupt"
        mend = "switch it on in the firmware (x2APIC), and boot without intremap=off"
        yield Check("interrupt-remapping", LIMITED, what, mend)
    if facts.acs_override:
        what = "pcie_acs_override is on the kernel's command line, so IOMMU groups are not to be believed"
        yield Check("acs-override", LIMITED, what, "boot without pcie_acs_override")
    lacking = [name for name in ("vfio_pci", "vfio_iommu_type1") if name not in facts.modules]
    if lacking:
        yield Check(
            "vfio", MISSING, f"VFIO: {' and '.join(lacking)} not loaded", "modprobe -a " + " ".join(lacking)
        )
    elif "/dev/vfio/vfio" not in (*facts.devices, *around.nodes):
        yield Check("vfio", MISSING, "VFIO: no /dev/vfio/vfio", made_by_hand("/dev/vfio/vfio", 196))
    elif "/dev/vfio/vfio" not in facts.devices:
        yield Check(
            "vfio", MISSING, "VFIO: this user may not open /dev/vfio/vfio", "chmod 0666 /dev/vfio/vfio"
        )
    else:
        yield Check("vfio", OK, "VFIO: vfio_pci with the type 1 IOMMU backend")


def iommu_mend(facts: HostFacts) -> str:
    """How an IOMMU is switched on, in the words of the CPU's maker."""
    intel = "switch VT-d on in the firmware and boot the kernel with intel_iommu=on"
    amd = "switch the IOMMU (AMD-Vi) on in the firmware, and boot without amd_iommu=off"
    if facts.cpu_vendor == "intel":
        return intel
    return amd if facts.cpu_vendor == "amd" else f"on Intel {intel}; on AMD {amd}"


def made_by_hand(node: str, minor: int) -> str:
    """The command for a node that udev has not made (numbers: include/linux/miscdevice.h)."""
    return f"mkdir -p {node.rpartition('/')[0]} && mknod {node} c 10 {minor}"


def load(around: Surroundings, *modules: str) -> str:
    """The command that loads modules, or what to do when the running kernel has none of that name."""
    absent = [name for name in modules if name not in around.loadable]
    if absent:
        return f"this kernel comes without {' and '.join(absent)}: boot one that has it"
    return f"modprobe {'-a ' if len(modules) > 1 else ''}{' '.join(modules)}"


def install(program: str, around: Surroundings) -> str:
    """The command that installs a program, where we know the distribution's packages."""
    if around.distribution != "debian":
        return f"install the package that has {program}"
    package = {
        "qemu-system-x86_64": "qemu-system-x86",
        "qemu-storage-daemon": "qemu-system-common",
        "qemu-img": "qemu-utils",
        # Debian 12 still has QEMU's own one; later releases package the one in Rust
        "virtiofsd": "qemu-system-common" if 0 < around.release <= 12 else "virtiofsd",
    }.get(program, program)
    return f"apt-get install {package}"


def _size(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size} bytes"
