"""virtio-pmem: a file of the host that the guest has as memory (virtio 1.2 §5.19).

Loads and stores need nobody; the one request is a flush, which means the same as a disk's:
answered when the file is on stable storage, and after one that failed every later one
fails too.
"""

from __future__ import annotations

import os

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtqueue import Chain, RingError, SplitQueue, gather, scatter
from runner.definition.model import Json
from runner.devices.ports import LoggingAttachment, PmemBackend
from runner.errors import DefinitionError
from runner.graph.model import BackendClaim, Claim, Node, Region
from runner.typed import Callable, Final, Mapping
from runner.wire import virtio
from runner.wire import virtio_pmem as wire

CLASS: Final = 0x058000
QUEUE_SIZE: Final = 64
ALIGNMENT: Final = 2 << 20  # Linux maps persistent memory in pieces of this size


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One queue, and a region of the file's size above RAM, which the engine maps."""
    size = options["size"]
    assert isinstance(size, int)
    if size % ALIGNMENT:
        raise DefinitionError(
            f"`{name}` has a size of {size:#x}, which is no multiple of 2 MiB",
            hint=f'size = "{-(-size // ALIGNMENT) * 2}M"',
        )
    file = {key: options[key] for key in ("path", "size", "readonly") if key in options}
    made = virtio_pci.claim(virtio.ID_PMEM, CLASS, 1, (BackendClaim(name, "pmem", file),))
    return made._replace(regions=(Region(0, size, "pmem", name),))


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is a :class:`PmemBackend`."""
    backend: PmemBackend = at.backend(node.claim.backends[0].name)
    return virtio_pci.VirtioPciFunction(node, at, VirtioPmem(backend, node.claim.regions[0]))


class VirtioPmem(VirtioModel):
    """Where the memory is, and its flushes."""

    device_id = virtio.ID_PMEM
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self, backend: PmemBackend, region: Region) -> None:
        self.config = wire.CONFIG.pack(region.start, region.size)
        self._backend = backend
        self._failed = False  # a flush has failed, for good
        self._in_flight = 0
        self._drained: Callable[[], None] | None = None

    def notify(self, queue: int) -> None:
        """Start every flush that is asked for."""
        ring = self.queues[queue]
        for chain in ring.chains():
            request = gather(chain.readable, wire.REQUEST.size)
            if len(request) < wire.REQUEST.size or chain.writable_length < wire.RESPONSE.size:
                raise RingError("a pmem request without a type or a place for its answer")
            if wire.REQUEST.unpack(request)[0] != wire.REQUEST_FLUSH or self._failed:
                self._answer(ring, chain, wire.RESPONSE_ERROR)
            else:
                self._in_flight += 1
                self._backend.flush(self._flushed(ring, chain))
        ring.interrupt()

    def _flushed(self, ring: SplitQueue, chain: Chain) -> Callable[[int], None]:
        def done(error: int) -> None:
            self._in_flight -= 1
            if error:
                self.transport.log("warning", "disk-error", request="flush", reason=os.strerror(error))
            self._failed = self._failed or bool(error)
            self._answer(ring, chain, wire.RESPONSE_ERROR if self._failed else wire.RESPONSE_OK)
            ring.interrupt()
            if self._drained is not None and not self._in_flight:
                drained, self._drained = self._drained, None
                drained()

        return done

    def _answer(self, ring: SplitQueue, chain: Chain, result: int) -> None:
        ring.push(chain, scatter(chain.writable, wire.RESPONSE.pack(result)))

    def reset(self, done: Callable[[], None]) -> None:
        """Answers under way are still written to guest memory: wait for them."""
        self.queues = {}
        if self._in_flight:
            self._drained = done
        else:
            done()
