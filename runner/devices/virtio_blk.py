"""virtio-blk: a disk (virtio 1.2 §5.2).

Requests are answered as the backend completes them, in any order.  An acknowledged flush
means that the data is on stable storage; after one that failed every later one fails too,
since nobody can tell what was lost.  A driver that does not know flush gets write-through.
"""

from __future__ import annotations

import errno
import os

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtio_offload import OffloadedModel
from runner.bus.virtqueue import Chain, RingError, SplitQueue, gather, scatter, skip, take
from runner.definition.model import Json
from runner.devices.ports import BlockBackend, DiskShape, LoggingAttachment, QueueOffload, serves_queues
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import backend_id, escaped, place
from runner.typed import Callable, Final, Mapping
from runner.wire import virtio
from runner.wire import virtio_blk as blk

CLASS: Final = 0x018000
QUEUE_SIZE: Final = 256
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
    """The function; its backend is a :class:`BlockBackend`, or serves the rings itself."""
    disk = at.backend(node.claim.backends[0].name)
    kind: Callable[..., VirtioBlk | OffloadedBlk] = OffloadedBlk if serves_queues(disk) else VirtioBlk
    device = kind(disk, node.options)
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


class OffloadedBlk(OffloadedModel):
    """The same disk, with its rings served by native code or another process."""

    def __init__(self, offload: QueueOffload, options: Mapping[str, Json]) -> None:
        features, config = _shape(offload, options)  # type: ignore[arg-type]  # the claim's kind says so
        super().__init__(virtio.ID_BLOCK, offload, (QUEUE_SIZE,) * _queues(options), features)
        self.config = offload.config or config


