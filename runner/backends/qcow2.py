"""A qcow2 image on our own engine: read and written by qemu-storage-daemon, over vhost-user.

The daemon gets descriptors and no names: the image that we have opened, locked and whose
header we have checked, for an ephemeral disk a nameless overlay above it, and a socket that
only we are connected to.  docs/decisions/0090 says why it is this program and this way.
"""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.backends.block import image_path, open_image, open_overlay
from runner.backends.qcow2_references import refuse_references
from runner.errors import HostIoError
from runner.host import helper_process
from runner.typed import TYPE_CHECKING, Any
from runner.wire import qcow2
from runner.wire import virtio_blk as blk

if TYPE_CHECKING:
    from runner.definition.model import Json
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph

PROGRAM, PACKAGE = "qemu-storage-daemon", "qemu-system-common"
UNCONFINED = (
    f"this kernel has no Landlock, so {PROGRAM}, which reads qcow2 images, is not kept from this user's "
    "other files"
)
WCE = 32  # offset of ``writeback`` in struct virtio_blk_config
CONFIG_SIZE = 60  # struct virtio_blk_config up to the zoned part (virtio 1.2 §5.2.4)


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open, lock and check the image, and start its daemon."""
    from runner.backends.vhost_user import serve
    from runner.host.image_lock import lock

    program = helper_process.find(PROGRAM, PACKAGE)
    options = next(node.options for node in graph.nodes if claim in node.claim.backends)
    path = image_path(claim)
    shared = bool(claim.options.get("ephemeral") or claim.options.get("readonly"))
    fds = [open_image(path, writable=not shared, direct=False)]
    try:
        lock(fds[0], path, exclusive=not shared)
        head = refuse_references(fds[0], claim.name)
        if claim.options.get("ephemeral"):
            fds.append(make_overlay(head.size))

        def words(listener: int) -> list[str]:
            return [program, *daemon_words(claim, fds, listener, queues=options.get("queues", 1))]

        opened = serve(
            claim.name,
            words,
            fds,
            f"{claim.name}: {path} (qcow2, by {PROGRAM})",
            prepare=lambda: helper_process.confine(program, fds),
        )
        return opened if helper_process.has_landlock() else opened._replace(notes=(UNCONFINED,))
    finally:
        for fd in fds:  # the daemon has them, and the lock with them
            os.close(fd)


def make_overlay(size: int) -> int:
    """A nameless, empty qcow2 image that is gone with its last descriptor."""
    data = qcow2.empty(size)
    fd = open_overlay(len(data))
    try:
        os.pwrite(fd, data, 0)
    except OSError as error:
        os.close(fd)
        raise HostIoError(f"the overlay of an ephemeral disk cannot be written: {error.strerror}") from None
    return fd


def daemon_words(claim: BackendClaim, fds: list[int], listener: int, *, queues: Json) -> list[str]:
    """The block graph: the image, above it the overlay of an ephemeral disk, and the export.

    ``"backing": null`` and a format stated for each node: nothing in a file names another
    file (device-bugs 17, 18).  The daemon does not lock: the lock is ours, on the same
    descriptor.
    """
    import json

    options = claim.options
    ephemeral = len(fds) > 1
    readonly = bool(options.get("readonly")) or ephemeral
    image = _node("image", fds[0], readonly=readonly, direct=bool(options.get("direct")), backing=None)
    nodes = [image]
    if ephemeral:
        nodes.append(_node("overlay", fds[1], readonly=False, direct=False, backing="image"))
        nodes[-1]["cache"] = {"no-flush": True}  # nobody will ever read it after this run
    words = [word for node in nodes for word in ("--blockdev", json.dumps(node))]
    export = {
        "type": "vhost-user-blk", "id": "disk", "node-name": nodes[-1]["node-name"],
        "writable": not options.get("readonly"), "num-queues": queues,
        "writethrough": options.get("cache") == "writethrough",
        "addr": {"type": "fd", "str": str(listener)},
    }  # fmt: skip
    return [*words, "--export", json.dumps(export)]


def _node(name: str, fd: int, *, readonly: bool, direct: bool, backing: str | None) -> dict[str, Any]:
    common: dict[str, Any] = {"read-only": readonly, "auto-read-only": False, "discard": "unmap"}
    file = {
        "driver": "file", "filename": f"/proc/self/fd/{fd}", "locking": "off",
        "aio": "native" if direct else "threads", "cache": {"direct": direct}, **common,
    }  # fmt: skip
    return {"driver": "qcow2", "node-name": name, "file": file, "backing": backing, **common}


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> Any:
    """The disk as the device sees it."""
    from runner.backends.vhost_user import VhostUserQueues

    class Qcow2Disk(VhostUserQueues):
        """``QueueOffload`` with a ``DiskShape``: the shape is what the daemon says of the image."""

        discards = True
        sector = qcow2.SECTOR
        readonly = bool(claim.options.get("readonly"))

        def configure(self, features: int) -> tuple[tuple[int, bytes]]:
            """virtio 1.2 §5.2.5: a driver that cannot flush relies on every write being safe."""
            return ((WCE, bytes((bool(features & blk.F_FLUSH),))),)

        @property
        def capacity(self) -> int:
            return int.from_bytes(self.config[:8], "little") * qcow2.SECTOR

        @property
        def block_size(self) -> int:
            return int.from_bytes(self.config[20:24], "little")

    return Qcow2Disk(claim.name, PROGRAM, resources.fds[claim.name], machine, config_size=CONFIG_SIZE)
