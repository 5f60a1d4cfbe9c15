"""The vhost-user front-end against a back-end that does as it likes."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.devices.ports import OffloadedQueue
from runner.host import vhost_user
from runner.host.memory import Ram
from runner.host.vhost_user import HEADER, STATE, U64, VhostUser, VhostUserError

FEATURES = 1 << 32 | 1 << 30 | 1 << 9
PROTOCOL = vhost_user.PROTOCOL_MQ | vhost_user.PROTOCOL_REPLY_ACK | vhost_user.PROTOCOL_CONFIG
WANTED = PROTOCOL
Reply = Callable[[int, bytes], bytes | None]


def reply(request: int, payload: bytes, flags: int = vhost_user.VERSION | vhost_user.REPLY) -> bytes:
    return HEADER.pack(request, flags, len(payload)) + payload


def proper(request: int, payload: bytes) -> bytes:
    """What a back-end in its right mind answers."""
    match request:
        case vhost_user.GET_FEATURES:
            return reply(request, U64.pack(FEATURES))
        case vhost_user.GET_PROTOCOL_FEATURES:
            return reply(request, U64.pack(PROTOCOL))
        case vhost_user.GET_QUEUE_NUM:
            return reply(request, U64.pack(4))
        case vhost_user.GET_CONFIG:
            return reply(request, payload[:12] + bytes(range(60)))
        case vhost_user.GET_VRING_BASE:
            return reply(request, STATE.pack(STATE.unpack(payload)[0], 7))
    return reply(request, U64.pack(0))


class BackEnd(threading.Thread):
    """Reads messages and answers each with ``answer``; keeps what it was told."""

    def __init__(self, end: socket.socket, answer: Reply) -> None:
        super().__init__(daemon=True)
        self._end, self._answer = end, answer
        self.heard: list[tuple[int, int, bytes, int]] = []  # request, flags, payload, descriptors
        self.start()

    def run(self) -> None:
        try:
            while True:
                head, ancillary, _, _ = self._end.recvmsg(HEADER.size, 1024)
                if not head:
                    return
                request, flags, length = HEADER.unpack(head)
                payload = self._end.recv(length, socket.MSG_WAITALL) if length else b""
                self.heard.append((request, flags, payload, _close_all(ancillary)))
                self._respond(request, flags, payload)
        except OSError:
            return

    def _respond(self, request: int, flags: int, payload: bytes) -> None:
        asks = request in (
            vhost_user.GET_FEATURES, vhost_user.GET_PROTOCOL_FEATURES, vhost_user.GET_QUEUE_NUM,
            vhost_user.GET_CONFIG, vhost_user.GET_VRING_BASE,
        )  # fmt: skip
        if asks or flags & vhost_user.NEED_REPLY:
            answer = self._answer(request, payload)
            if answer is None:
                self._end.shutdown(socket.SHUT_RDWR)
            else:
                self._end.sendall(answer)


def _close_all(ancillary: list[Any]) -> int:
    count = 0
    for _, _, data in ancillary:
        for fd in array.array("i", data):
            os.close(fd)
            count += 1
    return count


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[VhostUser, BackEnd]]]:
    """``joined(answer, seconds)``: both ends, of which one waits so long for the other's answers."""
    opened: list[socket.socket] = []

    def join(answer: Reply = proper, seconds: float = 60.0) -> tuple[VhostUser, BackEnd]:
        monkeypatch.setattr(vhost_user, "SECONDS", seconds)
        ours, theirs = socket.socketpair()
        opened.append(theirs)
        return VhostUser(ours.detach(), "the back-end of disks.a"), BackEnd(theirs, answer)

    yield join
    for each in opened:
        each.close()


def test_the_greeting_says_everything_in_the_order_of_the_specification(joined: Any) -> None:
    peer, other = joined()
    peer.begin(WANTED)
    assert (peer.features, peer.protocol) == (FEATURES, PROTOCOL)
    assert peer.queue_count() == 4
    assert peer.config(60) == bytes(range(60))
    assert [request for request, *_ in other.heard] == [1, 15, 16, 3, 17, 24]
    peer.close()


def test_memory_is_told_by_guest_addresses_with_a_descriptor_for_each_region(joined: Any) -> None:
    """No address of this process leaves it, and offsets are those of the one file."""
    peer, other = joined()
    peer.begin(WANTED)
    ram = Ram(((0, 4 << 20), (1 << 32, 2 << 20)), shared=True)
    peer.set_memory(ram)
    request, _, payload, fds = other.heard[-1]
    assert (request, fds) == (vhost_user.SET_MEM_TABLE, 2)
    assert STATE.unpack_from(payload) == (2, 0)
    rows = [struct.unpack_from("<QQQQ", payload, 8 + 32 * row) for row in range(2)]
    assert rows == [(0, 4 << 20, 0, 0), (1 << 32, 2 << 20, 1 << 32, 4 << 20)]
    ram.close()


def test_memory_that_is_private_cannot_be_shared(joined: Any) -> None:
    peer, _ = joined()
    peer.begin(WANTED)
    with pytest.raises(VhostUserError, match="memory"):
        peer.set_memory(Ram(((0, 2 << 20),)))


