"""virtio-blk: a disk (virtio 1.2 §5.2), whose rings native code or another process serves.

Requests are answered as they are completed, in any order.  An acknowledged flush
means that the data is on stable storage; after one that failed every later one fails too,
since nobody can tell what was lost.  A driver that does not know flush gets write-through.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_offload import OffloadedModel
from runner.definition.model import Json
from runner.devices.ports import DiskShape, LoggingAttachment, QueueOffload
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import backend_id, escaped, place
from runner.typed import Final, Mapping
from runner.wire import virtio
from runner.wire import virtio_blk as blk

CLASS: Final = 0x018000
QUEUE_SIZE: Final = 512  # a request of Linux' largest, 1280 KiB in pages of 4 KiB, is one chain
SEGMENTS: Final = QUEUE_SIZE - 2  # header and status take two descriptors
DISCARD_SECTORS: Final = 1 << 22  # 2 GiB a request
DISCARD_SEGMENTS: Final = 16
_HOST_KEYS: Final = ("path", "blank", "format", "readonly", "ephemeral", "direct", "cache", "backing")


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """A vector and a doorbell a queue; the image is the backend."""
    image = {key: options[key] for key in _HOST_KEYS if key in options}
    queues = _queues(options)
    return virtio_pci.claim(virtio.ID_BLOCK, CLASS, queues, (BackendClaim(name, "block", image),))


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is a :class:`QueueOffload` with a :class:`DiskShape`."""
    device = VirtioBlk(at.backend(node.claim.backends[0].name), node.options)
    return virtio_pci.VirtioPciFunction(node, at, device)


def qemu(node: Node) -> tuple[str, ...]:
    """``-device virtio-blk-pci`` on the drive that the engine declares."""
    words = f"virtio-blk-pci,{place(node)},drive={backend_id(node)},disable-legacy=on"
    words += f",num-queues={_queues(node.options)}"
    if node.options.get("serial"):
        words += f",serial={escaped(str(node.options['serial']))}"
    return ("-device", words)


def lacks(engine: str, options: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    """Our own engine has a qcow2 image served by qemu-storage-daemon (decision 0090)."""
    served = engine == "kvm" and options.get("format") == "qcow2"
    return (("serial", "can give a qcow2 disk no"),) if served and options.get("serial") else ()


def _queues(options: Mapping[str, Json]) -> int:
    queues = options.get("queues", 1)
    assert isinstance(queues, int)
    return queues


def _shape(shape: DiskShape, options: Mapping[str, Json]) -> tuple[int, bytes]:
    """Features and configuration that the guest is shown."""
    queues = _queues(options)
    features = blk.F_SEG_MAX | blk.F_BLK_SIZE | blk.F_TOPOLOGY
    if shape.readonly:
        features |= blk.F_RO
    elif options.get("cache") != "writethrough":
        features |= blk.F_FLUSH
    if shape.discards and not shape.readonly:
        features |= blk.F_DISCARD | blk.F_WRITE_ZEROES
    if queues > 1:
        features |= blk.F_MQ
    sectors = shape.capacity >> blk.SECTOR_SHIFT
    config = blk.config(
        sectors, SEGMENTS, shape.block_size, shape.sector, queues, DISCARD_SECTORS, DISCARD_SEGMENTS
    )
    return features, config


class VirtioBlk(OffloadedModel):
    """What the driver negotiates with and reads of the disk."""

    def __init__(self, offload: QueueOffload, options: Mapping[str, Json]) -> None:
        features, config = _shape(offload, options)  # type: ignore[arg-type]  # the claim's kind says so
        super().__init__(virtio.ID_BLOCK, offload, (QUEUE_SIZE,) * _queues(options), features)
        self.config = offload.config or config
