"""User networking: how passt is started, and frames on its stream socket."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.backends import passt
from runner.backends.passt import LENGTH, StreamFrames
from runner.errors import HostError
from runner.graph.model import BackendClaim
from tests.unit.served_machine import PATIENCE, Machine


class Wire:
    """The card's end as :class:`StreamFrames`, the network's as a plain socket."""

    def __init__(self, buffer: int = 0) -> None:
        ours, self.network = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.machine = Machine(layout=((0, 1 << 20),))
        self.card: Any = StreamFrames("net.lan", ours.detach(), self.machine)  # type: ignore[arg-type]
        self.network.settimeout(PATIENCE)
        self.into = memoryview(bytearray(65600))
        self.readable = 0

    def received(self) -> list[bytes]:
        """All frames that are there now."""
        frames = []
        while size := self.card.receive(self.into):
            frames.append(bytes(self.into[:size]))
        return frames

    def close(self) -> None:
        os.close(self.card._fd)
        self.network.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(LENGTH, "big") + frame


frames_of = st.lists(
    st.tuples(st.integers(14, 3000) | st.integers(60000, 65553), st.binary(min_size=1, max_size=4)).map(
        lambda row: (row[1] * (row[0] // len(row[1]) + 1))[: row[0]]
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(
    frames_of,
    st.lists(st.integers(1, 20) | st.integers(1000, 70000), min_size=1).filter(lambda cuts: max(cuts) > 999),
)
def test_frames_come_whole_whatever_pieces_they_arrive_in(frames: list[bytes], cuts: list[int]) -> None:
    wire, stream, got, turn = Wire(), b"".join(map(framed, frames)), [], 0
    wire.network.setblocking(False)
    while stream:
        piece = stream[: cuts[turn % len(cuts)]]
        turn += 1
        with suppress(BlockingIOError):
            stream = stream[wire.network.send(piece) :]
        got += wire.received()
    assert got + wire.received() == frames
    wire.close()


@settings(max_examples=25, deadline=None)
@given(frames_of, st.lists(st.integers(2000, 60000), min_size=1))
def test_frames_go_whole_though_the_socket_takes_them_in_parts(frames: list[bytes], cuts: list[int]) -> None:
    """A frame that is taken is taken once; the rest of one goes by itself when there is room."""
    wire = Wire(buffer=4608)
    left, said, turn = list(frames), b"", 0
    total = sum(LENGTH + len(frame) for frame in frames)
    while len(said) < total:
        while left and wire.card.send([memoryview(left[0])[:7], memoryview(left[0])[7:]]):
            left.pop(0)
        said += wire.network.recv(cuts[turn % len(cuts)])
        turn += 1
        wire.machine.turn(0.0001)
    assert said == b"".join(map(framed, frames))
    wire.close()


def test_frames_in_the_buffer_are_told_of_though_the_socket_is_empty(wire: Wire) -> None:
    """The card takes one frame a call; the others came with it and no byte follows."""
    frames = [bytes([number]) * 60 for number in range(5)]
    got: list[bytes] = []

    def one() -> None:
        size = wire.card.receive(wire.into)
        if size:
            got.append(bytes(wire.into[:size]))

    wire.card.on_readable(one)
    wire.network.sendall(b"".join(map(framed, frames)))
    wire.machine.until(lambda: len(got) == len(frames))
    assert got == frames


def test_a_card_that_listens_no_more_is_not_called(wire: Wire) -> None:
    calls: list[int] = []
    wire.card.on_readable(lambda: calls.append(1))
    wire.card.on_readable(None)
    wire.network.sendall(framed(b"x" * 60) * 3)
    wire.machine.turn()
    assert calls == []
    wire.card.on_readable(lambda: calls.append(wire.card.receive(wire.into)))
    wire.machine.until(lambda: calls == [60, 60, 60])


@pytest.mark.parametrize("size", [0, 13, 65554, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_the_network_and_not_the_machine(wire: Wire, size: int) -> None:
    wire.network.sendall(framed(b"good" * 20) + size.to_bytes(4, "big") + b"x" * 100)
    assert wire.received() == [b"good" * 20]
    assert [event for _, event, _ in wire.machine.logged] == ["network-lost"]
    assert str(size) in str(wire.machine.logged[0])
    assert wire.card.send([memoryview(b"y" * 60)]), "the guest's frames go nowhere, and nothing waits"
    wire.network.sendall(framed(b"more" * 20))
    assert wire.received() == []


def test_a_frame_that_the_card_has_no_room_for_is_dropped_alone(wire: Wire) -> None:
    wire.network.sendall(framed(b"a" * 2000) + framed(b"b" * 60))
    into = memoryview(bytearray(1514))
    assert (wire.card.receive(into), bytes(into[:60])) == (60, b"b" * 60)


def test_a_network_that_hangs_up_is_lost_and_who_waits_for_it_is_woken(wire: Wire) -> None:
    woken: list[bool] = []
    while wire.card.send([memoryview(b"x" * 60000)]):
        pass
    wire.card.on_writable(lambda: woken.append(True))
    wire.machine.turn()
    assert woken == []
    wire.network.close()
    wire.machine.until(lambda: woken)
    assert wire.card.send([memoryview(b"x" * 60)])
    assert len(wire.machine.logged) == 1


def test_who_waits_for_room_is_woken_when_the_stream_turns_out_to_be_nonsense(wire: Wire) -> None:
    """The socket stays full: nothing but the loss itself would wake the card."""
    woken: list[bool] = []
    while wire.card.send([memoryview(b"x" * 60000)]):
        pass
    wire.card.on_writable(lambda: woken.append(True))
    wire.network.sendall(bytes(4))
    assert wire.received() == []
    wire.machine.until(lambda: woken)


def test_room_is_told_of_once_the_rest_has_gone(wire: Wire) -> None:
    woken: list[bool] = []
    while wire.card.send([memoryview(b"x" * 60000)]):
        pass
    wire.card.on_writable(lambda: woken.append(True))
    wire.network.settimeout(PATIENCE)
    drained = b""
    while not woken:
        drained += wire.network.recv(1 << 20)
        wire.machine.turn(0.001)
    assert wire.card.send([memoryview(b"x" * 60)])


# ---- the program


def claim(**options: Any) -> BackendClaim:
    return BackendClaim("net.lan", "passt", options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["--mtu", "1500"]),
        ({"mtu": 65535}, ["--mtu", "65520"]),
        (
            {"forwards": [{"protocol": "tcp", "address": "127.0.0.1", "host": 2222, "guest": 22}]},
            ["--tcp-ports", "127.0.0.1/2222:22"],
        ),
        (
            {"forwards": [{"protocol": "udp", "address": "::1", "host": 5353, "guest": 53}]},
            ["--udp-ports", "::1/5353:53"],
        ),
    ],
)
def test_the_definition_in_passts_words(options: dict[str, Any], words: list[str]) -> None:
    said = passt.arguments(claim(**options), 7, 8)
    assert said[said.index("--fd") + 1] == "7"
    place = said.index(words[0])
    assert said[place : place + 2] == words
    assert "--foreground" in said


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``script(text)`` is what runs as passt."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(text: str) -> None:
        (tmp_path / "passt").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "passt").chmod(0o755)

    return write


READY = 'while [ "$1" != --pid ]; do shift; done; echo $$ > $2; '


def test_it_is_there_when_it_has_written_its_pid(script: Any) -> None:
    script(READY + "exec sleep 30")
    opened = passt.open_host(claim(), None)  # type: ignore[arg-type]
    (helper,) = opened.helpers
    assert not helper.fatal, "a guest can live without its network"
    assert not helper.has_ended()
    assert list(opened.fds) == ["net.lan"]
    opened.close()
    assert not os.path.exists(f"/proc/{helper.pid}")


@pytest.mark.parametrize(
    ("says", "hint"),
    [
        ("Failed to bind any port for '-t 22', exiting", "ss -lntup"),
        ("No routable interface", "default route"),
        ("who knows", ""),
    ],
)
def test_why_it_would_not_start_is_told_with_a_way_out(script: Any, says: str, hint: str) -> None:
    script(f'echo "{says}" >&2; exit 1')
    gc.collect()  # what earlier tests left to the collector is not counted
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError) as raised:
        passt.open_host(claim(), None)  # type: ignore[arg-type]
    assert str(raised.value) == f"net.lan: passt exited with 1: {says}"
    assert hint in raised.value.hint
    assert len(os.listdir("/proc/self/fd")) <= before


def test_one_that_is_never_ready_is_not_waited_for_for_ever(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passt, "START_SECONDS", 0.2)
    script("exec sleep 30")
    with pytest.raises(HostError, match="not ready"):
        passt.open_host(claim(), None)  # type: ignore[arg-type]


def test_a_missing_passt_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as raised:
        passt.open_host(claim(), None)  # type: ignore[arg-type]
    assert raised.value.hint == "apt-get install --no-install-recommends passt"