class VirtioBlk(VirtioModel):
    """The disk's requests, one backend call each."""

    device_id = virtio.ID_BLOCK

    def __init__(self, disk: BlockBackend, options: Mapping[str, Json]) -> None:
        self.features, self.config = _shape(disk, options)
        self.queue_sizes = (QUEUE_SIZE,) * _queues(options)
        self._disk = disk
        self._capacity = disk.capacity & -blk.SECTOR
        self._serial = str(options.get("serial", "")).encode()[: blk.ID_LENGTH]
        self._write_through = True
        self._flush_failed = 0  # the errno of the first flush that failed, for good
        self._in_flight = 0
        self._answering: SplitQueue | None = None  # its interrupt waits for the end of the batch
        self._drained: Callable[[], None] | None = None

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """§5.2.5: without FLUSH the driver relies on every write being safe."""
        super().activate(features, queues)
        self._write_through = not features & blk.F_FLUSH

    def reset(self, done: Callable[[], None]) -> None:
        """What is under way still reads and writes guest memory: wait for it."""
        self.queues = {}
        if self._in_flight:
            self._drained = done
        else:
            done()

    def notify(self, queue: int) -> None:
        """Start every request of the queue, then the backend, then one interrupt."""
        ring = self.queues[queue]
        self._answering = ring
        try:
            for chain in ring.chains():
                self._start(ring, chain)
        finally:
            self._answering = None
            self._disk.submit()
        ring.interrupt()

    def _start(self, ring: SplitQueue, chain: Chain) -> None:
        header = gather(chain.readable, blk.HEADER.size)
        room = chain.writable_length
        if len(header) < blk.HEADER.size or not room:
            raise RingError("a disk request without a header or a place for its status")
        kind, _, sector = blk.HEADER.unpack(header)
        offset = sector << blk.SECTOR_SHIFT
        match kind:
            case blk.T_IN:
                self._read(ring, chain, offset, take(chain.writable, room - 1))
            case blk.T_OUT:
                self._write(ring, chain, offset, skip(chain.readable, blk.HEADER.size))
            case blk.T_FLUSH:
                self._flush(self._request(ring, chain, "flush"))
            case blk.T_GET_ID:
                scatter(take(chain.writable, room - 1), self._serial.ljust(blk.ID_LENGTH, b"\0"))
                self._answer(ring, chain, blk.S_OK)
            case blk.T_DISCARD | blk.T_WRITE_ZEROES:
                self._give_back(ring, chain, kind == blk.T_WRITE_ZEROES)
            case _:
                self._answer(ring, chain, blk.S_UNSUPP)

    # ---- requests

    def _read(self, ring: SplitQueue, chain: Chain, offset: int, into: tuple[memoryview, ...]) -> None:
        if self._outside(offset, sum(map(len, into))):
            self._answer(ring, chain, blk.S_IOERR)
            return
        self._disk.read(offset, into, self._request(ring, chain, "read"))

    def _write(self, ring: SplitQueue, chain: Chain, offset: int, data: tuple[memoryview, ...]) -> None:
        if self._disk.readonly or self._outside(offset, sum(map(len, data))):
            self._answer(ring, chain, blk.S_IOERR)
            return
        self._disk.write(offset, data, self._safely(self._request(ring, chain, "write")))

    def _flush(self, done: Callable[[int], None]) -> None:
        if self._flush_failed:
            done(self._flush_failed)
            return

        def flushed(error: int) -> None:
            self._flush_failed = self._flush_failed or error
            done(self._flush_failed)

        self._disk.flush(flushed)

    def _safely(self, done: Callable[[int], None]) -> Callable[[int], None]:
        """``done`` after a flush, where the driver relies on writes being safe at once."""
        if not self._write_through:
            return done

        def written(error: int) -> None:
            if error:
                done(error)
            else:
                self._flush(done)
                self._disk.submit()

        return written

    def _give_back(self, ring: SplitQueue, chain: Chain, zero: bool) -> None:
        """Discard or write zeroes, up to so many segments (§5.2.6.2)."""
        data = gather(skip(chain.readable, blk.HEADER.size), (DISCARD_SEGMENTS + 1) * blk.SEGMENT.size)
        status = self._segments_refused(data, zero)
        if status != blk.S_OK:
            self._answer(ring, chain, status)
            return
        done = self._safely(self._request(ring, chain, "write zeroes" if zero else "discard"))
        segments = list(blk.SEGMENT.iter_unpack(data))
        part = _all_of(len(segments), done)
        for sector, count, flags in segments:
            offset, length = sector << blk.SECTOR_SHIFT, count << blk.SECTOR_SHIFT
            if zero:
                self._disk.write_zeroes(offset, length, bool(flags & blk.SEGMENT_UNMAP), part)
            else:
                self._disk.discard(offset, length, part)

    def _segments_refused(self, data: bytes, zero: bool) -> int:
        """The status that refuses these segments, or S_OK."""
        if not self.features & blk.F_DISCARD:
            return blk.S_UNSUPP
        count, rest = divmod(len(data), blk.SEGMENT.size)
        if rest or not 0 < count <= DISCARD_SEGMENTS:
            return blk.S_IOERR
        for sector, sectors, flags in blk.SEGMENT.iter_unpack(data):
            if flags & ~(blk.SEGMENT_UNMAP if zero else 0):
                return blk.S_UNSUPP
            if sectors > DISCARD_SECTORS:
                return blk.S_IOERR
            if self._outside(sector << blk.SECTOR_SHIFT, sectors << blk.SECTOR_SHIFT):
                return blk.S_IOERR
        return blk.S_OK

    def _outside(self, offset: int, length: int) -> bool:
        """Whether a transfer is empty, not made of sectors, or past the end of the disk."""
        return not length or bool(length % blk.SECTOR) or offset + length > self._capacity

    # ---- answers

    def _request(self, ring: SplitQueue, chain: Chain, what: str) -> Callable[[int], None]:
        """Count a request as under way; the callback that ends it."""
        self._in_flight += 1

        def done(error: int) -> None:
            self._in_flight -= 1
            if error:
                self.transport.log("warning", "disk-error", request=what, reason=os.strerror(error))
            status = {0: blk.S_OK, errno.EOPNOTSUPP: blk.S_UNSUPP}.get(error, blk.S_IOERR)
            self._answer(ring, chain, status)
            if self._drained is not None and not self._in_flight:
                drained, self._drained = self._drained, None
                drained()

        return done

    def _answer(self, ring: SplitQueue, chain: Chain, status: int) -> None:
        """The status is the last writable byte (§5.2.6)."""
        chain.writable[-1][-1] = status
        ring.push(chain, chain.writable_length)
        if ring is not self._answering:
            ring.interrupt()


def _all_of(count: int, done: Callable[[int], None]) -> Callable[[int], None]:
    """A callback for each of ``count`` parts; ``done`` after the last, with the first error."""
    left, first = count, 0

    def part(error: int) -> None:
        nonlocal left, first
        left -= 1
        first = first or error
        if not left:
            done(first)

    return part
