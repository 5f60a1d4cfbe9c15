"""virtio-net: a network card (virtio 1.2 §5.1).

Frames move between the rings and a backend: a tap, with the virtio-net header and offloads,
or passt, with neither.  Where the kernel has vhost-net it serves the data queues itself;
the control queue stays here.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtio_offload import hand_over
from runner.bus.virtqueue import Chain, RingError, SplitQueue, gather, scatter, skip
from runner.definition.model import Json
from runner.devices.ports import FrameQueue, LoggingAttachment, NetBackend, QueueOffload
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import backend_id, place
from runner.typed import Callable, Final, Mapping
from runner.wire import virtio
from runner.wire import virtio_net as wire

CLASS: Final = 0x020000
QUEUE_SIZE: Final = 256
CONTROL_QUEUE_SIZE: Final = 64
FRAMES_A_CALL: Final = 64  # then others on the device's thread have their turn
_HOST_KEYS: Final = ("tap", "mtu", "forwards", "queues", "offload", "mac")


def derive(machine: str, name: str, options: Mapping[str, Json]) -> Mapping[str, Json]:
    """The options with a MAC: as stated, or made from the machine's and the device's name."""
    return options if options.get("mac") else {**options, "mac": derived_mac(machine, name)}


def derived_mac(machine: str, name: str) -> str:
    """Six bytes that stay the same: locally administered, unicast (IEEE 802, §8.2)."""
    from hashlib import sha256

    tail = sha256(f"{machine}\0{name}".encode()).digest()[:5]
    return ":".join(f"{byte:02x}" for byte in b"\x52" + tail)


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """A queue pair a host queue, a control queue where there are several, and the backends."""
    host = {key: options[key] for key in _HOST_KEYS if key in options}
    if options.get("backend") == "tap":
        backends: tuple[BackendClaim, ...] = (
            BackendClaim(name, "tap", host),
            BackendClaim(f"{name}.vhost", "vhost-net", {"tap": name}),
        )
    else:
        backends = (BackendClaim(name, "passt", host),)
    return virtio_pci.claim(virtio.ID_NET, CLASS, len(_sizes(_pairs(options))), backends)


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; a backend ``….vhost`` that is there serves the data queues."""
    backend: NetBackend = at.backend(node.claim.backends[0].name)
    vhost: QueueOffload | None = None
    if len(node.claim.backends) > 1:
        vhost = at.backend(node.claim.backends[1].name)
    if vhost is not None:
        return virtio_pci.VirtioPciFunction(node, at, OffloadedNet(backend, vhost, node.options))
    return virtio_pci.VirtioPciFunction(node, at, VirtioNet(backend, node.options))


def qemu(node: Node) -> tuple[str, ...]:
    """``virtio-net-pci`` on the netdev that the engine declares."""
    pairs = _pairs(node.options)
    words = f"virtio-net-pci,{place(node)},netdev={backend_id(node)},disable-legacy=on"
    words += f",mac={node.options['mac']},host_mtu={node.options.get('mtu', 1500)}"
    if pairs > 1:
        words += f",mq=on,vectors={2 * pairs + 2}"
    if not node.options.get("offload", True):
        words += ",csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off"
    return ("-device", words)


def _pairs(options: Mapping[str, Json]) -> int:
    """Queue pairs; passt has one stream, so one pair."""
    pairs = options.get("queues", 1) if options.get("backend") == "tap" else 1
    assert isinstance(pairs, int)
    return pairs


def _sizes(pairs: int) -> tuple[int, ...]:
    """Receive and transmit of each pair, then control."""
    return (QUEUE_SIZE,) * (2 * pairs) + ((CONTROL_QUEUE_SIZE,) if pairs > 1 else ())


