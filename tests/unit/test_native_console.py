"""A console's transmit queue in C: output is always taken, arrives in order, and hostile rings end it."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from runner.host import console as native
from runner.host.console import TransmitQueue
from runner.host.native._native import lib
from runner.host.ring import RingAddresses
from tests.unit.native_ring import ATTACKS, AVAIL, DATA, DESC, NEXT, RAM, SIZE, USED, WRITE, NativeRing

OUTPUT_RING = 64 << 10
LARGEST_REQUEST = 1 << 20
MINUTE_NS, MINUTE_MS = 60 * 10**9, 60_000
NO_INTERRUPT = NO_NOTIFY = 1


class Console(NativeRing):
    """A driver of the queue, and the socket's other end."""

    def __init__(self, kind: int = socket.SOCK_STREAM) -> None:
        super().__init__()
        self.sink, self.reader = socket.socketpair(socket.AF_UNIX, kind)
        self.sink.setblocking(False)
        self.reader.settimeout(10)
        self.queue = TransmitQueue(self.ram, self.sink.fileno())

    def start(self, size: int = SIZE) -> Console:
        self.queue.start(
            RingAddresses(1, size, DESC, AVAIL, USED), kick=self.kick, call=self.call, indirect=True,
            event_idx=False, on_broken=self.on_broken,
        )  # fmt: skip
        return self

    def put(self, head: int, data: bytes) -> int:
        """Put the bytes where descriptor ``head`` is."""
        self.ram.write(DATA + 0x10000 * head, data)
        self.desc(head, DATA + 0x10000 * head, len(data))
        return head

    def say(self, data: bytes, ring: bool = True) -> None:
        """One buffer, until it has come back, as Linux' console does it."""
        before = self.used
        self.offer(self.put(0, data), ring=ring)
        self.until(lambda: self.used != before)

    @staticmethod
    def until(done) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.reader.recv(count - len(data))
        return data

    def nothing_more(self, seconds: float = 0.05) -> bool:
        return not select.select([self.reader], [], [], seconds)[0]

    def fill(self) -> int:
        """Till the socket takes no more; how many bytes it has."""
        taken = 0
        while True:
            try:
                taken += self.sink.send(b"-" * 4096)
            except BlockingIOError:
                return taken

    def close(self) -> None:
        self.reader.close()
        self.queue.stop()
        self.sink.close()
        self.close_ring()


def spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues that look at their ring for a minute before they sleep."""
    monkeypatch.setattr(native, "SPIN_NS", MINUTE_NS)


@pytest.fixture
def console() -> Iterator[Console]:
    made = Console()
    yield made.start()
    made.close()


def test_output_arrives_in_order(console: Console) -> None:
    """Buffers of several parts, many, and more than the ring of output has room for."""
    expected = b""
    for number in range(300):
        parts = [bytes((number & 255,)) * (1 + 37 * number % 900), b"\n"]
        console.put(1, parts[1])
        console.ram.write(DATA, parts[0])
        console.desc(0, DATA, len(parts[0]), NEXT, 1)
        before = console.used
        console.offer(0)
        console.until(lambda seen=before: console.used != seen)
        expected += b"".join(parts)
    assert console.read(len(expected)) == expected
    assert console.queue._native.out.dropped == 0


def test_what_is_offered_at_once_is_sent_at_once() -> None:
    """A message a wake-up of the reader, not one a buffer of 16 bytes."""
    console = Console(socket.SOCK_SEQPACKET)
    console.offer(*(console.put(head, bytes((48 + head,)) * 16) for head in range(SIZE)))
    console.start()
    assert console.reader.recv(4096) == b"".join(bytes((48 + head,)) * 16 for head in range(SIZE))
    console.close()


def test_output_of_a_driver_that_never_pauses_arrives_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue never idles, and the bytes are fewer than a batch."""
    spinning(monkeypatch)
    console = Console().start()
    console.say(b"soon")
    assert console.read(4) == b"soon"
    console.close()


