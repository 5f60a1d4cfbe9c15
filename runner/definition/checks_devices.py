"""Devices that have to agree with one another: slots, buses, tags, files and host devices."""

from __future__ import annotations

from runner.definition.conform import Conformed
from runner.definition.findings import Complaint, Path
from runner.typed import Any, Iterator

PORT = "pcie_root_port"
PORT_DRIVER = "pcie-root-port"
PMEM_PIECE = 2 << 20
IMAGES = ("virtio_blk", "virtio_pmem", "nvme", "sdhci_pci")

Document = dict[str, Any]


def _slots(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """One device a slot, and 00:00 is the host bridge's.  (00:1f is QEMU's own; the planner refuses it.)"""
    seen: dict[str, Path] = {}
    for path, options in _devices(value, conformed):
        slot = options.get("slot")
        if not isinstance(slot, str):
            continue
        here = (*path, "slot")
        if "bus" in options and path[0] == "devices":
            yield Complaint(
                here,
                "key",
                "conflict",
                "`slot` and `bus` exclude each other",
                "one of them",
                "both",
                hint="below a root port there is one place only",
            )
        elif slot in seen:
            yield Complaint(
                here,
                "value",
                "conflict",
                f"slot {slot} is taken by `{'.'.join(map(str, seen[slot]))}`",
                "each slot once",
                f'"{slot}"',
            )
        elif slot.startswith("00:00."):
            yield Complaint(
                here,
                "value",
                "conflict",
                f"slot {slot} is the host bridge's",
                '"00:01.0" or above',
                f'"{slot}"',
            )
        elif not slot.startswith("00:"):
            yield Complaint(
                here,
                "value",
                "conflict",
                f"slot {slot} is not on the root bus",
                "bus 00",
                f'"{slot}"',
                hint='a device below a root port is placed with `bus = "NAME"` of the port',
            )
        seen.setdefault(slot, path)


def _functions(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """Without function 0 nobody looks for the others (PCI 3.0, section 3.2.2.3.4)."""
    fixed = [
        (path, str(options["slot"])) for path, options in _devices(value, conformed) if "slot" in options
    ]
    taken = {slot for _, slot in fixed}
    for path, slot in fixed:
        first = f"{slot[:-1]}0"
        if slot.startswith("00:") and not slot.startswith("00:00.") and first not in taken:
            yield Complaint(
                (*path, "slot"),
                "value",
                "reference",
                f"nothing is at {first}, and without it a guest does not look for {slot}",
                f"a device at {first} too",
                f'"{slot}"',
                suggestion=f'"{first}"',
            )


def _buses(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """``bus`` names a root port, and a root port has one device."""
    ports = [str(path[-1]) for path, kind in conformed.kinds.items() if kind == PORT]
    told = {complaint.path[:2] for complaint in conformed.complaints}
    used: dict[str, Path] = {}
    for path, options in _devices(value, conformed):
        bus = options.get("bus")
        if path[0] != "devices" or not isinstance(bus, str):
            continue
        here = (*path, "bus")
        if bus not in ports and ("devices", bus) in told:
            continue  # what is wrong with the port has been told
        if bus not in ports:
            yield _no_port(here, bus, ports, conformed)
        elif bus in used:
            yield Complaint(
                here,
                "value",
                "conflict",
                f"`{bus}` has `{'.'.join(map(str, used[bus]))}` below it already",
                "one device below each root port",
                f'"{bus}"',
            )
        used.setdefault(bus, path)


def _no_port(here: Path, bus: str, ports: list[str], conformed: Conformed) -> Complaint:
    from runner.definition.words import closest

    near = closest(bus, ports)
    other = ("devices", bus) in conformed.kinds
    message = f"`devices.{bus}` is no root port" if other else f"there is no device `{bus}`"
    return Complaint(
        here,
        "value",
        "reference",
        message,
        " or ".join(f'"{port}"' for port in ports) or "the name of a root port",
        f'"{bus}"',
        suggestion=f'"{near}"' if near else "",
        hint=f'a root port is [devices.NAME] with driver = "{PORT_DRIVER}"' if not near else "",
    )


def _tags(value: Document, _: Conformed) -> Iterator[Complaint]:
    """Shared folders are told apart by their tag, and ports of the host are taken once."""
    tags: dict[str, str] = {}
    for name, options in value.get("fs", {}).items():
        tag = options.get("tag")
        if tag in tags:
            yield Complaint(
                ("fs", name, "tag"),
                "value",
                "conflict",
                f"the tag {tag!r} is that of `fs.{tags[tag]}` already",
                "each tag once",
                f'"{tag}"',
            )
        elif tag is not None:
            tags[tag] = name


def _ports(value: Document, _: Conformed) -> Iterator[Complaint]:
    """The guest finds a port of the console by its name (/dev/virtio-ports/NAME), so each has its own."""
    console = value.get("console")
    seen: dict[str, int] = {}
    for index, port in enumerate(console.get("ports", ()) if isinstance(console, dict) else ()):
        name = port.get("name")
        if name is not None and seen.setdefault(name, index) != index:
            yield Complaint(
                ("console", "ports", index, "name"),
                "value",
                "conflict",
                f"the name {name!r} is that of `console.ports[{seen[name]}]` already",
                "each name once",
                f'"{name}"',
            )


def _unique_in_net(value: Document, _: Conformed) -> Iterator[Complaint]:
    """A MAC address, a tap and a forwarded port belong to one interface."""
    seen: dict[tuple[str, Any], str] = {}
    for name, options in value.get("net", {}).items():
        marks: list[tuple[Path, tuple[str, Any]]] = [
            (("net", name, key), (key, options[key])) for key in ("mac", "tap") if key in options
        ]
        for index, forward in enumerate(options.get("forwards", [])):
            if forward.keys() >= {"protocol", "address", "host"}:
                taken = (forward.get("protocol"), forward.get("address"), forward["host"])
                marks.append((("net", name, "forwards", index, "host"), ("port", taken)))
        for path, mark in marks:
            if mark in seen:
                what = {
                    "mac": "this MAC address",
                    "tap": "this tap interface",
                    "port": "this port of the host",
                }[mark[0]]
                yield Complaint(
                    path,
                    "value",
                    "conflict",
                    f"`{seen[mark]}` has {what} already",
                    "each once",
                    "a second time",
                )
            seen.setdefault(mark, f"net.{name}")


def _sharing(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """No two devices share a file that one of them writes."""
    users: dict[str, tuple[Path, bool]] = {}
    for path, resolved, writes in _image_users(value, conformed):
        first = users.setdefault(resolved, (path, writes))
        if first[0] != path and (writes or first[1]):
            yield Complaint(
                path,
                "value",
                "conflict",
                f"`{'.'.join(map(str, first[0][:-1]))}` uses this file too, and "
                f"{'both write' if writes and first[1] else 'one of them writes'} to it",
                "a file of its own",
                f'"{resolved}"',
                hint="readonly = true or ephemeral = true for both lets them share it",
            )


def _image_users(value: Document, conformed: Conformed) -> Iterator[tuple[Path, str, bool]]:
    """Files that devices read and write as a whole: place, resolved path, whether it is written."""
    for path, options in _devices(value, conformed):
        if conformed.kinds[path] not in IMAGES or not says_whether_it_writes(path, options):
            continue
        for key in ("path", "card"):
            if key in options:
                writes = not (options.get("readonly") or options.get("ephemeral"))
                yield (*path, key), str(options[key]["resolved"]), writes


def says_whether_it_writes(path: Path, options: dict[str, Any]) -> bool:
    """Not with a part of the text unread: ``readonly`` has a default, and lacks only then."""
    keys = {"disks": ("readonly", "ephemeral"), "pmem": ("readonly",)}.get(str(path[0]), ())
    return all(key in options for key in keys)


def _pmem(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """Linux maps persistent memory in pieces of 2 MiB."""
    for path, options in _devices(value, conformed):
        size = options.get("size")
        if conformed.kinds[path] == "virtio_pmem" and isinstance(size, int) and size % PMEM_PIECE:
            yield Complaint(
                (*path, "size"),
                "value",
                "page-size",
                f"{size} bytes are no whole number of 2 MiB, the pieces that Linux maps",
                "a multiple of 2 MiB",
                f"{size} bytes",
                suggestion=f'"{-(-size // PMEM_PIECE) * 2}M"',
            )


def _outputs(_: Document, conformed: Conformed) -> Iterator[Complaint]:
    """A file that is written is not also something else."""
    seen: dict[str, Path] = {}
    for host in conformed.host_paths:
        first = seen.setdefault(host.resolved, host.path)
        if first != host.path and "vm-output" in (host.form, _form_of(conformed, first)):
            yield Complaint(
                host.path,
                "value",
                "conflict",
                f"this is the path of `{'.'.join(map(str, first))}` too",
                "a path of its own",
                f'"{host.resolved}"',
            )


def _form_of(conformed: Conformed, path: Path) -> str:
    return next(host.form for host in conformed.host_paths if host.path == path)


def _vfio_twice(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """A host device is passed once."""
    seen: dict[str, Path] = {}
    for path, options in _devices(value, conformed):
        if conformed.kinds[path] != "vfio":
            continue
        place = options.get("path")
        address = options.get("host") or (str(place["resolved"]).rpartition("/")[2].lower() if place else "")
        if address in seen:
            yield Complaint(
                (*path, "host" if "host" in options else "path"),
                "value",
                "conflict",
                f"`{'.'.join(map(str, seen[address]))}` is the same device of the host",
                "each device once",
                address,
            )
        elif address:
            seen[address] = path


def _balloon(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """A balloon gives pages away that a passed-through device still reaches by its DMA mapping."""
    kinds = {kind: path for path, kind in conformed.kinds.items()}
    if value.get("balloon", False) is not False and "vfio" in kinds:
        device = ".".join(map(str, kinds["vfio"]))
        yield Complaint(
            ("balloon",),
            "key",
            "conflict",
            f"no balloon beside `{device}`: its DMA goes to the pages that the guest's memory has at the "
            "start, and memory that is given back and used again has others",
            f"`balloon` or `{device}`",
            "both",
            hint="leave `balloon` out: memory that a device is given stays with the guest for the whole run",
        )


def _pmem_beside(value: Document, conformed: Conformed) -> Iterator[Complaint]:
    """A passed-through device reaches RAM only: the kernel keeps no file's pages in place for DMA."""
    kinds = {kind: path for path, kind in conformed.kinds.items()}
    if "vfio" not in kinds:
        return
    device = ".".join(map(str, kinds["vfio"]))
    for path in (path for path, kind in conformed.kinds.items() if kind == "virtio_pmem"):
        name = ".".join(map(str, path))
        yield Complaint(
            path,
            "key",
            "conflict",
            f"no persistent memory beside `{device}`: the pages of a file are not mapped for DMA, and the "
            "guest may use them like any memory",
            f"`{name}` or `{device}`",
            "both",
            hint=f"the same file as a disk does as well: [disks.{path[-1]}]",
        )


def _devices(value: Document, conformed: Conformed) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each device's place and its table, as far as it passed the schema."""
    for path in conformed.kinds:
        here: Any = value
        for part in path:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict):
            yield path, here


DEVICE_CHECKS = (
    _slots,
    _functions,
    _buses,
    _tags,
    _ports,
    _unique_in_net,
    _sharing,
    _outputs,
    _pmem,
    _vfio_twice,
    _balloon,
    _pmem_beside,
)