class _Card(VirtioModel):
    """What both data paths share: configuration, offloads, the control queue."""

    device_id = virtio.ID_NET

    def __init__(self, backend: NetBackend, options: Mapping[str, Json]) -> None:
        self.pairs = _pairs(options)
        self.queue_sizes = _sizes(self.pairs)
        self.features = wire.F_MAC | wire.F_STATUS | wire.F_MTU | wire.F_MRG_RXBUF
        if backend.offloads and options.get("offload", True):
            self.features |= wire.OFFLOADS
        if self.pairs > 1:
            self.features |= wire.F_CTRL_VQ | wire.F_MQ
        mac = bytes.fromhex(str(options["mac"]).replace(":", ""))
        mtu = options.get("mtu", 1500)
        assert isinstance(mtu, int)
        self.config = wire.CONFIG.pack(mac, wire.STATUS_LINK_UP, self.pairs, mtu)
        self._backend = backend
        self.usable = 1  # pairs that the driver may have in use

    @property
    def control_queue(self) -> int:
        """Behind the pairs that the driver knows of: without MQ there is one, whatever we have (§5.1.2)."""
        return 2 * self.usable

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """One pair until the driver asks for more (§5.1.6.5.6)."""
        super().activate(features, queues)
        self.usable = self.pairs if features & wire.F_MQ else 1
        self._backend.set_offloads(wire.receive_offloads(features))
        self._backend.set_pairs(1)

    def control(self) -> None:
        """Commands of the control queue: how many pairs are in use, and nothing else is offered."""
        ring = self.queues[self.control_queue]
        for chain in ring.chains():
            if not chain.writable:
                raise RingError("a control command without a place for its answer")
            command = gather(chain.readable, wire.CONTROL.size + wire.PAIRS.size)
            answer = wire.CONTROL_OK if self._command(command) else wire.CONTROL_ERROR
            ring.push(chain, scatter(chain.writable, bytes((answer,))))
        ring.interrupt()

    def _command(self, command: bytes) -> bool:
        if len(command) != wire.CONTROL.size + wire.PAIRS.size:
            return False
        if wire.CONTROL.unpack_from(command) != (wire.CLASS_MQ, wire.MQ_PAIRS_SET):
            return False
        (pairs,) = wire.PAIRS.unpack_from(command, wire.CONTROL.size)
        if not 1 <= pairs <= self.usable:
            return False
        self._backend.set_pairs(pairs)
        return True


class OffloadedNet(_Card):
    """The data queues are vhost-net's; notifications and interrupts bypass this process."""

    def __init__(self, backend: NetBackend, vhost: QueueOffload, options: Mapping[str, Json]) -> None:
        super().__init__(backend, options)
        self.features &= vhost.features | ~wire.F_MRG_RXBUF
        self.ring_features = virtio.RING_FEATURES & (vhost.features | virtio.F_VERSION_1)
        self.offloaded_queues = frozenset(range(2 * self.pairs))
        self._vhost = vhost
        self._serving = False

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """Header and offloads are the tap's by now; vhost gets the rings."""
        super().activate(features, queues)
        data = {number: ring for number, ring in queues.items() if number < self.control_queue}
        self._serving = hand_over(self.transport, self._vhost, features, data)
        if self.control_queue in queues:
            self.transport.hear(self.control_queue)  # vhost may have had its doorbell before

    def notify(self, queue: int) -> None:
        """Commands; a data queue's notification that came by another way is passed on."""
        if queue == self.control_queue:
            self.control()
        elif self._serving and queue < self.control_queue:
            self._vhost.kick(queue)

    def reset(self, done: Callable[[], None]) -> None:
        """Take the rings back first."""
        self.queues = {}
        if not self._serving:
            done()
            return
        self._serving = False
        self._vhost.stop(done)


class VirtioNet(_Card):
    """Frames are moved here, one backend queue a pair."""

    def __init__(self, backend: NetBackend, options: Mapping[str, Json]) -> None:
        super().__init__(backend, options)
        self._receivers: list[_Receiver] = []
        self._senders: list[_Sender] = []

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """A receiver and a sender for every pair that the driver enabled."""
        super().activate(features, queues)
        mergeable = bool(features & wire.F_MRG_RXBUF)
        guard = self.transport.guard
        for number, frames in enumerate(self._backend.queues[: self.usable]):
            if 2 * number in queues:
                self._receivers.append(_Receiver(queues[2 * number], frames, mergeable, guard))
            if 2 * number + 1 in queues:
                checksums = bool(features & wire.F_CSUM)
                self._senders.append(_Sender(queues[2 * number + 1], frames, checksums, guard))

    def notify(self, queue: int) -> None:
        """Room to receive, frames to send, or a command."""
        ring = self.queues[queue]
        if queue == self.control_queue:
            self.control()
            return
        sides: list[_Receiver | _Sender] = [*self._receivers, *self._senders]
        for side in sides:
            if side.ring is ring:
                side.run()

    def reset(self, done: Callable[[], None]) -> None:
        """No frame is ever half moved between two calls."""
        for receiver in self._receivers:
            receiver.stop()
        self._receivers, self._senders = [], []
        super().reset(done)


