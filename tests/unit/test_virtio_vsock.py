"""virtio-vsock of the hybrid kind: connections both ways, credit, ends, and guests that lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus import vsock
from runner.devices import virtio_vsock
from runner.wire import virtio
from runner.wire import virtio_vsock as wire
from tests.unit.virtio_driver import Attachment, Driver, placed

CID = 7
BUFFER = 1 << 16


class Stream:
    """ByteStream: ``heard`` from the guest, ``arrive`` for it."""

    def __init__(self) -> None:
        self.heard = b""
        self.room = 1 << 30
        self.arriving = b""
        self.ended = False
        self.broken = False
        self.finished = False
        self.closed = False
        self.readable: Callable[[], None] | None = None
        self.writable: Callable[[], None] | None = None

    def read(self, limit: int) -> bytes | None:
        if self.broken:
            raise ConnectionResetError
        if not self.arriving:
            return b"" if self.ended else None
        data, self.arriving = self.arriving[:limit], self.arriving[limit:]
        return data

    def write(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        count = min(len(data), self.room)
        self.heard += bytes(data[:count])
        self.room -= count
        return count

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        self.readable = callback
        if self.arriving:
            self.poke()

    def on_writable(self, callback: Callable[[], None]) -> None:
        self.writable = callback

    def shutdown(self) -> None:
        self.finished = True

    def close(self) -> None:
        self.closed = True

    def poke(self) -> None:
        if self.readable and not self.closed:
            self.readable()

    def arrive(self, data: bytes) -> None:
        self.arriving += data
        self.poke()


class Dialler:
    """StreamDialler that knows the ports in ``listening``."""

    def __init__(self) -> None:
        self.listening: dict[int, Stream] = {}
        self.connection: Callable[..., None] = lambda *_: None

    def connect(self, port: int) -> Stream | None:
        return self.listening.get(port)

    def on_connection(self, callback: Callable[..., None]) -> None:
        self.connection = callback


class Guest:
    """A driver that speaks vsock, with a pool of receive buffers."""

    def __init__(self, buffers: int = 64, size: int = 4096) -> None:
        self.dialler = Dialler()
        options: dict[str, Any] = {"cid": CID, "socket": "v.sock"}
        at = Attachment({"vsock": self.dialler})
        claim = virtio_vsock.claim("vsock", options)
        node = placed("virtio_vsock", "vsock", "vsock", options, claim, intx=False)
        self.driver = Driver(virtio_vsock.build(node, at), at).start()
        self.size = size
        self.buffers: dict[int, int] = {}
        self.give(buffers)

    def give(self, count: int) -> None:
        """Receive buffers."""
        for _ in range(count):
            address = self.driver.alloc(self.size)
            self.buffers[self.driver.queues[wire.RX].add((address, self.size, True))] = address
        self.driver.kick(wire.RX)

    def heard(self) -> list[tuple[wire.Header, bytes]]:
        """Packets from the host."""
        packets = []
        for head, length in self.driver.queues[wire.RX].used():
            raw = self.driver.memory.read(self.buffers[head], length)
            header = wire.unpack(raw)
            assert header.length == length - wire.HEADER_SIZE
            packets.append((header, raw[wire.HEADER_SIZE :]))
        return packets

    def ops(self) -> list[int]:
        return [header.op for header, _ in self.heard()]

    def say(self, op: int, host: int = 80, guest: int = 1000, data: bytes = b"", **fields: int) -> None:
        """A packet to the host; its memory is used again."""
        header = wire.Header(
            CID, wire.HOST_CID, guest, host, len(data), wire.TYPE_STREAM, op, 0, BUFFER, 0
        )._replace(**fields)
        self.driver.next_free = max(self.driver.next_free, 0x80000)
        self.driver.memory.write(0x70000, header.pack())
        address = self.driver.alloc(len(data), data) if data else 0
        parts = [(0x70000, wire.HEADER_SIZE, False)] + ([(address, len(data), False)] if data else [])
        if data:
            self.driver.next_free = address
        self.driver.request(wire.TX, *parts)

    def connect(self, host: int = 80, guest: int = 1000, **fields: int) -> Stream:
        """An established connection that the guest asked for."""
        stream = self.dialler.listening.setdefault(host, Stream())
        self.say(wire.OP_REQUEST, host, guest, **fields)
        assert self.ops() == [wire.OP_RESPONSE]
        return stream


def test_the_guest_connects_to_a_port_of_the_host() -> None:
    """REQUEST is answered by RESPONSE with ports and CIDs turned round, and our window."""
    guest = Guest()
    guest.dialler.listening[80] = Stream()
    guest.say(wire.OP_REQUEST)
    ((header, data),) = guest.heard()
    assert header == wire.Header(2, CID, 80, 1000, 0, 1, wire.OP_RESPONSE, 0, vsock.BUFFER, 0)
    assert data == b""


def test_nobody_listens() -> None:
    """A port without a listener is reset."""
    guest = Guest()
    guest.say(wire.OP_REQUEST, host=99)
    assert guest.ops() == [wire.OP_RST]


def test_bytes_flow_both_ways() -> None:
    """RW carries data; nothing is lost or turned round."""
    guest = Guest()
    stream = guest.connect()
    guest.say(wire.OP_RW, data=b"ping")
    assert stream.heard == b"ping"
    stream.arrive(b"pong")
    ((header, data),) = guest.heard()
    assert (header.op, data, header.fwd_cnt) == (wire.OP_RW, b"pong", 4)


def test_the_host_connects_to_a_port_of_the_guest() -> None:
    """REQUEST from a port of ours; after RESPONSE the host is told, and data flows."""
    guest = Guest()
    stream, told = Stream(), []
    guest.dialler.connection(5000, stream, told.append)
    ((header, _),) = guest.heard()
    assert (header.op, header.dst_port) == (wire.OP_REQUEST, 5000)
    assert header.src_port >= virtio_vsock.FIRST_HOST_PORT
    stream.arrive(b"early")
    assert guest.heard() == []
    guest.say(wire.OP_RESPONSE, host=header.src_port, guest=5000)
    assert told == [header.src_port]
    assert guest.heard()[0][1] == b"early"


def test_a_guest_that_refuses_closes_the_hosts_stream() -> None:
    """RST instead of RESPONSE."""
    guest = Guest()
    stream, told = Stream(), []
    guest.dialler.connection(5000, stream, told.append)
    ((header, _),) = guest.heard()
    guest.say(wire.OP_RST, host=header.src_port, guest=5000)
    assert stream.closed
    assert told == []
    guest.say(wire.OP_RW, host=header.src_port, guest=5000, data=b"x")
    assert guest.ops() == [wire.OP_RST]


def test_without_a_guest_the_host_is_turned_away() -> None:
    """Before DRIVER_OK and after a reset nobody can be reached."""
    guest = Guest()
    stream, old = Stream(), guest.connect()
    guest.driver.status = 0
    assert old.closed
    guest.dialler.connection(5000, stream, print)
    assert stream.closed


def test_large_data_is_cut_into_the_guests_buffers() -> None:
    """A packet fits its chain, and the pieces join."""
    guest = Guest(buffers=8, size=144)
    stream = guest.connect()
    stream.arrive(bytes(range(250)))
    packets = guest.heard()
    assert [len(data) for _, data in packets] == [100, 100, 50]
    assert b"".join(data for _, data in packets) == bytes(range(250))


def test_without_buffers_everything_waits() -> None:
    """No room in the receive ring: the stream is not read, and goes on when there is room."""
    guest = Guest(buffers=1)
    stream = guest.connect()
    stream.arrive(b"later")
    assert guest.heard() == []
    assert stream.arriving == b"later"
    guest.give(2)
    assert guest.heard()[0][1] == b"later"


def test_row_14_the_guests_credit_is_kept() -> None:
    """Device-bugs 14: no more than the guest has room for; then it is asked, once, and told more."""
    guest = Guest()
    stream = guest.connect(buf_alloc=10)
    stream.arrive(b"0123456789abcdef")
    packets = guest.heard()
    assert [(header.op, data) for header, data in packets] == [
        (wire.OP_RW, b"0123456789"),
        (wire.OP_CREDIT_REQUEST, b""),
    ]
    guest.say(wire.OP_CREDIT_UPDATE, buf_alloc=10, fwd_cnt=0)
    assert guest.heard() == []
    guest.say(wire.OP_CREDIT_UPDATE, buf_alloc=10, fwd_cnt=8)
    assert guest.heard()[0][1] == b"abcdef"


@pytest.mark.parametrize("fields", [{"buf_alloc": 4}, {"fwd_cnt": 51}, {"buf_alloc": 0}])
def test_row_14_a_guest_that_shrinks_its_credit_gets_nothing(fields: dict[str, int]) -> None:
    """Device-bugs 14: less buffer than is under way, or more forwarded than was sent: zero, not minus."""
    guest = Guest()
    stream = guest.connect(buf_alloc=100)
    stream.arrive(b"x" * 50)
    guest.heard()
    guest.say(wire.OP_CREDIT_UPDATE, **{"buf_alloc": 100, "fwd_cnt": 0, **fields})
    stream.arrive(b"more" * 100)
    assert set(guest.ops()) <= {wire.OP_CREDIT_REQUEST}


def test_row_14_a_boastful_guest_meets_our_cap() -> None:
    """Device-bugs 14: an enormous buf_alloc is believed up to a cap."""
    guest = Guest()
    guest.connect(buf_alloc=0xFFFFFFFF)
    (connection,) = guest.driver.built.transport.device._connections.values()
    assert connection.credit == vsock.MOST_CREDIT


def test_row_14_a_guest_that_ignores_our_credit_is_cut_off() -> None:
    """Device-bugs 14: beyond the buffer that it was told of, the connection is reset."""
    guest = Guest()
    stream = guest.connect()
    stream.room = 0
    for _ in range(vsock.BUFFER // 32768):
        guest.say(wire.OP_RW, data=b"x" * 32768)
    assert not stream.closed
    guest.say(wire.OP_RW, data=b"x")
    assert stream.closed
    assert guest.ops() == [wire.OP_RST]


def test_credit_comes_back_as_data_is_passed_on() -> None:
    """A slow reader: data waits, in order; once it is taken the guest is told."""
    guest = Guest()
    stream = guest.connect()
    stream.room = 0
    for number in range(2):
        guest.say(wire.OP_RW, data=bytes((number,)) * 30000)
    assert guest.heard() == []
    stream.room = 1 << 20
    assert stream.writable is not None
    stream.writable()
    assert stream.heard == b"\0" * 30000 + b"\1" * 30000
    ((header, _),) = guest.heard()
    assert (header.op, header.fwd_cnt) == (wire.OP_CREDIT_UPDATE, 60000)


def test_a_question_for_credit_is_answered() -> None:
    """CREDIT_REQUEST gets a CREDIT_UPDATE."""
    guest = Guest()
    guest.connect()
    guest.say(wire.OP_CREDIT_REQUEST)
    assert guest.ops() == [wire.OP_CREDIT_UPDATE]


def test_the_hosts_end_is_told() -> None:
    """End of file on the host: SHUTDOWN, no more sent; the guest may still send."""
    guest = Guest()
    stream = guest.connect()
    stream.arriving, stream.ended = b"last", True
    stream.poke()
    packets = guest.heard()
    assert [(header.op, header.flags, data) for header, data in packets] == [
        (wire.OP_RW, 0, b"last"),
        (wire.OP_SHUTDOWN, wire.SHUTDOWN_SEND, b""),
    ]
    guest.say(wire.OP_RW, data=b"reply")
    assert stream.heard == b"reply"


def test_the_guests_end_comes_after_its_data() -> None:
    """SHUTDOWN takes effect when everything before it was taken; both ways is answered by RST."""
    guest = Guest()
    stream = guest.connect()
    stream.room = 0
    guest.say(wire.OP_RW, data=b"tail")
    guest.say(wire.OP_SHUTDOWN, flags=wire.SHUTDOWN_BOTH)
    assert not stream.closed
    stream.room = 99
    assert stream.writable is not None
    stream.writable()
    assert stream.heard == b"tail"
    assert stream.closed
    assert guest.ops() == [wire.OP_RST]


def test_half_an_end_is_passed_on() -> None:
    """The guest sends no more: the host's stream ends, and may still answer."""
    guest = Guest()
    stream = guest.connect()
    guest.say(wire.OP_SHUTDOWN, flags=wire.SHUTDOWN_SEND)
    assert stream.finished
    assert not stream.closed
    stream.arrive(b"answer")
    assert guest.heard()[0][1] == b"answer"
    guest.say(wire.OP_RW, data=b"after the end")
    assert guest.ops() == [wire.OP_RST]


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_broken_stream_resets_the_connection(way: str) -> None:
    """Reading or writing fails: RST, and the connection is forgotten."""
    guest = Guest()
    stream = guest.connect()
    stream.broken = True
    if way == "read":
        stream.poke()
    else:
        guest.say(wire.OP_RW, data=b"x")
    assert guest.ops() == [wire.OP_RST]
    assert guest.driver.built.transport.device._connections == {}


