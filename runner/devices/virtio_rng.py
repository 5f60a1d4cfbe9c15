"""virtio-rng: entropy for the guest (virtio 1.2 §5.4).

A request gets at most 64 KiB, however large its buffers are (device-bugs 15); the driver
asks again for the rest.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtqueue import scatter
from runner.definition.model import Json
from runner.devices.ports import EntropySource, LoggingAttachment
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import device_id, place
from runner.typed import Final, Mapping
from runner.wire import virtio

CLASS: Final = 0x00FF00
LARGEST_REQUEST: Final = 64 << 10
QUEUE_SIZE: Final = 8  # small, so that one round of the ring is soon over


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One request queue, fed from the host's generator."""
    return virtio_pci.claim(virtio.ID_ENTROPY, CLASS, 1, (BackendClaim(name, "entropy"),))


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is an :class:`EntropySource`."""
    source: EntropySource = at.backend(node.claim.backends[0].name)
    return virtio_pci.VirtioPciFunction(node, at, VirtioRng(source))


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's own, fed from getrandom(2)."""
    source = f"{device_id(node)}-source"
    return (
        "-object", f"rng-builtin,id={source}",
        "-device", f"virtio-rng-pci,rng={source},disable-legacy=on,{place(node)}",
    )  # fmt: skip


class VirtioRng(VirtioModel):
    """Fills the driver's buffers with random bytes."""

    device_id = virtio.ID_ENTROPY
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self, source: EntropySource) -> None:
        self._source = source

    def notify(self, queue: int) -> None:
        """Answer every request at once: the source never blocks."""
        ring = self.queues[queue]
        for chain in ring.chains():
            data = self._source.read(min(chain.writable_length, LARGEST_REQUEST))
            ring.push(chain, scatter(chain.writable, data))
        ring.interrupt()