class _Sender:
    """From a transmit ring to the backend."""

    def __init__(
        self,
        ring: SplitQueue,
        frames: FrameQueue,
        checksums: bool,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.ring = ring
        self._frames = frames
        self._checksums = checksums
        self._resume = guard(self._writable)
        self._waiting = False  # for the backend to take frames again

    def run(self) -> None:
        """Send what is there, until the backend has no room."""
        if self._waiting:
            return
        for chain in self.ring.chains():
            if not self._send(chain):
                self.ring.unpop(chain)
                self._waiting = True
                self._frames.on_writable(self._resume)
                break
            self.ring.push(chain)
        self.ring.interrupt()

    def _writable(self) -> None:
        self._waiting = False
        self.run()

    def _send(self, chain: Chain) -> bool:
        """False: no room now.  What is no frame is dropped (device-bugs 13: the header is copied once)."""
        header = gather(chain.readable, wire.HEADER_SIZE)
        length = chain.readable_length - wire.HEADER_SIZE
        if not 0 < length <= wire.LARGEST_FRAME:
            return True
        parts = skip(chain.readable, wire.HEADER_SIZE)
        if self._frames.header_size:
            if not self._checksums:
                header = bytes(wire.HEADER_SIZE)
            parts = (memoryview(header), *parts)
        return self._frames.send(parts)


class _Receiver:
    """From the backend to a receive ring.

    A frame goes into one chain, or with MRG_RXBUF into as many as it needs; its header is
    written before any of them is given back (device-bugs 13).
    """

    def __init__(
        self,
        ring: SplitQueue,
        frames: FrameQueue,
        mergeable: bool,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.ring = ring
        self._frames = frames
        self._mergeable = mergeable
        self._buffer = bytearray(wire.HEADER_SIZE + wire.LARGEST_FRAME)
        self._pending = 0  # bytes of a received frame, header included, that waits for room
        self._readable = guard(self.run)
        self._listening = False

    def stop(self) -> None:
        """The ring is gone."""
        self._pending = 0
        self._listen(False)

    def run(self) -> None:
        """Receive while there are frames and room for them."""
        listen = True
        for _ in range(FRAMES_A_CALL):
            if not self._pending and not self._receive():
                break
            if not self._deliver():
                listen = False
                break
        self.ring.interrupt()
        self._listen(listen)

    def _listen(self, wanted: bool) -> None:
        if wanted != self._listening:
            self._listening = wanted
            self._frames.on_readable(self._readable if wanted else None)

    def _receive(self) -> bool:
        """A frame into the buffer, behind a header: the backend's, or one of zeros."""
        start = wire.HEADER_SIZE - self._frames.header_size
        self._buffer[: wire.HEADER_SIZE] = bytes(wire.HEADER_SIZE)
        count = self._frames.receive(memoryview(self._buffer)[start:])
        self._pending = start + count if count else 0
        return bool(count)

    def _deliver(self) -> bool:
        """The pending frame into the ring; False when there is no room for it now."""
        chains: list[Chain] = []
        room = 0
        while room < self._pending:
            chain = self.ring.pop()
            if chain is None:
                if self.ring.arm():
                    continue
                return self._starved(chains)
            chains.append(chain)
            length = chain.writable_length
            if length < wire.HEADER_SIZE:
                raise RingError(f"a receive buffer of {length} bytes, which cannot hold a header")
            room += length
            if not self._mergeable and room < self._pending:
                self.ring.push(chain, 0)  # too small for this frame, which is dropped
                self._pending = 0
                return True
        self._fill(chains)
        return True

    def _starved(self, chains: list[Chain]) -> bool:
        """Give the chains back unseen; a frame that the whole ring cannot hold is dropped."""
        for chain in reversed(chains):
            self.ring.unpop(chain)
        if len(chains) == self.ring.setup.size:
            self._pending = 0
            return True
        return False

    def _fill(self, chains: list[Chain]) -> None:
        wire.NUM_BUFFERS.pack_into(self._buffer, wire.NUM_BUFFERS_OFFSET, len(chains))
        data = memoryview(self._buffer)[: self._pending]
        written = []
        for chain in chains:
            written.append(scatter(chain.writable, data))
            data = data[written[-1] :]
        for chain, count in zip(chains, written, strict=True):
            self.ring.push(chain, count)
        self._pending = 0