@pytest.mark.parametrize(
    "fields",
    [{"dst_cid": 3}, {"type": 2}, {"op": 0}, {"op": 99}, {"op": wire.OP_RESPONSE}, {"op": wire.OP_REQUEST}],
)
def test_packets_that_make_no_sense_are_reset(fields: dict[str, int]) -> None:
    """To somebody else, of another type, or of no operation that fits the connection."""
    guest = Guest()
    guest.connect()
    guest.say(fields.pop("op", wire.OP_RW), **fields)
    assert guest.ops() == [wire.OP_RST]


@pytest.mark.parametrize("fields", [{"src_cid": 8}, {"length": 5}])
def test_packets_that_lie_are_dropped(fields: dict[str, int]) -> None:
    """With another's CID, or longer than their chain: nothing happens."""
    guest = Guest()
    guest.connect()
    guest.say(wire.OP_RW, **fields)
    assert guest.heard() == []


def test_a_packet_without_a_header_is_an_error() -> None:
    """The driver is broken."""
    guest = Guest()
    guest.driver.request(wire.TX, guest.driver.readable(b"short"))
    assert guest.driver.status & virtio.NEEDS_RESET


def test_resets_are_never_answered_and_never_pile_up() -> None:
    """A flood of packets to nobody leaves a bounded number of answers waiting."""
    guest = Guest(buffers=0)
    guest.say(wire.OP_RST)
    device = guest.driver.built.transport.device
    assert len(device._refusals) == 0
    for port in range(virtio_vsock.MOST_REFUSALS + 50):
        guest.say(wire.OP_RW, guest=port)
    assert len(device._refusals) == virtio_vsock.MOST_REFUSALS


