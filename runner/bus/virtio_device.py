"""What a virtio device and its transport owe each other (virtio 1.2 §2–3).

The transport owns status, negotiation and queue set-up; the device owns its
configuration, its requests and its backend.  Neither knows PCI from the other's side.
"""

from __future__ import annotations

from runner.bus.virtqueue import SplitQueue
from runner.devices.ports import OffloadedQueue
from runner.light import MappingProxyType
from runner.typed import Callable, Mapping, Protocol
from runner.wire import virtio


class Transport(Protocol):
    """What a device may ask of its transport."""

    def config_changed(self) -> None:
        """The device's configuration is different now: tell the driver."""

    def fail(self, reason: str) -> None:
        """The driver broke the rules: the device needs a reset (§2.1.2)."""

    def guard(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work`` for callbacks from outside: a broken ring becomes :meth:`fail`."""

    def offloaded(self, queue: SplitQueue) -> OffloadedQueue:
        """The queue as somebody else needs it to serve it."""

    def hear(self, number: int) -> None:
        """This queue's doorbell rings here from now on."""

    def log(self, level: str, event: str, **data: int | str) -> None:
        """A line for the log."""


class VirtioDevice(Protocol):
    """One device type; a transport drives it."""

    @property
    def device_id(self) -> int:
        """§5: 1 net, 2 block, …"""

    @property
    def features(self) -> int:
        """What is offered beside the ring's features."""

    @property
    def ring_features(self) -> int:
        """Which of the ring's own features are offered: all, unless somebody else serves the rings."""

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The largest size of each queue; also how many there are."""

    @property
    def offloaded_queues(self) -> frozenset[int]:
        """Queues whose doorbells are somebody else's to hear."""

    def attach(self, transport: Transport) -> None:
        """Called once, before anything else."""

    def read_config(self, offset: int, size: int) -> int:
        """The device-specific configuration; zero past its end."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Most devices have nothing writable."""

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """DRIVER_OK: these queues are live.  May raise RingError."""

    def notify(self, queue: int) -> None:
        """The driver has offered something in an active queue.  May raise RingError."""

    def reset(self, done: Callable[[], None]) -> None:
        """Stop; ``done()`` when no guest memory is touched any more, at once or later."""

    def flush(self) -> None:
        """The machine has halted: hand on what the guest has said and nobody has taken yet."""


class VirtioModel:
    """What most devices have in common: a fixed configuration and nothing in flight at a reset."""

    offloaded_queues: frozenset[int] = frozenset()
    features = 0
    ring_features = virtio.RING_FEATURES
    config = b""
    transport: Transport
    queues: Mapping[int, SplitQueue] = MappingProxyType({})  # live ones

    def attach(self, transport: Transport) -> None:
        """See :class:`VirtioDevice`."""
        self.transport = transport

    def read_config(self, offset: int, size: int) -> int:
        """See :class:`VirtioDevice`."""
        return config_read(self.config, offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """See :class:`VirtioDevice`."""

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """See :class:`VirtioDevice`."""
        self.queues = queues

    def reset(self, done: Callable[[], None]) -> None:
        """See :class:`VirtioDevice`."""
        self.queues = MappingProxyType({})
        done()

    def flush(self) -> None:
        """See :class:`VirtioDevice`."""


def config_read(config: bytes, offset: int, size: int) -> int:
    """A piece of a configuration space held as bytes; zero past its end."""
    return int.from_bytes(config[offset : offset + size], "little")
