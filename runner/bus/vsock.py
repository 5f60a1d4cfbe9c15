"""One stream connection between the guest and somebody on the host (virtio 1.2 §5.10.6).

Credit is counted modulo 2^32 on both sides and never believed further than a local cap:
a guest that shrinks its buffer below what it has not read yet simply gets nothing more,
and one that sends beyond what it was allowed loses the connection (device-bugs 14).
"""

from __future__ import annotations

from runner.devices.ports import ByteStream
from runner.typed import Callable, Final, NamedTuple
from runner.wire import virtio_vsock as wire

BUFFER: Final = 64 << 10  # what a guest may send before we have passed it on
MOST_CREDIT: Final = 1 << 20  # what we believe of the guest's buffer
LARGEST_PACKET: Final = 64 << 10
_MASK: Final = 0xFFFFFFFF


class Packet(NamedTuple):
    """What a connection says to the guest."""

    op: int
    flags: int = 0
    data: bytes = b""


class Connection:
    """State of one connection; ``eager`` is called when it has something to say to the guest.

    ``opening`` is the operation that the guest still has to hear: a REQUEST of the host's or
    the RESPONSE to its own.
    """

    def __init__(
        self,
        stream: ByteStream,
        opening: int,
        eager: Callable[[Connection], None],
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self.closed = False
        self._stream = stream
        self._eager = eager
        self._accepted = accepted
        self._owed = [opening]
        self._established = opening == wire.OP_RESPONSE
        self._output = bytearray()  # from the guest, not yet taken by the stream
        self._received = self._forwarded = self._told = 0  # bytes from the guest
        self._sent = self._peer_buffer = self._peer_forwarded = 0  # bytes to the guest
        self._readable = False
        self._starved = False  # CREDIT_REQUEST is under way
        self._ended = False  # the host sends no more
        self._guest_done = 0  # SHUTDOWN flags
        self._draining = False

    # ---- towards the guest

    @property
    def credit(self) -> int:
        """Bytes the guest can take, saturating at zero and at a cap of our own."""
        outstanding = (self._sent - self._peer_forwarded) & _MASK
        return max(min(self._peer_buffer, MOST_CREDIT) - outstanding, 0)

    @property
    def window(self) -> tuple[int, int]:
        """``buf_alloc`` and ``fwd_cnt`` for a header, which the guest then knows."""
        self._told = self._forwarded
        return BUFFER, self._forwarded & _MASK

    def say(self, room: int) -> Packet | None:
        """The next packet for the guest, with at most ``room`` bytes of data; None: nothing now."""
        if self._owed:
            op = self._owed.pop(0)
            if op == wire.OP_RST:
                self.close()
            elif op == wire.OP_RESPONSE:
                self._listen()
            return Packet(op)
        if self.closed or not self._readable or not self._established or self._ended:
            return None
        if self._guest_done & wire.SHUTDOWN_RECEIVE:
            return None
        if not self.credit:
            return self._ask_for_credit()
        return self._read(min(room, self.credit, LARGEST_PACKET))

    def _ask_for_credit(self) -> Packet | None:
        if self._starved:
            return None
        self._starved = True
        return Packet(wire.OP_CREDIT_REQUEST)

    def _read(self, limit: int) -> Packet | None:
        if not limit:
            return None
        try:
            data = self._stream.read(limit)
        except OSError:
            self.close()
            return Packet(wire.OP_RST)
        if data is None:
            self._listen()
            return None
        if not data:
            self._ended = True
            return Packet(wire.OP_SHUTDOWN, wire.SHUTDOWN_SEND)
        self._sent += len(data)
        return Packet(wire.OP_RW, 0, data)

    def _listen(self) -> None:
        self._readable = False
        self._stream.on_readable(self._on_readable)

    def _on_readable(self) -> None:
        self._readable = True
        self._stream.on_readable(None)
        self._eager(self)

    def _owe(self, op: int) -> None:
        if op not in self._owed:
            self._owed.append(op)
        self._eager(self)

    def refuse(self) -> None:
        """Tell the guest that it is over, and close."""
        self.close()
        self._owed = []
        self._owe(wire.OP_RST)

    def close(self) -> None:
        """The host's side is done with."""
        if not self.closed:
            self.closed = True
            self._stream.close()

    # ---- from the guest

    def hear(self, header: wire.Header, data: bytes) -> None:
        """A packet of the guest's for this connection."""
        if self.closed:
            return
        self._peer_buffer, self._peer_forwarded = header.buf_alloc, header.fwd_cnt
        match header.op:
            case wire.OP_RESPONSE if not self._established:
                self._established = True
                self._accepted()
                self._listen()
            case wire.OP_RW if self._established:
                self._take(data)
            case wire.OP_CREDIT_UPDATE:
                pass
            case wire.OP_CREDIT_REQUEST:
                self._owe(wire.OP_CREDIT_UPDATE)
            case wire.OP_SHUTDOWN:
                self._guest_done |= header.flags & wire.SHUTDOWN_BOTH
                self._finish()
            case wire.OP_RST:
                self._owed = []
                self.close()
            case _:
                self.refuse()
        if self._readable and self.credit:
            self._starved = False
            self._eager(self)

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._received - self._forwarded > BUFFER or self._guest_done & wire.SHUTDOWN_SEND:
            self.refuse()  # beyond its credit, or after its end
            return
        self._output += data
        self._drain()

    def _drain(self) -> None:
        """Pass on what the guest sent, as far as the stream takes it."""
        try:
            while self._output and (count := self._stream.write(bytes(self._output))):
                del self._output[:count]
                self._forwarded += count
        except OSError:
            self.refuse()
            return
        if self._forwarded - self._told > BUFFER // 2:
            self._owe(wire.OP_CREDIT_UPDATE)
        if self._output and not self._draining:
            self._draining = True
            self._stream.on_writable(self._on_writable)
        self._finish()

    def _on_writable(self) -> None:
        self._draining = False
        if not self.closed:
            self._drain()

    def _finish(self) -> None:
        """The guest's SHUTDOWN takes effect when everything before it has been passed on."""
        if self._output or self.closed:
            return
        if self._guest_done == wire.SHUTDOWN_BOTH:
            self.refuse()
        elif self._guest_done & wire.SHUTDOWN_SEND:
            self._stream.shutdown()
