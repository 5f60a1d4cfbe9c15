"""What the supervisor has opened, declared to QEMU: each backend by its name, each file by its descriptor."""

from __future__ import annotations

from runner.engine.protocol import Resources
from runner.graph.model import BackendClaim, Graph
from runner.graph.qemu_words import escaped, identifier

DECLARED = (
    "char", "block", "scratch", "tap", "passt", "vhost-net", "vhost-vsock", "virtiofs", "vfio", "folder",
    "entropy", "memory",
)  # fmt: skip
"""The kinds of backend that this engine can feed a device from."""


def backend_words(graph: Graph, resources: Resources) -> list[str]:
    """``-chardev``, ``-add-fd`` with ``-drive``, and ``-netdev`` for every backend of the graph."""
    words: list[str] = []
    for node in graph.nodes:
        claims = node.claim.backends
        for claim in claims:
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
            return _block(claim, fd)
        case "tap":
            return _tap(claim, fd, beside, resources)
        case "passt":
            return ["-netdev", f"stream,id={identifier(claim.name)},server=off,addr.type=fd,addr.str={fd}"]
    return []


def _block(claim: BackendClaim, fd: int) -> list[str]:
    """A disk image: its format is stated (device-bugs 17), its backing file is never followed (18).

    The descriptor goes in as a set of one; the set's number is the descriptor's.
    """
    options = claim.options
    ephemeral = options.get("ephemeral") is True
    readonly = options.get("readonly") is True
    image = str(options.get("format") or "raw")
    words = f"if=none,id={identifier(claim.name)},format={image},file=/dev/fdset/{fd}"
    words += f",cache={_cache(claim)},discard=unmap,auto-read-only=off,media=disk"
    words += f",aio={'native' if options.get('direct') is True else 'threads'}"
    if image == "qcow2" and not options.get("backing"):
        words += ",backing="
    if readonly:
        words += ",readonly=on"
    if ephemeral:
        words += ",snapshot=on"
    return ["-add-fd", f"fd={fd},set={fd},opaque={escaped(claim.name)}", "-drive", words]


def _cache(claim: BackendClaim) -> str:
    through = claim.options.get("cache") == "writethrough"
    if claim.options.get("direct") is True:
        return "directsync" if through else "none"
    return "writethrough" if through else "writeback"


def _tap(claim: BackendClaim, fd: int, beside: tuple[BackendClaim, ...], resources: Resources) -> list[str]:
    words = f"tap,id={identifier(claim.name)},fd={fd}"
    vhost = next((other for other in beside if other.kind == "vhost-net"), None)
    vhost_fd = resources.fds.get(vhost.name) if vhost else None
    if vhost_fd is not None:
        words += f",vhost=on,vhostfd={vhost_fd}"
    return ["-netdev", words]
