"""Board, accelerator, processors and memory in words of QEMU's command line."""

from __future__ import annotations

from runner.definition.model import Cpus, Json, Memory
from runner.graph.model import Graph
from runner.graph.qemu_words import escaped
from runner.typed import Mapping

TCG_MODEL = "max,la57=off"  # five-level page tables make each of TCG's page walks longer
KVM_MODEL = "host"
FEATURE_NAMES = {"tsc_deadline_timer": "tsc-deadline"}  # where QEMU has another than /proc/cpuinfo


def machine_words(graph: Graph) -> list[str]:
    """``-machine``, ``-accel`` and the vIOMMU, which has to come before any PCI device."""
    board = "q35,hpet=off,vmport=off,sata=off,smbus=off,smm=off"  # what the graph does not have
    if graph.machine.get("iommu"):
        board += ",kernel-irqchip=split"  # interrupt remapping needs the IOAPIC in user space
    if not graph.memory.zones:
        board += ",memory-backend=ram"
    board += f",mem-merge={'on' if graph.memory.merge else 'off'}"
    return ["-machine", board, *_accelerator_words(graph), *_iommu_words(graph.machine)]


def _accelerator_words(graph: Graph) -> list[str]:
    """Emulation with a thread a CPU; or KVM, without the task priority patches for 32-bit Windows.

    With those (``vapic``) a guest program's own port access faults when KVM itself runs on an
    emulated SVM, and a 64-bit guest gains nothing by them.
    """
    if graph.engine.accelerator == "kvm":
        return ["-accel", "kvm", "-global", "kvm-apic.vapic=off"]
    return ["-accel", "tcg,thread=multi"]


def _iommu_words(machine: Mapping[str, Json]) -> list[str]:
    iommu = machine.get("iommu")
    if not isinstance(iommu, Mapping):
        return []
    remapping = "on" if iommu.get("interrupt_remapping", True) else "off"
    caching = ",caching-mode=on" if iommu.get("caching") else ""
    return ["-device", f"intel-iommu,intremap={remapping}{caching}"]


def cpu_words(graph: Graph) -> list[str]:
    """``-cpu`` with its features, and ``-smp`` with the topology."""
    cpus = graph.cpus
    model = cpus.model or (KVM_MODEL if graph.engine.accelerator == "kvm" else TCG_MODEL)
    features = "".join(f",{_feature(word)}" for word in cpus.features)
    return ["-cpu", model + features, "-smp", _topology(cpus)]


def _feature(word: str) -> str:
    """``+svm`` as ``svm=on``."""
    return f"{escaped(feature_name(word))}={'on' if word[0] == '+' else 'off'}"


def feature_name(word: str) -> str:
    """QEMU's name for what a word of ``cpus.features`` turns on or off."""
    return FEATURE_NAMES.get(word[1:], word[1:])


def _topology(cpus: Cpus) -> str:
    return f"{cpus.total},sockets={cpus.sockets},cores={cpus.cores},threads={cpus.threads}"


def memory_words(memory: Memory) -> list[str]:
    """``-m`` and one memory backend, or one a NUMA zone; sizes in bytes (suffix B)."""
    words = ["-m", f"{memory.size}B"]
    if not memory.zones:
        return [*words, "-object", _backend("ram", memory.size, memory)]
    for number, zone in enumerate(memory.zones):
        near = "".join(f",cpus={cpu}" for cpu in zone.cpus)
        words += ["-object", _backend(f"ram{number}", zone.size, memory)]
        words += ["-numa", f"node,nodeid={number},memdev=ram{number}{near}"]
    return words


def _backend(name: str, size: int, memory: Memory) -> str:
    prefault = ",prealloc=on" if memory.prefault else ""
    if memory.hugepages:
        kind = f"memory-backend-memfd,hugetlb=on,hugetlbsize={memory.hugepages},share=on"
    elif memory.shared:
        kind = "memory-backend-memfd,share=on"
    else:
        kind = "memory-backend-ram"
    return f"{kind},id={name},size={size}B{prefault}"