def test_connections_are_bounded() -> None:
    """One more than the table holds is refused, from either side."""
    guest = Guest(buffers=0)
    for port in range(virtio_vsock.MOST_CONNECTIONS):
        guest.dialler.listening[port] = Stream()
        guest.say(wire.OP_REQUEST, host=port)
    device = guest.driver.built.transport.device
    assert len(device._connections) == virtio_vsock.MOST_CONNECTIONS
    guest.dialler.listening[99999] = Stream()
    guest.say(wire.OP_REQUEST, host=99999)
    stream = Stream()
    guest.dialler.connection(1, stream, print)
    assert stream.closed
    assert len(device._connections) == virtio_vsock.MOST_CONNECTIONS


def test_two_connections_take_turns() -> None:
    """A busy stream does not keep another one waiting."""
    guest = Guest(buffers=64, size=144)
    one, two = guest.connect(1, 1001), guest.connect(2, 1002)
    guest.driver.queues[wire.RX].used()
    one.arriving, two.arriving = b"1" * 300, b"2" * 300
    one.poke()
    two.poke()
    assert {header.src_port for header, data in guest.heard() if data} == {1, 2}


def test_the_kernels_kind_hands_over_two_queues() -> None:
    """vhost-vsock: data queues are served elsewhere; the configuration has the CID."""

    class Vhost:
        features = virtio.F_VERSION_1
        config = b""
        on_broken = None

        def __init__(self) -> None:
            self.started: list[int] = []
            self.kicked: list[int] = []

        def start(self, features: int, queues: Any) -> None:
            self.started += [queue.number for queue in queues]

        def stop(self, done: Callable[[], None]) -> None:
            done()

        def kick(self, number: int) -> None:
            self.kicked.append(number)

    claim = virtio_vsock.claim("vsock", {"cid": CID})
    assert [backend.kind for backend in claim.backends] == ["vhost-vsock"]
    vhost = Vhost()
    at = Attachment({"vsock": vhost})
    node = placed("virtio_vsock", "vsock", "vsock", {"cid": CID}, claim, intx=False)
    driver = Driver(virtio_vsock.build(node, at), at)
    bar, start, _ = driver.structures[virtio.CFG_NOTIFY]
    driver.start()
    driver.bar_write(bar, start + 8, 2, 2)
    assert vhost.started == [0, 1]
    assert 2 not in vhost.kicked
    assert driver.device_config(0, 8) == CID
    assert f"guest-cid={CID}" in virtio_vsock.qemu(node)[1]


