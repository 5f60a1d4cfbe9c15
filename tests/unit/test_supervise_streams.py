"""Loop, inlets, outlets and consoles on real descriptors; no process is started."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.host import unix_socket
from runner.supervisor.console import Console
from runner.supervisor.expectation_watch import ExpectationWatch
from runner.supervisor.inlet import Inlet
from runner.supervisor.keys import COMMANDS, Keys
from runner.supervisor.loop import Loop
from runner.supervisor.outlet import Outlet, nonblocking
from runner.supervisor.panic_watch import PanicWatch
from runner.supervisor.standard_output import patient
from runner.supervisor.tail import Tail


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_timers_fire_in_order_and_a_cancelled_one_never() -> None:
    loop, seen = Loop(), []
    loop.after(0.02, lambda: seen.append("late"))
    loop.after(0.0, lambda: seen.append("early"))
    loop.after(0.01, lambda: seen.append("never")).cancel()
    while len(seen) < 2:
        loop.turn()
    assert seen == ["early", "late"]


def test_a_descriptor_that_a_callback_has_given_up_is_not_called_in_the_same_turn() -> None:
    loop, seen = Loop(), []
    first, second = os.pipe(), os.pipe()
    for reader, writer in (first, second):
        os.write(writer, b"x")
        other = second[0] if reader == first[0] else first[0]
        loop.on_readable(reader, lambda reader=reader, other=other: (seen.append(reader), loop.forget(other)))  # type: ignore[misc]
    loop.turn()
    assert len(seen) == 1
    for fd in (*first, *second):
        os.close(fd)


def test_a_loop_without_timers_sleeps_until_something_happens(pipe: tuple[int, int]) -> None:
    loop, seen = Loop(), []
    loop.on_readable(pipe[0], lambda: seen.append(os.read(pipe[0], 10)))
    os.write(pipe[1], b"hi")
    loop.turn()
    assert seen == [b"hi"]


def test_regular_files_and_dev_null_can_be_watched() -> None:
    """epoll would refuse both with EPERM."""
    loop, seen = Loop(), []
    fd = os.open("/dev/null", os.O_RDONLY)
    inlet = Inlet(loop, fd, seen.append, seen.append)
    inlet.want(True)
    loop.turn()
    assert seen == [None]
    os.close(fd)


def test_a_hangup_is_told_while_nothing_is_to_be_written(pipe: tuple[int, int]) -> None:
    loop, seen = Loop(), []
    loop.on_hangup(pipe[1], lambda: (seen.append("gone"), loop.forget(pipe[1])))
    os.close(pipe[0])
    loop.turn()
    assert seen == ["gone"]


def test_an_outlet_drops_the_oldest_and_counts_it(pipe: tuple[int, int]) -> None:
    loop = Loop()
    outlet = Outlet(loop, pipe[1], nonblocking(pipe[1]), lambda error: None, limit=1000)
    full = 0
    while outlet.waiting == 0:
        outlet.write(b"a" * 4096)
        full += 4096
    outlet.write(b"b" * 600)
    outlet.write(b"c" * 700)
    assert outlet.waiting == 1000
    got = b""
    while len(got) + outlet.dropped < full + 1300:
        if select.select([pipe[0]], [], [], 0)[0]:
            got += os.read(pipe[0], 65536)
        loop.after(0, lambda: None)
        loop.turn()
    assert got.endswith(b"b" * 300 + b"c" * 700)
    assert outlet.waiting == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.integers(1, 500))
def test_an_outlet_never_holds_more_than_its_limit_and_every_byte_is_sent_or_counted(
    pieces: list[bytes], limit: int
) -> None:
    taken = bytearray()
    room = [100]

    def write(data: bytes) -> int:
        count = min(room[0], len(data))
        room[0] -= count
        taken.extend(data[:count])
        return count

    reader, writer = os.pipe()
    outlet = Outlet(Loop(), writer, write, lambda error: None, limit=limit)
    for piece in pieces:
        outlet.write(piece)
        assert outlet.waiting <= limit
    total = sum(map(len, pieces))
    assert len(taken) + outlet.waiting + outlet.dropped == total
    os.close(reader)
    os.close(writer)


def test_a_broken_outlet_is_told_once_and_counts_what_follows(pipe: tuple[int, int]) -> None:
    seen: list[OSError] = []
    outlet = Outlet(Loop(), pipe[1], nonblocking(pipe[1]), seen.append)
    os.close(pipe[0])
    outlet.write(b"abc")
    outlet.write(b"def")
    assert [type(error) for error in seen] == [BrokenPipeError]
    assert outlet.dropped == 6


def test_patient_writes_never_block_on_a_shared_full_pipe() -> None:
    reader, writer = os.pipe()
    write = patient(writer, 4096)
    sent = 0
    while taken := write(b"x" * 10_000):
        sent += taken
    assert sent >= 4096
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        write(b"x")
    os.close(writer)


def opened() -> tuple[Loop, Console, int, Recorder]:
    """A console that is pumped, the guest's end of its line, and an endpoint of it."""
    loop, end = Loop(), Recorder()
    ours, theirs = unix_socket.pair()
    console = Console("serial", ours)
    console.endpoints.append(end)
    console.open(loop)
    return loop, console, theirs, end


