"""What the supervisor has opened, declared to QEMU: each backend by its name, each file by its descriptor."""

from __future__ import annotations

from runner.definition.model import Json
from runner.engine.protocol import Resources
from runner.graph.model import BackendClaim, Graph
from runner.graph.qemu_words import escaped, identifier
from runner.typed import Mapping

DECLARED = (
    "char", "block", "scratch", "tap", "passt", "vhost-net", "vhost-vsock", "virtiofs", "folder",
    "entropy", "memory", "vfio", "vfio_group", "vfio_container",
)  # fmt: skip
"""The kinds of backend that this engine can feed a device from."""


def backend_words(graph: Graph, resources: Resources) -> list[str]:
    """``-chardev``, ``-add-fd`` with ``-drive``, and ``-netdev`` for every backend of the graph."""
    words: list[str] = []
    for node in graph.nodes:
        claims = node.claim.backends
        for claim in claims:
            assert claim.kind in DECLARED, f"{claim.name}: the plan lets no {claim.kind} come here"
            words += _words_of(claim, claims, resources)
    return words


def char_words(name: str, fd: int) -> list[str]:
    """A character backend on one end of a socketpair."""
    return ["-chardev", f"socket,id={identifier(name)},fd={fd}"]


def _words_of(claim: BackendClaim, beside: tuple[BackendClaim, ...], resources: Resources) -> list[str]:
    fd = resources.fds.get(claim.name)
    if fd is None:
        return []
    match claim.kind:
        case "char" | "virtiofs":
            return char_words(claim.name, fd)
        case "block" | "scratch":
            facts = resources.values.get(claim.name)
            device = isinstance(facts, dict) and facts.get("device")
            return _block(claim, fd, "host_device" if device else "file")
        case "tap":
            return _tap(claim, beside, resources)
        case "passt":
            return ["-netdev", f"stream,id={identifier(claim.name)},server=off,addr.type=fd,addr.str={fd}"]
    return []


def _block(claim: BackendClaim, fd: int, driver: str) -> list[str]:
    """A disk image: its format is stated, its backing file never followed (device-bugs 17 and 18).

    The descriptor goes in as a set of one; the set's number is the descriptor's.  ``driver`` is
    what QEMU reads a regular file with, or a block device of the host.  An error of the host is the
    guest's to hear: without a word QEMU stops the machine when the host's file system is full.
    """
    options = claim.options
    words = f"if=none,id={identifier(claim.name)},{_image(options, fd, driver)}"
    words += f",cache={_cache(options)},discard=unmap,auto-read-only=off,media=disk"
    words += f",aio={'native' if options.get('direct') is True else 'threads'},werror=report,rerror=report"
    if options.get("readonly") is True:
        words += ",readonly=on"
    if options.get("ephemeral") is True:
        words += ",snapshot=on"
    return ["-add-fd", f"fd={fd},set={fd},opaque={escaped(claim.name)}", "-drive", words]


def _image(options: Mapping[str, Json], fd: int, driver: str) -> str:
    file = f"/dev/fdset/{fd}"
    if options.get("format") != "qcow2":
        named = f"={file}" if driver == "file" else f".driver={driver},file.filename={file}"
        return f"format=raw,file{named}"
    # Only QEMU's JSON names can say that there is no backing file, whatever the image says.
    tree = f'{{"driver": "qcow2", "backing": null, "file": {{"driver": "{driver}", "filename": "{file}"}}}}'
    return f"file=json:{escaped(tree)}"


def _cache(options: Mapping[str, Json]) -> str:
    through = options.get("cache") == "writethrough"
    if options.get("direct") is True:
        return "directsync" if through else "none"
    return "writethrough" if through else "writeback"


def _tap(claim: BackendClaim, beside: tuple[BackendClaim, ...], resources: Resources) -> list[str]:
    """A tap, with vhost-net where the host has it; one descriptor of each a queue pair."""
    words = f"tap,id={identifier(claim.name)},{_numbers('fd', _queues(claim.name, resources))}"
    for other in beside:
        if other.kind == "vhost-net" and other.name in resources.fds:
            words += f",vhost=on,{_numbers('vhostfd', _queues(other.name, resources))}"
    return ["-netdev", words]


def _queues(name: str, resources: Resources) -> list[int]:
    """``net.lan``, ``net.lan:1``, ``net.lan:2`` …"""
    fds = [resources.fds[name]]
    while (more := resources.fds.get(f"{name}:{len(fds)}")) is not None:
        fds.append(more)
    return fds


def _numbers(key: str, fds: list[int]) -> str:
    return f"{key}={fds[0]}" if len(fds) == 1 else f"{key}s={':'.join(map(str, fds))}"
