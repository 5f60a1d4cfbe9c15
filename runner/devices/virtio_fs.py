"""virtio-fs: a folder of the host (virtio 1.2 §5.11), served by virtiofsd over vhost-user.

Nothing of the file system is done here: virtiofsd reads the rings, in a process of its own
that maps the guest's memory.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_offload import OffloadedModel
from runner.definition.model import Json
from runner.devices.ports import LoggingAttachment, QueueOffload
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import backend_id, escaped, place
from runner.typed import Final, Mapping
from runner.wire import virtio, virtio_fs

CLASS: Final = 0x018000
QUEUE_SIZES: Final = (1024, 1024)  # high priority, requests: a large ring lets requests be large


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Two queues; virtiofsd is the backend, which makes the guest's memory shared."""
    folder = {key: options[key] for key in ("path", "readonly") if key in options}
    backends = (BackendClaim(name, "virtiofs", folder),)
    return virtio_pci.claim(virtio.ID_FS, CLASS, len(QUEUE_SIZES), backends)


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is virtiofsd behind a :class:`QueueOffload`."""
    offload: QueueOffload = at.backend(node.claim.backends[0].name)
    return virtio_pci.VirtioPciFunction(node, at, VirtioFs(offload, _tag(node)))


def qemu(node: Node) -> tuple[str, ...]:
    """``vhost-user-fs-pci`` on the chardev that the engine declares."""
    words = f"vhost-user-fs-pci,{place(node)},chardev={backend_id(node)},tag={escaped(_tag(node))}"
    return ("-device", f"{words},queue-size={QUEUE_SIZES[1]}")


def _tag(node: Node) -> str:
    return str(node.options.get("tag", node.name))


class VirtioFs(OffloadedModel):
    """Tag and queues; the rest is the server's."""

    def __init__(self, offload: QueueOffload, tag: str) -> None:
        super().__init__(virtio.ID_FS, offload, QUEUE_SIZES, 0)
        self.config = virtio_fs.config(tag, len(QUEUE_SIZES) - 1)
