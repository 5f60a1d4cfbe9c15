"""virtio-vsock: stream sockets between guest and host (virtio 1.2 §5.10).

Two ways: the host kernel's vhost-vsock, where the host's programs use AF_VSOCK and the
guest's CID; or the *hybrid* socket of Firecracker and cloud-hypervisor, where the host's
programs use Unix sockets and the rings are served here.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtio_offload import OffloadedModel
from runner.bus.virtqueue import Chain, RingError, SplitQueue, gather, scatter, skip
from runner.bus.vsock import LARGEST_PACKET, Connection, Packet
from runner.definition.model import Json
from runner.devices.ports import ByteStream, LoggingAttachment, QueueOffload, StreamDialler, serves_queues
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import place
from runner.light import deque
from runner.typed import Callable, Final, Mapping
from runner.wire import virtio
from runner.wire import virtio_vsock as wire

CLASS: Final = 0x078000
QUEUE_SIZES: Final = (128, 128, 16)
MOST_CONNECTIONS: Final = 1024
MOST_REFUSALS: Final = 128  # resets that wait for room in the receive ring; more are not told
FIRST_HOST_PORT: Final = 1 << 30
Key = tuple[int, int]  # the host's port, the guest's


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Three queues; with ``socket`` the hybrid kind, without it the kernel's."""
    kind = "hybrid-vsock" if options.get("socket") else "vhost-vsock"
    host = {key: options[key] for key in ("cid", "socket") if key in options}
    return virtio_pci.claim(virtio.ID_VSOCK, CLASS, len(QUEUE_SIZES), (BackendClaim(name, kind, host),))


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; its backend is a :class:`StreamDialler`, or vhost."""
    backend = at.backend(node.claim.backends[0].name)
    device: VirtioVsock | OffloadedVsock
    if serves_queues(backend):
        device = OffloadedVsock(backend, _cid(node.options))
    else:
        device = VirtioVsock(backend, _cid(node.options))
    return virtio_pci.VirtioPciFunction(node, at, device)


def qemu(node: Node) -> tuple[str, ...]:
    """``vhost-vsock-pci``: QEMU has the kernel's kind only."""
    return ("-device", f"vhost-vsock-pci,{place(node)},guest-cid={_cid(node.options)},disable-legacy=on")


