"""virtio-balloon: memory that the guest gives back (virtio 1.2 §5.5).

Inflating hands over pages by number; with free page reporting the driver also tells of
pages that it does not use just now.  Either way the host may take the memory, and what the
guest finds there later are zeros.

The queue of the reports is number 4 in the specification, but drivers count only the
queues whose features were negotiated, which makes it 2: both are understood.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtqueue import SplitQueue, gather
from runner.definition.model import Json
from runner.devices.ports import GuestAddress, LoggingAttachment, MemoryAdvisor
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import place
from runner.typed import Callable, Final, Iterator, Mapping
from runner.wire import virtio
from runner.wire import virtio_balloon as wire

CLASS: Final = 0x00FF00
QUEUE_SIZE: Final = 128
LARGEST_REQUEST: Final = 1 << 20  # bytes of page numbers in one request; no driver sends a hundredth


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Five queues; the guest's memory is the backend."""
    return virtio_pci.claim(virtio.ID_BALLOON, CLASS, wire.QUEUES, (BackendClaim(name, "memory"),))


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is a :class:`MemoryAdvisor`."""
    advisor: MemoryAdvisor = at.backend(node.claim.backends[0].name)
    return virtio_pci.VirtioPciFunction(node, at, VirtioBalloon(advisor, node.options))


def qemu(node: Node) -> tuple[str, ...]:
    """QEMU's own."""
    words = f"virtio-balloon-pci,{place(node)},disable-legacy=on"
    words += f",free-page-reporting={_on(node.options.get('free_page_reporting', True))}"
    words += f",deflate-on-oom={_on(node.options.get('deflate_on_oom', False))}"
    return ("-device", words)


def _on(wanted: Json) -> str:
    return "on" if wanted else "off"


class VirtioBalloon(VirtioModel):
    """Takes pages; gives them back by itself, since a page that is touched is there again."""

    device_id = virtio.ID_BALLOON
    queue_sizes = (QUEUE_SIZE,) * wire.QUEUES

    def __init__(self, advisor: MemoryAdvisor, options: Mapping[str, Json]) -> None:
        self.features = wire.F_PAGE_REPORTING if options.get("free_page_reporting", True) else 0
        if options.get("deflate_on_oom"):
            self.features |= wire.F_DEFLATE_ON_OOM
        self._advisor = advisor
        self._target = 0
        self.actual = 0  # pages of 4 KiB in the balloon, as the driver says
        self._reports: frozenset[int] = frozenset()

    @property
    def config(self) -> bytes:  # type: ignore[override]
        """The target is ours, the actual size the driver's."""
        return wire.CONFIG.pack(self._target, self.actual, 0, 0)

    def inflate_to(self, size: int) -> None:
        """Ask the driver for a balloon of ``size`` bytes."""
        self._target = min(size >> wire.PAGE_SHIFT, 0xFFFFFFFF)
        self.transport.config_changed()

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver says how large the balloon is."""
        if offset == wire.ACTUAL_OFFSET and size == 4:
            self.actual = value
            self._advisor.given_back(value << wire.PAGE_SHIFT)

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """Beyond the first two, every queue can only be the reports'."""
        super().activate(features, queues)
        others = frozenset(queues) - {wire.INFLATE, wire.DEFLATE}
        self._reports = others if features & wire.F_PAGE_REPORTING else frozenset()

    def reset(self, done: Callable[[], None]) -> None:
        """The driver has forgotten the balloon."""
        self.actual = 0
        self._advisor.given_back(0)
        super().reset(done)

    def notify(self, queue: int) -> None:
        """Pages to take, pages taken back, or pages that are free just now."""
        ring = self.queues[queue]
        for chain in ring.chains():
            if queue == wire.INFLATE:
                for start, length in _ranges(gather(chain.readable, LARGEST_REQUEST)):
                    self._advisor.discard(GuestAddress(start), length)
            elif queue in self._reports:
                for start, length, writable in chain.buffers:
                    if writable:
                        self._advisor.discard(GuestAddress(start), length)
            ring.push(chain)
        ring.interrupt()


def _ranges(numbers: bytes) -> Iterator[tuple[int, int]]:
    """``(address, length)`` of page frame numbers (u32 each); neighbours become one range."""
    start = end = 0
    for at in range(0, len(numbers) & ~3, 4):
        page = int.from_bytes(numbers[at : at + 4], "little")
        if page == end and end > start:
            end += 1
        elif page + 1 == start and end > start:
            start -= 1
        else:
            if end > start:
                yield start << wire.PAGE_SHIFT, end - start << wire.PAGE_SHIFT
            start, end = page, page + 1
    if end > start:
        yield start << wire.PAGE_SHIFT, end - start << wire.PAGE_SHIFT