def test_a_driver_is_not_interrupted_for_each_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it writes on; but it hears before its ring is full, since it may wait for room."""
    spinning(monkeypatch)
    console = Console().start()
    for _ in range(SIZE // 2 - 1):
        console.say(b"x")
    assert not console.interrupted(0.1)
    console.say(b"x")
    assert console.interrupted()
    console.close()


def test_a_driver_that_pauses_is_interrupted(console: Console) -> None:
    """Whoever sleeps until the buffer comes back."""
    console.say(b"x")
    assert console.interrupted()


def test_a_driver_that_wants_no_interrupt_gets_none(console: Console) -> None:
    """§2.7.7: it has said so in the available ring."""
    console.ram.write(AVAIL, struct.pack("<H", NO_INTERRUPT))
    console.say(b"x")
    assert not console.interrupted(0.1)


def test_the_doorbell_is_for_a_queue_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that writes on saves its exits; after a pause it rings."""
    spinning(monkeypatch)
    looking = Console().start()
    looking.until(lambda: looking.ram.read(USED, 2) == struct.pack("<H", NO_NOTIFY))
    looking.say(b"x", ring=False)
    looking.close()
    monkeypatch.setattr(native, "SPIN_NS", 0)
    sleeping = Console().start()
    sleeping.until(lambda: sleeping.ram.read(USED, 2) == bytes(2))
    sleeping.say(b"x")
    sleeping.close()


# ---- device-bugs 16