def lacks(engine: str, options: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    """QEMU knows no hybrid socket."""
    return (("socket", "has no"),) if engine == "qemu" and options.get("socket") else ()


def _cid(options: Mapping[str, Json]) -> int:
    cid = options["cid"]
    assert isinstance(cid, int)
    return cid


class OffloadedVsock(OffloadedModel):
    """vhost-vsock serves the two data queues; the event queue only ever waits here."""

    def __init__(self, offload: QueueOffload, cid: int) -> None:
        super().__init__(virtio.ID_VSOCK, offload, QUEUE_SIZES, 0, served=2)
        self.config = wire.CONFIG.pack(cid)


class VirtioVsock(VirtioModel):
    """The hybrid kind: a table of connections between ports of the guest and streams of the host."""

    device_id = virtio.ID_VSOCK
    queue_sizes = QUEUE_SIZES

    def __init__(self, dialler: StreamDialler, cid: int) -> None:
        self.config = wire.CONFIG.pack(cid)
        self._cid = cid
        self._dialler = dialler
        self._connections: dict[Key, Connection] = {}
        self._keys: dict[Connection, Key] = {}
        self._eager: deque[Connection] = deque()
        self._refusals: deque[Key] = deque()
        self._speaking = False
        self._next_port = FIRST_HOST_PORT
        dialler.on_connection(self._host_connects)

    def reset(self, done: Callable[[], None]) -> None:
        """Every connection ends, without a word to a driver that has forgotten them."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._keys.clear()
        self._eager.clear()
        self._refusals.clear()
        super().reset(done)

    def notify(self, queue: int) -> None:
        """Packets from the guest, or room for packets to it."""
        if queue == wire.TX:
            ring = self.queues[wire.TX]
            for chain in ring.chains():
                self._hear(chain)
                ring.push(chain)
            ring.interrupt()
        self._speak()

    # ---- from the guest

    def _hear(self, chain: Chain) -> None:
        raw = gather(chain.readable, wire.HEADER_SIZE)
        if len(raw) < wire.HEADER_SIZE:
            raise RingError("a vsock packet without a header")
        header = wire.unpack(raw)
        if header.length > chain.readable_length - wire.HEADER_SIZE or header.src_cid != self._cid:
            return
        key = (header.dst_port, header.src_port)
        if (
            header.dst_cid != wire.HOST_CID
            or header.type != wire.TYPE_STREAM
            or header.length > LARGEST_PACKET
        ):
            self._refuse(key, header.op)
            return
        connection = self._connections.get(key)
        if connection is not None:
            data = gather(skip(chain.readable, wire.HEADER_SIZE), header.length)
            connection.hear(header, data)
            self._forget_if_closed(connection)
        elif header.op == wire.OP_REQUEST:
            self._guest_connects(key, header)
        else:
            self._refuse(key, header.op)

    def _guest_connects(self, key: Key, header: wire.Header) -> None:
        stream = self._dialler.connect(key[0]) if len(self._connections) < MOST_CONNECTIONS else None
        if stream is None:
            self._refuse(key, header.op)
            return
        connection = Connection(stream, wire.OP_RESPONSE, self._wants_to_speak)
        connection.hear(header._replace(op=wire.OP_CREDIT_UPDATE), b"")
        self._remember(key, connection)

    def _refuse(self, key: Key, op: int) -> None:
        """A reset for what belongs to no connection; never for a reset (§5.10.6.4.2)."""
        if op != wire.OP_RST and len(self._refusals) < MOST_REFUSALS:
            self._refusals.append(key)

    # ---- from the host

    def _host_connects(self, port: int, stream: ByteStream, accepted: Callable[[int], None]) -> None:
        if not self.queues or len(self._connections) >= MOST_CONNECTIONS:
            stream.close()
            return
        while (self._next_port, port) in self._connections:
            self._next_port = self._after(self._next_port)
        host_port, self._next_port = self._next_port, self._after(self._next_port)
        connection = Connection(stream, wire.OP_REQUEST, self._wants_to_speak, lambda: accepted(host_port))
        self._remember((host_port, port), connection)
        self.transport.guard(self._speak)()

    @staticmethod
    def _after(port: int) -> int:
        return FIRST_HOST_PORT + (port + 1 - FIRST_HOST_PORT) % FIRST_HOST_PORT

    # ---- towards the guest

    def _remember(self, key: Key, connection: Connection) -> None:
        self._connections[key] = connection
        self._keys[connection] = key
        self._eager.append(connection)

    def _forget_if_closed(self, connection: Connection) -> None:
        if connection.closed and connection not in self._eager:
            key = self._keys.pop(connection, None)
            if key is not None:
                del self._connections[key]

    def _wants_to_speak(self, connection: Connection) -> None:
        """A connection has something to say: from a stream's callback, or while it hears."""
        if connection in self._keys and connection not in self._eager:
            self._eager.append(connection)
            self.transport.guard(self._speak)()

    def _speak(self) -> None:
        """Say what there is to say; a stream that answers at once is heard by the same loop."""
        ring = self.queues.get(wire.RX)
        if ring is None or self._speaking:
            return
        self._speaking = True
        try:
            self._say_all(ring)
        finally:
            self._speaking = False
        ring.interrupt()

    def _say_all(self, ring: SplitQueue) -> None:
        """One packet a connection and turn, as long as the guest has given buffers."""
        chain: Chain | None = None
        while self._eager or self._refusals:
            chain = chain or self._room(ring)
            if chain is None:
                break
            if self._refusals:
                self._send(ring, chain, self._refusals.popleft(), Packet(wire.OP_RST), (0, 0))
                chain = None
                continue
            connection = self._eager.popleft()
            packet = connection.say(chain.writable_length - wire.HEADER_SIZE)
            key = self._keys[connection]
            if packet is not None:
                self._send(ring, chain, key, packet, connection.window)
                chain = None
                self._eager.append(connection)
            else:
                self._forget_if_closed(connection)
        if chain is not None:
            ring.unpop(chain)

    def _room(self, ring: SplitQueue) -> Chain | None:
        while True:
            chain = ring.pop()
            if chain is not None:
                if chain.writable_length < wire.HEADER_SIZE:
                    raise RingError("a receive buffer that cannot hold a vsock header")
                return chain
            if not ring.arm():
                return None

    def _send(
        self, ring: SplitQueue, chain: Chain, key: Key, packet: Packet, window: tuple[int, int]
    ) -> None:
        header = wire.Header(
            wire.HOST_CID, self._cid, key[0], key[1], len(packet.data), wire.TYPE_STREAM,
            packet.op, packet.flags, *window,
        )  # fmt: skip
        ring.push(chain, scatter(chain.writable, header.pack() + packet.data))
