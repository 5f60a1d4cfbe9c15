"""What the schema cannot say: keys that have to agree with one another.

Pure: the document alone decides.  What needs a look at this host's files is in
:mod:`runner.host.check_files`.  Each check is given only what has passed the schema, and
says nothing of what is missing.
"""

from __future__ import annotations

from runner.definition.checks_devices import DEVICE_CHECKS
from runner.definition.conform import Conformed
from runner.definition.describe import key_name
from runner.definition.findings import Complaint, Path
from runner.typed import Any, Iterator

PAGE = 4096
LOW_MEMORY = 1 << 20  # a kernel is loaded above it (Documentation/arch/x86/boot.rst, memory layout)
HIGHEST_APIC_ID = 254  # without x2APIC (SDM volume 3, 10.6.2.1)
VIRTIO_DRIVERS = (
    "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "virtiofs",
    "virtio_pmem", "nd_virtio", "9pnet_virtio", "vmw_vsock_virtio_transport",
)  # fmt: skip


def check(conformed: Conformed) -> list[Complaint]:
    """Every disagreement inside the document."""
    found: list[Complaint] = []
    for one in CHECKS:
        found.extend(one(conformed.value, conformed))
    return found


Document = dict[str, Any]


def cpu_count(value: Document) -> int | None:
    """How many CPUs the document asks for; None when that key was not valid."""
    cpus = value.get("cpus")
    if isinstance(cpus, dict):
        count: int | None = cpus.get("count")
        return count
    return cpus if isinstance(cpus, int) else None


def memory_size(value: Document) -> tuple[Path, int] | None:
    """Where the memory's size stands, and the size in bytes."""
    memory = value.get("memory")
    if isinstance(memory, dict):
        return (("memory", "size"), memory["size"]) if "size" in memory else None
    return (("memory",), memory) if isinstance(memory, int) else None


def _memory(value: Document, _: Conformed) -> Iterator[Complaint]:
    """Memory comes in pages, and zones share it out without a rest."""
    found = memory_size(value)
    if found is None:
        return
    path, size = found
    table = value["memory"] if isinstance(value["memory"], dict) else {}
    page = {"2M": 2 << 20, "1G": 1 << 30}.get(table.get("hugepages", ""), PAGE)
    zones = [(index, zone["size"]) for index, zone in enumerate(table.get("zones", [])) if "size" in zone]
    for at, amount in [(path, size), *((("memory", "zones", i, "size"), s) for i, s in zones)]:
        if amount % page:
            yield Complaint(
                at,
                "value",
                "page-size",
                f"{amount} bytes are no whole number of pages",
                f"a multiple of {page} bytes",
                f"{amount} bytes, {amount % page} more than {amount // page} pages",
                suggestion=f'"{-(-amount // page) * page // 1024}K"',
            )
    if size <= LOW_MEMORY:
        yield Complaint(
            path,
            "value",
            "range",
            "too little memory to load any kernel",
            'more than "1M": kernels are loaded above the first MiB',
            f"{size} bytes",
        )
    if zones and sum(amount for _, amount in zones) != size:
        yield Complaint(
            ("memory", "zones"),
            "key",
            "sum",
            "the zones' sizes do not add up to the memory's size",
            f"{size} bytes in all",
            f"{sum(amount for _, amount in zones)} bytes",
        )


def _merge(value: Document, _: Conformed) -> Iterator[Complaint]:
    """The kernel merges small pages only (Documentation/admin-guide/mm/ksm.rst: anonymous memory)."""
    memory = value.get("memory")
    if isinstance(memory, dict) and memory.get("merge") is True and "hugepages" in memory:
        yield Complaint(
            ("memory", "merge"),
            "key",
            "conflict",
            "`merge` and `hugepages` exclude each other: huge pages are never merged",
            "one of them",
            "both",
        )


def _zone_cpus(value: Document, _: Conformed) -> Iterator[Complaint]:
    """Each CPU is in one zone."""
    count = cpu_count(value)
    memory = value.get("memory")
    zones = memory.get("zones", []) if isinstance(memory, dict) else []
    seen: dict[int, int] = {}
    for index, zone in enumerate(zones):
        for position, cpu in enumerate(zone.get("cpus", [])):
            path = ("memory", "zones", index, "cpus", position)
            if count is not None and cpu >= count:
                yield Complaint(
                    path, "value", "range", f"there is no CPU {cpu}", f"0 to {count - 1}", str(cpu)
                )
            elif seen.setdefault(cpu, index) != index:
                yield Complaint(
                    path,
                    "value",
                    "repeated",
                    f"CPU {cpu} is in zone {seen[cpu]} already",
                    "each CPU in one zone",
                    str(cpu),
                )
    if count is not None and zones and all("cpus" in zone for zone in zones):
        missing = [str(cpu) for cpu in range(count) if cpu not in seen]
        if missing:
            yield Complaint(
                ("memory", "zones"),
                "key",
                "sum",
                f"CPU {', '.join(missing)} is in no zone",
                "each CPU in one zone",
                "none",
            )


def _shared_merge(value: Document, _: Conformed) -> Iterator[Complaint]:
    """Only private memory is merged (Documentation/admin-guide/mm/ksm.rst: anonymous pages)."""
    memory = value.get("memory")
    if isinstance(memory, dict) and memory.get("merge") is True and memory.get("shared") is True:
        yield Complaint(
            ("memory", "merge"),
            "key",
            "conflict",
            "`merge` and `shared` exclude each other: the kernel merges no shared memory",
            "one of them",
            "both",
        )