said = st.tuples(
    st.integers(0, 9),
    st.integers(0, 3),
    st.integers(1000, 1002),
    st.binary(max_size=64),
    st.fixed_dictionaries(
        {},
        optional={
            "flags": st.integers(0, 3),
            "buf_alloc": st.sampled_from([0, 1, 100, 2**32 - 1]),
            "fwd_cnt": st.sampled_from([0, 1, 50, 2**32 - 1]),
            "src_cid": st.sampled_from([CID, 0]),
            "length": st.sampled_from([0, 1, 2**32 - 1]),
        },
    ),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["say", "arrive", "end", "break", "give", "room", "host"]), said),
        max_size=40,
    )
)
def test_whatever_a_guest_says_the_host_stands(steps: list[tuple[str, Any]]) -> None:
    """Any packets and any events on the host: tables stay bounded, buffers too, nothing is raised."""
    guest = Guest(buffers=8, size=200)
    for port in range(3):
        guest.dialler.listening[port] = Stream()
    for what, (op, host, port, data, fields) in steps:
        stream = guest.dialler.listening.get(host) or Stream()
        if what == "say":
            guest.say(op, host, port, data, **fields)
        elif what == "arrive":
            stream.arrive(data)
        elif what == "end":
            stream.ended = True
            stream.poke()
        elif what == "break":
            stream.broken = bool(op & 1)
        elif what == "room":
            stream.room = len(data)
            if stream.writable:
                stream.writable()
        elif what == "host":
            guest.dialler.connection(port, Stream(), lambda _port: None)
        else:
            guest.heard()
            guest.give(min(4, len(guest.driver.queues[wire.RX].free)))
    device = guest.driver.built.transport.device
    assert set(device._keys.values()) == set(device._connections)
    for connection in device._connections.values():
        assert len(connection._output) <= vsock.BUFFER