def test_row_16_a_stalled_reader_never_stalls_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device-bugs 16: its patience is spent once; the ring keeps the newest 64 KiB, and drops are counted."""
    monkeypatch.setattr(native, "PATIENCE_MS", 300)
    console = Console().start()
    inside = console.fill()
    began = time.monotonic()
    for number in range(OUTPUT_RING // 4096):
        console.say(bytes((number,)) * 4096)
    full = time.monotonic()
    console.say(b"a" * 4096)
    waited = time.monotonic()
    for number in range(100):
        console.say(bytes((number,)) * 4096)
    ended = time.monotonic()
    assert waited - full > 0.25
    assert max(full - began, ended - waited) < 10  # a hundred times the patience would be 30
    assert console.queue._native.out.dropped == 101 * 4096
    console.read(inside)
    assert console.read(OUTPUT_RING) == b"".join(bytes((number,)) * 4096 for number in range(84, 100))
    console.close()


def test_a_reader_that_only_lags_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is held up until there is room, time after time, as long as something is read."""
    monkeypatch.setattr(native, "PATIENCE_MS", MINUTE_MS)
    console = Console().start()
    size, got = 4 << 20, []
    reader = threading.Thread(target=lambda: got.append(console.read(size)))
    reader.start()
    for number in range(size // 32768):
        console.say(bytes((number & 255,)) * 32768)
    reader.join(20)
    assert got == [b"".join(bytes((number & 255,)) * 32768 for number in range(size // 32768))]
    assert console.queue._native.out.dropped == 0
    console.close()


def test_a_reset_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """However patient the queue is, and though the driver's ring is full."""
    monkeypatch.setattr(native, "PATIENCE_MS", MINUTE_MS)
    console = Console()
    console.fill()
    console.start()
    console.offer(*(console.put(head, bytes(60_000)) for head in range(SIZE)))
    time.sleep(0.1)
    assert console.used == 1
    began = time.monotonic()
    console.queue.stop()
    assert time.monotonic() - began < 10
    console.close()


def test_row_16_an_enormous_request_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device-bugs 16: at most 1 MiB of one request is looked at; the rest counts as dropped."""
    monkeypatch.setattr(native, "PATIENCE_MS", MINUTE_MS)
    console = Console()
    size = RAM - DATA
    for head in range(2):
        console.desc(head, DATA, size, NEXT if head == 0 else 0, 1)
    console.offer(0)
    console.start()
    assert console.read(LARGEST_REQUEST) == bytes(LARGEST_REQUEST)
    assert console.nothing_more()
    assert console.queue._native.out.dropped == 2 * size - LARGEST_REQUEST
    console.close()


def test_a_supervisor_that_has_gone_holds_nobody_up(console: Console) -> None:
    """Its end is closed: output goes nowhere, and no signal ends us."""
    console.reader.close()
    for _ in range(40):
        console.say(b"z" * 8192)


# ---- beginnings and ends


def test_the_last_words_of_a_guest_go_out() -> None:
    """What has been offered when the machine halts, rung for or not, and what the socket had no room for."""
    console = Console().start()
    console.say(b"first ")
    inside = console.fill()
    console.offer(*(console.put(head, b"%d" % head) for head in range(SIZE)), ring=False)
    got: list[bytes] = []
    reader = threading.Timer(0.1, lambda: got.append(console.read(6 + inside + SIZE)))
    reader.start()
    console.queue.flush()
    reader.join()
    assert got[0].endswith(b"-01234567")
    console.close()


def test_what_waits_at_a_reset_is_not_lost() -> None:
    """It goes out before what the next driver says."""
    console = Console().start()
    inside = console.fill()
    console.say(b"before ")
    console.queue.stop()
    console.ram.write(AVAIL, bytes(64))
    console.ram.write(USED, bytes(128))
    console.index = 0
    console.read(inside)
    console.start()
    console.say(b"after")
    assert console.read(12) == b"before after"
    console.close()


def test_bytes_beside_the_queue_are_in_order_with_it(console: Console) -> None:
    """§5.3.4: emergency writes, while the queue is served, and when nobody serves it."""
    console.say(b"one ")
    assert console.queue.say(b"two ") == 4
    assert console.read(8) == b"one two "
    assert console.queue.say(b"three ") == 6
    console.queue.stop()
    assert console.queue.say(b"four") == 4
    assert console.read(10) == b"three four"


def test_bytes_beside_the_queue_are_bounded() -> None:
    """Nobody hears them: what is beyond their room is refused."""
    console = Console()
    assert [lib.vmrun_console_say(console.queue._native, 120) for _ in range(70)] == [1] * 64 + [0] * 6
    console.queue.flush()
    assert console.read(64) == b"x" * 64
    console.close()


# ---- hostile rings


@pytest.mark.parametrize(("attack", "number"), ATTACKS)
def test_a_broken_rule_ends_the_queue_with_its_errno(console: Console, attack, number) -> None:  # type: ignore[no-untyped-def]
    """Device-bugs 1, 2, 4 and 5, and what has been said before arrives."""
    console.say(b"good")
    attack(console)
    assert console.told.wait(10)
    assert console.broken == [number]
    assert console.read(4) == b"good"


def test_buffers_to_write_to_are_left_alone(console: Console) -> None:
    """A device-writable buffer has no business in this queue: it comes back untouched."""
    console.ram.write(DATA, b"keep")
    console.desc(0, DATA, 4, WRITE)
    console.offer(0)
    console.until(lambda: console.used == 1)
    assert console.ram.read(DATA, 4) == b"keep"
    assert console.nothing_more()


@pytest.mark.parametrize("address", [2 << 20, 0xFFFFFFFFFFFFF000])
def test_a_ring_outside_ram_is_refused(address: int) -> None:
    """Device-bugs 5."""
    console = Console()
    with pytest.raises(OSError, match="queue 1"):
        console.queue.start(
            RingAddresses(1, SIZE, address, AVAIL, USED), kick=console.kick, call=console.call,
            indirect=True, event_idx=False, on_broken=console.on_broken,
        )  # fmt: skip
    console.close()


def test_a_driver_that_never_ceases_cannot_keep_the_queue_from_its_end() -> None:
    """Its ring is never empty: what comes back is offered again at once."""
    console, size = Console(), 256
    for head in range(size):
        console.desc(head, DATA, RAM - DATA)
    console.ram.write(AVAIL + 4, struct.pack(f"<{size}H", *range(size)))
    console.start(size)
    over = threading.Event()

    def flood() -> None:
        deadline = time.monotonic() + 10
        while not over.is_set() and time.monotonic() < deadline:
            console.index = console.used + size
            console.offer()

    driver = threading.Thread(target=flood)
    driver.start()
    time.sleep(0.1)
    before = console.used
    console.queue.stop()
    taken = console.used - before
    over.set()
    driver.join()
    console.close()
    assert taken <= 8 * size


def test_a_sleeping_queue_costs_nothing(console: Console) -> None:
    """Nothing to do, and then a reader that takes nothing: the thread sleeps through both."""
    console.say(b"x")
    assert console.read(1) == b"x"
    time.sleep(0.05)
    for _ in range(2):
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.02
        console.fill()
        console.say(b"waits")
        time.sleep(0.05)


def test_a_full_socket_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a millisecond, and not for every buffer of a driver that writes on."""
    spinning(monkeypatch)
    monkeypatch.setattr(native, "PATIENCE_MS", 0)
    console = Console()
    console.ram.write(AVAIL, struct.pack("<H", NO_INTERRUPT))
    console.fill()
    console.start()
    for _ in range(OUTPUT_RING // 4096):
        console.say(bytes(4096))
    before, began = writes(), time.monotonic()
    console.put(0, b"0123456789abcdef")
    for _ in range(3000):
        console.offer(0, ring=False)
        while console.used != console.index & 0xFFFF:
            pass
    assert writes() - before <= 1000 * (time.monotonic() - began) + 10
    console.close()


def writes() -> int:
    """How many system calls of this process have written."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("syscw"))
