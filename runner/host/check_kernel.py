"""The kernel file, the initramfs, the CPU count and its placement, held against this host."""

from __future__ import annotations

import os

from runner.definition.checks import cpu_count, memory_size
from runner.definition.findings import Complaint, Path
from runner.typed import Any, Iterator

MUCH = 1 << 40  # memory into which every kernel fits


def check_kernel(value: Any, stated: Any) -> Iterator[Complaint]:
    """A kernel that is none, or that does not fit into the memory, with or without its initramfs.

    ``stated`` is the document without defaults: what it does not say cannot be pointed at.
    """
    kernel = _file(value.get("kernel"))
    initramfs = _file(value.get("initramfs"))
    memory = memory_size(value)
    if initramfs is not None and memory is not None and (_size(initramfs) or 0) >= memory[1]:
        initramfs = None  # told of by itself
    if kernel is None or not os.path.isfile(kernel) or not os.access(kernel, os.R_OK):
        return
    if _size(kernel) == 0:
        yield Complaint(
            ("kernel",), "value", "no-kernel", "the kernel is an empty file", "a bzImage or ELF", kernel
        )
        return
    yield from _try_loading(
        kernel, initramfs, value, memory[0] if memory and "memory" in stated else ("kernel",)
    )


def _file(value: Any) -> str | None:
    """The resolved path, where the document names a file."""
    return str(value["resolved"]) if isinstance(value, dict) and "resolved" in value else None


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _try_loading(kernel: str, initramfs: str | None, value: Any, memory_at: Path) -> Iterator[Complaint]:
    """Decide the loading as the engine will: in much memory, in what there is, then with the rest."""
    import mmap

    from runner.firmware.linux import load_plan, probe
    from runner.graph.x86 import backing
    from runner.wire.image import KernelError

    memory = memory_size(value)
    cmdline = str(value.get("cmdline", "")).encode("utf-8", "replace")
    where: Path = ("kernel",)
    ram = None
    with open(kernel, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        try:
            probe(image)
            load_plan(image, initramfs_size=0, cmdline=b"", ram=backing(MUCH), rsdp=0)
            if memory is None:
                return
            where, ram = memory_at, backing(memory[1])
            load_plan(image, initramfs_size=0, cmdline=b"", ram=ram, rsdp=0)
            where = ("cmdline",)
            load_plan(image, initramfs_size=0, cmdline=cmdline, ram=ram, rsdp=0)
            where = ("initramfs",)
            load_plan(image, initramfs_size=_size(initramfs or "") or 0, cmdline=b"", ram=ram, rsdp=0)
        except KernelError as error:
            code = "no-kernel" if ram is None else "does-not-fit"
            found = {
                "cmdline": f"{len(cmdline)} bytes",
                "initramfs": f"{_size(initramfs or '')} bytes",
                "memory": f"{memory[1] if memory else 0} bytes for {kernel}",
            }
            yield Complaint(
                where, "value", code, str(error), "", found.get(str(where[0]), kernel), hint=error.hint
            )


def check_memory(value: Any) -> Iterator[Complaint]:
    """More memory than this host has at all: it may be given, but never all of it be used."""
    found = memory_size(value)
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if found is not None and found[1] > here:
        yield Complaint(
            found[0], "value", "memory", "more memory than this host has", f"at most {here >> 20}M",
            f"{found[1] >> 20}M", severity="warning",
        )  # fmt: skip


def check_processors(value: Any) -> Iterator[Complaint]:
    """More CPUs than this host's KVM gives to one machine."""
    count = cpu_count(value)
    engines = value.get("engine", [])
    if count is None or count < 2 or "kvm" not in engines:
        return
    from runner.host.kvm_facts import kvm_facts
    from runner.host.sysfs import HostSysfs

    most = kvm_facts(HostSysfs()).max_vcpus
    if most and count > most:
        path: Path = ("cpus", "count") if isinstance(value["cpus"], dict) else ("cpus",)
        only = engines in ("kvm", ["kvm"])
        yield Complaint(
            path,
            "value",
            "range",
            "more CPUs than this host's KVM gives to one machine",
            f"at most {most}",
            str(count),
            severity="error" if only else "warning",
        )


def check_affinity(value: Any) -> Iterator[Complaint]:
    """CPUs that this host has not, or that this process may not use."""
    cpus = value.get("cpus")
    affinity = cpus.get("affinity", []) if isinstance(cpus, dict) else []
    if not affinity:
        return
    from runner.host.affinity import absent, spelled

    missing = absent(cpu for places in affinity for cpu in places)
    for number, places in enumerate(affinity):
        for position, cpu in enumerate(places):
            if cpu in missing:
                yield Complaint(
                    ("cpus", "affinity", number, position), "value", "no-cpu",
                    f"this host has no CPU {cpu} for us", spelled(os.sched_getaffinity(0)), str(cpu),
                )  # fmt: skip