def _topology(value: Document, _: Conformed) -> Iterator[Complaint]:
    """sockets × cores × threads is the count."""
    cpus = value.get("cpus")
    if not isinstance(cpus, dict) or "topology" not in cpus or "count" not in cpus:
        return
    parts = [cpus["topology"].get(name, 1) for name in ("sockets", "cores", "threads")]
    product = parts[0] * parts[1] * parts[2]
    if product != cpus["count"]:
        yield Complaint(
            ("cpus", "topology"),
            "key",
            "topology",
            "the topology does not give the number of CPUs",
            f"sockets × cores × threads = {cpus['count']}",
            f"{parts[0]} × {parts[1]} × {parts[2]} = {product}",
        )
    elif (highest := _highest_apic_id(*parts)) > HIGHEST_APIC_ID:
        yield Complaint(
            ("cpus", "topology"),
            "key",
            "topology",
            f"the last CPU of this topology would have APIC id {highest}",
            f"at most {HIGHEST_APIC_ID}",
            f"{parts[0]} × {parts[1]} × {parts[2]}",
            hint="cores and threads take whole bits of that number: powers of two, or fewer CPUs, fit",
        )


def _highest_apic_id(sockets: int, cores: int, threads: int) -> int:
    """Each level of the topology takes a whole number of bits (SDM volume 3, 8.9.1)."""
    core = (sockets - 1) << (cores - 1).bit_length() | (cores - 1)
    return core << (threads - 1).bit_length() | (threads - 1)


def _affinity(value: Document, _: Conformed) -> Iterator[Complaint]:
    """One set of host CPUs for each CPU, or none at all."""
    cpus = value.get("cpus")
    if not isinstance(cpus, dict) or "count" not in cpus or not cpus.get("affinity"):
        return
    if len(cpus["affinity"]) != cpus["count"]:
        yield Complaint(
            ("cpus", "affinity"),
            "key",
            "count",
            "the affinity does not cover each CPU",
            f"{cpus['count']} entries",
            f"{len(cpus['affinity'])} entries",
        )


def _initramfs(value: Document, _: Conformed) -> Iterator[Complaint]:
    """The guest's work is a command or an installed system."""
    initramfs = value.get("initramfs")
    if isinstance(initramfs, dict) and "run" in initramfs and "root" in initramfs:
        yield Complaint(
            ("initramfs", "run"),
            "key",
            "conflict",
            "`root` hands the guest over to an installed system, so nothing is left to run this",
            "`run` or `root`",
            "both",
            hint="a service of the installed system can do the work; or mount the disk in `run`",
        )


def _console(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """A kernel without ``console=`` says nothing on a serial line."""
    if any(
        complaint.code == "unknown-key" and len(complaint.path) == 1 for complaint in conformed.complaints
    ):
        return  # that key may have been the command line
    serial, console, cmdline = value.get("serial"), value.get("console"), value.get("cmdline")
    if serial in (None, "off", "null") or console != "off" or not isinstance(cmdline, str):
        return
    words = cmdline.split()
    if any(word.startswith(("console=", "earlyprintk=", "earlycon")) for word in words):
        return
    yield Complaint(
        ("cmdline",),
        "value",
        "no-console",
        "the kernel is not told to use the only serial port: it will boot in silence",
        "`console=ttyS0` in the command line",
        "no `console=`",
        suggestion=f'"{" ".join(["console=ttyS0", *words])}"'
        if '"' not in cmdline and "\\" not in cmdline
        else "",
        severity="warning",
    )


def _modules(value: Document, _: Conformed) -> Iterator[Complaint]:
    """A driver of a virtio device does not ask for the bus that its device is on."""
    built = value.get("initramfs")
    modules = built.get("modules") if isinstance(built, dict) else None
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        return
    plain = [name.replace("-", "_") for name in modules]
    for index, name in enumerate(plain):
        if name in VIRTIO_DRIVERS and "virtio_pci" not in plain:
            yield Complaint(
                ("initramfs", "modules", index),
                "value",
                "no-bus",
                f"`{modules[index]}` will find no device: the bus of virtio devices is `virtio_pci`",
                "`virtio_pci` in the list, unless the kernel has it built in",
                "no `virtio_pci`",
                severity="warning",
            )
            return


def _terminal(value: Document, _: Conformed) -> Iterator[Complaint]:
    """There is one terminal."""
    targets: list[tuple[Path, Any]] = [
        ((name,), value.get(name)) for name in ("serial", "console", "debugcon")
    ]
    if isinstance(console := value.get("console"), dict) and "ports" in console:
        targets.append((("console", "target"), console.get("target")))
        targets += [
            (("console", "ports", index, "target"), port.get("target"))
            for index, port in enumerate(console["ports"])
        ]
    users = [path for path, target in targets if target == "tty"]
    for path in users[1:]:
        first = key_name(users[0]).strip("`")
        yield Complaint(
            path,
            "value",
            "conflict",
            f"`{first}` has the terminal already",
            "one user of the terminal",
            '"tty"',
            hint=f'{first} = "off", or "pty", leaves the terminal to {key_name(path)}',
        )


CHECKS = (
    _memory,
    _merge,
    _zone_cpus,
    _shared_merge,
    _topology,
    _affinity,
    _initramfs,
    _console,
    _modules,
    _terminal,
    *DEVICE_CHECKS,
)