def test_a_ring_is_set_up_before_it_is_kicked_and_enabled(joined: Any) -> None:
    peer, other = joined()
    peer.begin(WANTED)
    before = len(other.heard)
    kick, call = os.eventfd(0), os.eventfd(0)
    queue: Any = OffloadedQueue(3, 64, 0x1000, 0x2000, 0x3000, 0, None, lambda: None)  # type: ignore[arg-type]
    peer.set_features(1 << 32 | 1 << 63)
    peer.start_queue(queue, kick, call)
    told = other.heard[before:]
    assert [request for request, *_ in told] == [2, 8, 10, 9, 13, 12, 18]
    assert U64.unpack(told[0][2])[0] == 1 << 32 | 1 << 30, "only what both know, and the protocol's own bit"
    assert struct.unpack("<IIQQQQ", told[3][2]) == (3, 0, 0x1000, 0x3000, 0x2000, 0)
    assert [fds for *_, fds in told] == [0, 0, 0, 0, 1, 1, 0]
    peer.stop_queue(3)
    assert other.heard[-1][0] == vhost_user.GET_VRING_BASE


def broken(request: int, answer: Callable[[int, bytes], bytes | None]) -> Reply:
    return lambda asked, payload: answer(asked, payload) if asked == request else proper(asked, payload)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda r, p: reply(r + 1, U64.pack(0)), "message 2"),
        (lambda r, p: reply(r, U64.pack(0), flags=1), "flags 0x1"),
        (lambda r, p: reply(r, U64.pack(0), flags=6), "flags 0x6"),
        (lambda r, p: reply(r, b"1234"), "4 bytes"),
        (lambda r, p: reply(r, b""), "0 bytes"),
        (lambda r, p: HEADER.pack(r, 5, 0xFFFFFFFF), "4294967295 bytes"),
        (lambda r, p: reply(r, U64.pack(0))[:-3], "has not answered"),
        (lambda r, p: b"", "has not answered"),
        (lambda r, p: None, "closed the connection"),
    ],
)
def test_an_answer_that_is_none_is_the_end_of_the_connection(joined: Any, answer: Reply, words: str) -> None:
    """Wrong number, wrong flags, wrong length, half of it, nothing, hanging up: each has its words."""
    seconds = 0.1 if words == "has not answered" else 60.0
    peer, other = joined(broken(vhost_user.GET_FEATURES, answer), seconds)
    with pytest.raises(VhostUserError, match=words):
        peer.begin(WANTED)
    assert peer.has_gone()
    heard = len(other.heard)
    with pytest.raises(VhostUserError):
        peer.set_features(0)
    assert len(other.heard) == heard, "after nonsense nothing more is said"


def test_a_refusal_names_the_request(joined: Any) -> None:
    """REPLY_ACK: anything but zero is a refusal."""
    peer, _ = joined(broken(vhost_user.SET_OWNER, lambda r, p: reply(r, U64.pack(22))))
    with pytest.raises(VhostUserError, match="refuses request 3"):
        peer.begin(WANTED)


@pytest.mark.parametrize("size", [0, 59, 61, 1 << 20])
def test_a_configuration_of_another_size_is_refused(joined: Any, size: int) -> None:
    peer, _ = joined(broken(vhost_user.GET_CONFIG, lambda r, p: reply(r, p[:12] + bytes(size))))
    peer.begin(WANTED)
    with pytest.raises(VhostUserError):
        peer.config(60)


def test_a_configuration_from_elsewhere_is_refused(joined: Any) -> None:
    peer, _ = joined(broken(vhost_user.GET_CONFIG, lambda r, p: reply(r, STATE.pack(4, 60) + p[8:])))
    peer.begin(WANTED)
    with pytest.raises(VhostUserError, match="another size"):
        peer.config(60)


def test_the_state_of_another_ring_is_refused(joined: Any) -> None:
    peer, _ = joined(broken(vhost_user.GET_VRING_BASE, lambda r, p: reply(r, STATE.pack(1, 0))))
    peer.begin(WANTED)
    with pytest.raises(VhostUserError, match="another ring"):
        peer.stop_queue(0)


def test_hanging_up_is_seen_without_a_request(joined: Any) -> None:
    peer, other = joined()
    peer.begin(WANTED)
    assert not peer.has_gone()
    other._end.shutdown(socket.SHUT_RDWR)
    assert peer.has_gone()


def test_a_back_end_without_protocol_features_is_served_too(joined: Any) -> None:
    """Rings are enabled by their kick then, and nothing is acknowledged."""
    plain = broken(vhost_user.GET_FEATURES, lambda r, p: reply(r, U64.pack(1 << 32)))
    peer, other = joined(plain)
    peer.begin(WANTED)
    assert (peer.protocol, peer.queue_count(), peer.config(60)) == (0, 1, b"")
    queue: Any = OffloadedQueue(0, 64, 0x1000, 0x2000, 0x3000, 0, None, lambda: None)  # type: ignore[arg-type]
    kick = os.eventfd(0)
    peer.start_queue(queue, kick, kick)
    peer.settle()
    assert vhost_user.SET_VRING_ENABLE not in [request for request, *_ in other.heard]
    assert not any(flags & vhost_user.NEED_REPLY for _, flags, _, _ in other.heard)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64))
def test_no_answer_does_more_than_end_the_connection(data: bytes) -> None:
    """Whatever comes, it is an error of one kind, and it comes soon."""
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    peer = VhostUser(ours.detach(), "it")
    with suppress(VhostUserError):
        peer.begin(WANTED)
    peer.close()
    theirs.close()