def test_a_console_keeps_its_tail_and_feeds_every_endpoint() -> None:
    loop, console, theirs, first = opened()
    second = Recorder()
    console.add(second)
    os.write(theirs, b"hello")
    loop.turn()
    assert (first.got, second.got, console.tail.last()) == (b"hello", b"hello", b"hello")
    console.remove(second)
    os.write(theirs, b"!")
    loop.turn()
    assert (first.got, second.got) == (b"hello!", b"hello")
    os.close(theirs)
    console.close()


def test_input_stops_while_the_guest_does_not_take_it_and_none_is_lost() -> None:
    loop, console, theirs, source = opened()
    fed = 0
    while source.wanted:
        console.feed(b"x" * 65536)
        fed += 65536
    got = 0
    while got < fed:
        got += len(os.read(theirs, 65536))
        loop.after(0, lambda: None)
        loop.turn()
    assert source.wanted
    os.close(theirs)
    console.close()


def test_a_console_survives_the_death_of_its_guest_and_gives_out_the_rest() -> None:
    _, console, theirs, end = opened()
    os.write(theirs, b"last words")
    os.close(theirs)
    console.drain()
    console.feed(b"too late")
    assert end.got == b"last words"
    assert console.ended


def test_the_last_words_are_a_consoles_unless_only_a_port_has_said_something() -> None:
    """A port's bytes are data, however many they are."""
    serial, port = Console("serial", -1), Console("console.agent", -1)
    port.tail.add(b"\0" * 1000)
    assert max((serial, port), key=lambda each: each.eloquence) is port
    serial.tail.add(b"oops")
    assert max((serial, port), key=lambda each: each.eloquence) is serial


def test_a_tail_keeps_the_last_bytes_and_counts_all() -> None:
    tail = Tail(keep=10)
    for number in range(100):
        tail.add(b"%02d" % number)
    assert tail.last() == b"9596979899"
    assert tail.total == 200


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_a_tail_is_the_end_of_everything(pieces: list[bytes]) -> None:
    tail = Tail(keep=32)
    for piece in pieces:
        tail.add(piece)
    assert tail.last() == b"".join(pieces)[-32:]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_keys_come_out_the_same_however_they_are_split(typed: bytes, cuts: list[int]) -> None:
    """A Ctrl-A may be the last byte of one read and its letter the first of the next."""
    edges = [0, *sorted(min(cut, len(typed)) for cut in cuts), len(typed)]
    split = Keys()
    pieces = [part for low, high in itertools.pairwise(edges) for part in split.feed(typed[low:high])]
    assert _joined(pieces) == _joined(Keys().feed(typed))


def test_ctrl_a_and_a_letter_is_a_command_and_never_reaches_the_guest() -> None:
    assert Keys().feed(b"ls\x01xpwd") == [b"ls", "end", b"pwd"]
    assert Keys().feed(b"\x01a\x01\x01") == [b"\x01\x01"]
    assert Keys().feed(b"\x01\x07") == ["help"]
    assert set(COMMANDS.values()) >= {"end", "help", "power-button"}


@given(st.integers(1, 40))
def test_a_panics_closing_line_is_seen_however_it_is_cut(size: int) -> None:
    text = b"[ 1.0] x\r\n[ 1.1] ---[ end Kernel panic - not syncing: VFS: no root ]---\r\n"
    watch = PanicWatch()
    results = [watch.add(text[at : at + size]) for at in range(0, len(text), size)]
    assert results[-1]
    assert not watch.add(b"# ")


def test_a_panic_that_something_follows_is_none() -> None:
    watch = PanicWatch()
    assert not watch.add(b"---[ end Kernel panic - not syncing: x ]---\r\nlogin: ")


@given(st.integers(1, 30))
def test_expected_texts_are_seen_however_they_are_cut(size: int) -> None:
    text = b"Debian GNU/Linux 12\r\nbox login: "
    watch = ExpectationWatch(("login:", "Debian"))
    done = [watch.add("serial", text[at : at + size]) for at in range(0, len(text), size)]
    assert done.count(True) == 1
    assert sorted(watch.seen) == ["Debian", "login:"]


def test_an_expected_text_is_not_put_together_from_two_consoles() -> None:
    watch = ExpectationWatch(("login:",))
    watch.add("serial", b"log")
    assert not watch.add("console", b"in:")
    assert watch.add("serial", b"in:")


def test_ten_megabytes_pass_a_console_in_little_cpu_time() -> None:
    """The supervisor's share of a flooding guest: a fifth of a second of CPU at most."""
    loop, console, theirs, end = opened()
    began = time.process_time()
    for _ in range(160):
        os.write(theirs, bytes(65536))
        loop.turn()
    assert len(end.got) > 10_000_000
    assert time.process_time() - began < 0.2
    os.close(theirs)
    console.close()


class Recorder:
    """An endpoint that remembers."""

    dropped = 0

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.wanted = False

    @property
    def got(self) -> bytes:
        return b"".join(self.pieces)

    def open(self, loop: Loop, feed: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def want_input(self, wanted: bool) -> None:
        self.wanted = wanted

    def waiting(self) -> int:
        return 0

    def close(self) -> None:
        pass


def _joined(parts: list[bytes | str]) -> list[bytes | str]:
    out: list[bytes | str] = []
    for part in parts:
        if isinstance(part, bytes) and out and isinstance(out[-1], bytes):
            out[-1] += part
        elif part:
            out.append(part)
    return out
