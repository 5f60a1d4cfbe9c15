"""The 16550A: what Linux's probe expects, the data sheet's rules, and that no guest can grow or stall it."""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.host.native._native import ffi, lib
from runner.host.uart import NativeUart

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
OUT2, LOOP = 0x08, 0x10
INPUT_RING, OUTPUT_RING = int(lib.VMRUN_UART_INPUT), int(lib.VMRUN_OUTLET)
FOR_EVER = 1 << 62
RING = struct.Struct("<II")  # struct kvm_coalesced_mmio_ring: first, last
ENTRY = struct.Struct("<QII8s")  # struct kvm_coalesced_mmio: phys_addr, len, pio, data
ENTRIES = (os.sysconf("SC_PAGE_SIZE") - RING.size) // ENTRY.size


class Loop:
    """An event loop that turns when it is told to, and whose timers are due when it is told so."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.planned: list[Callable[[], None]] = []

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> int:
        self.planned.append(callback)
        return len(self.planned)

    def cancel(self, timer: int) -> None:
        raise AssertionError("a serial port cancels no timer")

    def turn(self) -> None:
        for fd in select.select(list(self.readers), [], [], 0)[0]:
            self.readers[fd]()

    def wait(self) -> None:
        """The time has passed for which a look was planned."""
        self.turn()
        due, self.planned = self.planned, []
        for callback in due:
            callback()


class Port:
    """A port whose line is a pipe of one page."""

    def __init__(self) -> None:
        self._out, sink = os.pipe2(os.O_NONBLOCK)
        self._sink = sink
        self.loop = Loop()
        self.uart = NativeUart(sink, self.loop)
        self.native = self.uart.native

    def close(self) -> None:
        for fd in (self._out, self._sink, *self.loop.readers):
            os.close(fd)

    def read(self, register: int) -> int:
        return int(lib.vmrun_uart_read(self.native, register))

    def write(self, register: int, value: int) -> None:
        lib.vmrun_uart_write(self.native, register, value)

    def say(self, text: bytes) -> None:
        for byte in text:
            self.write(DATA, byte)

    @property
    def level(self) -> bool:
        return bool(self.native.asserted)

    def taken(self, most: int = 1 << 20) -> bytes:
        """What has come out at the other end; what is not read stays in the way."""
        try:
            return os.read(self._out, most)
        except BlockingIOError:
            return b""

    def clog(self) -> int:
        """Fill the pipe; how many bytes that takes."""
        return os.write(self._sink, bytes(1 << 20))

    def all_taken(self) -> bytes:
        """What comes out when the reader takes all there is, and the timer its turns."""
        said = b""
        while data := self.taken() or self._after_a_while():
            said += data
        return said

    def _after_a_while(self) -> bytes:
        self.loop.wait()
        return self.taken()


@pytest.fixture
def port():
    made = Port()
    yield made
    made.close()


def test_probe_of_linux_finds_a_16550a(port) -> None:
    """The steps of autoconfig() in drivers/tty/serial/8250/8250_port.c end at "16550A"."""
    port.write(IER, 0)
    assert port.read(IER) == 0
    port.write(IER, 0x0F)
    assert port.read(IER) == 0x0F
    port.write(IER, 0)
    port.write(MCR, LOOP | 0x08 | 0x02)
    assert port.read(MSR) & 0xF0 == 0x90, "loopback shows OUT2 as DCD and RTS as CTS"
    port.write(MCR, 0)
    port.write(LCR, 0xBF)
    port.write(FCR, 0)
    port.write(LCR, 0)
    port.write(FCR, 1)
    assert port.read(IIR) & 0xC0 == 0xC0, "FIFOs are there and enabled"
    port.write(LCR, 0x80)
    assert port.read(2) != 0, "no extended feature register: not a 16650"
    port.write(LCR, 0)
    port.write(FCR, 1 | 0x20)
    assert port.read(IIR) >> 5 == 6, "no 64-byte FIFO: not a 16750"


def test_probe_of_linux_trusts_the_transmitter_interrupt(port) -> None:
    """serial8250_THRE_test: switching THRE interrupts on while empty asserts again and again."""
    port.write(MCR, OUT2)
    for _ in range(2):
        port.write(IER, 0x02)
        assert port.level
        assert port.read(IIR) & 0x0F == 0x02
        assert not port.level, "reading IIR withdraws it"
        port.write(IER, 0)


def test_scratch_and_divisor_keep_what_was_written(port) -> None:
    """The scratch register is memory, and DLAB uncovers the divisor without touching IER."""
    port.write(SCR, 0x5A)
    port.write(IER, 0x05)
    port.write(LCR, 0x83)
    port.write(0, 0x34)
    port.write(1, 0x12)
    assert (port.read(0), port.read(1), port.read(SCR)) == (0x34, 0x12, 0x5A)
    port.write(LCR, 0x03)
    assert port.read(IER) == 0x05
    assert port.all_taken() == b""


def test_output_goes_at_once_with_its_newline(port) -> None:
    port.say(b"hello\n")
    assert port.taken() == b"hello\n"


def test_many_lines_in_a_row_wake_the_reader_once_in_a_while(port) -> None:
    """The first line goes at once; the following ones wait, or go when they are many."""
    port.say(b"first\n")
    port.native.linger_ns = FOR_EVER
    assert port.taken() == b"first\n"
    port.say(b"second\nthird\n")
    assert port.taken() == b""
    port.loop.wait()
    assert port.taken() == b"second\nthird\n"
    port.say(b"x" * 4095)
    assert port.taken() == b""
    port.say(b"y")
    assert port.taken() == b"x" * 4095 + b"y"


def test_output_without_a_newline_goes_after_a_moment(port) -> None:
    """A prompt is shown though no newline follows it; nothing wakes the host when there is nothing to say."""
    port.say(b"login: ")
    assert port.taken() == b""
    port.loop.wait()
    assert port.taken() == b"login: "
    port.loop.turn()
    assert port.loop.planned == []


def test_transmitter_interrupt_rises_again_after_each_service(port) -> None:
    """An edge-triggered line sees a rise for each time the guest has answered the last one."""
    port.write(MCR, OUT2)
    port.write(IER, 0x02)
    for _ in range(3):
        assert port.level
        assert port.read(IIR) & 0x0F == 0x02
        assert not port.level
        port.say(b"x" * 16)
    assert port.level


def test_out2_gates_the_line_as_on_a_pc(port) -> None:
    """Without OUT2 nothing reaches the interrupt controller."""
    port.write(IER, 0x01)
    port.uart.feed(b"x")
    assert not port.level
    port.write(MCR, OUT2)
    assert port.level


def test_input_is_read_in_order_and_says_when_there_is_room(port) -> None:
    """What was fed comes out once, the line falls with the last byte, and a refused feeder is told."""
    told: list[int] = []
    port.uart.on_room = lambda: told.append(True)
    port.write(FCR, 0x01)
    port.write(MCR, OUT2)
    port.write(IER, 0x01)
    assert port.uart.feed(b"ab") == 2
    assert port.read(LSR) & 1
    assert (port.read(DATA), port.level) == (ord("a"), True)
    assert (port.read(DATA), port.level) == (ord("b"), False)
    assert port.read(LSR) & 1 == 0
    assert port.read(DATA) == 0
    port.loop.turn()
    assert told == [], "nobody was refused"
    assert port.uart.feed(b"x" * (INPUT_RING + 5)) == INPUT_RING
    assert port.uart.feed(b"y") == 0
    for _ in range(INPUT_RING - 1):
        port.read(DATA)
    port.loop.turn()
    assert told == [], "it has not run empty"
    port.read(DATA)
    port.loop.turn()
    assert told == [True]


def test_trigger_level_decides_between_data_and_timeout(port) -> None:
    """Below the trigger level waiting bytes are told as a character timeout (data sheet 8.6)."""
    port.write(FCR, 0x81)
    port.write(IER, 0x01)
    port.uart.feed(b"1234567")
    assert port.read(IIR) & 0x0F == 0x0C
    port.uart.feed(b"8")
    assert port.read(IIR) & 0x0F == 0x04
    port.write(FCR, 0x80)
    port.uart.feed(b"9")
    assert port.read(IIR) == 0x04, "without FIFOs one byte is enough"


def test_loopback_returns_bytes_and_cuts_the_line_off(port) -> None:
    """In loopback the guest hears itself, the host neither hears nor is heard, and overruns are told."""
    told: list[bool] = []
    port.uart.on_room = lambda: told.append(True)
    port.write(FCR, 0x01)
    port.write(MCR, LOOP)
    port.say(b"0123456789abcdefX")
    assert port.uart.feed(b"host") == 0
    port.write(IER, 0x04)
    assert port.read(IIR) & 0x0F == 0x06
    assert port.read(LSR) & 0x02, "the seventeenth byte overran"
    assert port.read(LSR) & 0x02 == 0
    assert bytes(port.read(DATA) for _ in range(16)) == b"0123456789abcdef"
    assert port.all_taken() == b""
    assert told == []
    port.write(MCR, 0)
    port.loop.turn()
    assert told, "the feeder is told that the line is back"


def test_modem_lines_change_once(port) -> None:
    """A change shows in the delta bits until MSR is read."""
    port.write(MCR, LOOP)
    port.write(IER, 0x08)
    assert port.read(IIR) & 0x0F == 0x00
    assert port.read(MSR) & 0x0B == 0x0B, "CTS, DSR and DCD went away"
    assert port.read(MSR) & 0x0F == 0
    port.write(MCR, LOOP | 0x04)
    assert port.read(MSR) & 0x04 == 0, "RI tells its trailing edge only"
    port.write(MCR, LOOP)
    assert port.read(MSR) & 0x04


def test_clearing_the_fifo_takes_no_more_than_the_fifo(port) -> None:
    """What waits behind the 16 bytes of the FIFO is still on its way and survives."""
    port.write(FCR, 0x01)
    port.uart.feed(bytes(range(20)))
    port.write(FCR, 0x03)
    assert bytes(port.read(DATA) for _ in range(4)) == bytes(range(16, 20))


def test_output_ring_is_bounded_and_keeps_the_last_words(port) -> None:
    """device-bugs 16: a reader that takes nothing costs at most the ring, and the newest bytes survive."""
    in_the_pipe = port.clog()
    port.say(b"first" + b"." * OUTPUT_RING)
    port.say(b"last\n")
    assert port.native.out.dropped == 10
    assert port.native.out.count == OUTPUT_RING
    said = port.all_taken()[in_the_pipe:]
    assert len(said) == OUTPUT_RING
    assert said.endswith(b".last\n")


def test_a_reader_that_gets_no_cpu_for_a_moment_loses_nothing(port) -> None:
    """A driver that is faster waits for it; once: a reader that stays away costs the oldest bytes."""
    port.native.out.patience_ms = 2000
    in_the_pipe = port.clog()
    port.say(b"." * OUTPUT_RING)
    heard = bytearray()

    def read() -> None:
        time.sleep(0.1)
        heard.extend(port.taken())

    reader = threading.Thread(target=read)
    reader.start()
    port.say(b"more")
    reader.join()
    assert (port.native.out.dropped, heard.count(0)) == (0, in_the_pipe)
    assert port.all_taken() == b"." * OUTPUT_RING + b"more"


def test_a_stalled_reader_is_not_asked_for_every_byte(port) -> None:
    """device-bugs 16: while the reader stalls a guest's write costs no system call."""
    port.clog()
    port.say(b"\n")
    port.taken()
    port.say(b"line\n" * 1000)
    assert port.taken() == b"", "the timer comes back to it, nobody else"
    port.loop.turn()
    assert len(port.loop.planned) == 1
    assert port.all_taken() == b"\n" + b"line\n" * 1000


def test_a_reader_that_has_gone_holds_nothing_up(port) -> None:
    os.close(port._out)
    port.say(b"nobody hears this\n" * 10000)
    port.uart.flush()
    assert port.native.out.count == 0
    port._out = os.open("/dev/null", os.O_RDONLY)


def test_the_last_words_wait_for_a_reader_who_is_slow(port) -> None:
    """What a guest says before it halts is longer than what the pipe takes."""
    port.clog()
    port.say(b"z" * OUTPUT_RING)
    said = bytearray()

    def read() -> None:
        while said.count(b"z") < OUTPUT_RING:
            select.select([port._out], [], [], 5)
            said.extend(port.taken(1000))

    reader = threading.Thread(target=read)
    reader.start()
    port.uart.flush()
    assert port.native.out.count == 0
    reader.join()


def test_wide_accesses_touch_nothing(port) -> None:
    """The device is eight bits wide: a wider read floats, a wider write is lost."""
    assert port.uart.read(0, 4) == 0xFFFF_FFFF
    assert port.uart.write(0, 2, 0x4141) is None
    assert port.all_taken() == b""


class Coalesced:
    """KVM's ring of coalesced writes, as the kernel fills it."""

    def __init__(self, port: Port) -> None:
        self.memory = ffi.new("uint8_t[]", os.sysconf("SC_PAGE_SIZE"))
        self.page = ffi.buffer(self.memory)
        port.native.ring = ffi.cast("struct kvm_coalesced_mmio_ring *", self.memory)
        port.native.coalescing = 1

    def put(self, data: bytes) -> None:
        first, last = RING.unpack_from(self.page)
        for byte in data:
            assert (last + 1) % ENTRIES != first, "full"
            entry = ENTRY.pack(0x3F8, 1, 1, bytes((byte,)))
            ENTRY.pack_into(self.page, RING.size + last * ENTRY.size, *ENTRY.unpack(entry))
            last = (last + 1) % ENTRIES
        RING.pack_into(self.page, 0, first, last)


def test_what_kvm_has_put_by_comes_before_what_follows_it(port) -> None:
    """Bytes of the ring, then the one that cost an exit; under DLAB they are the divisor's."""
    ring = Coalesced(port)
    for _ in range(3):  # around the ring
        ring.put(b"a" * (ENTRIES - 2))
        port.write(DATA, ord("b"))
    assert port.all_taken() == (b"a" * (ENTRIES - 2) + b"b") * 3
    port.write(LCR, 0x80)
    ring.put(b"\x01\x0c")
    assert port.read(0) == 0x0C
    ring.put(b"\x07")
    port.write(LCR, 0)
    ring.put(b"z")
    port.write(LCR, 0x80)
    assert port.read(0) == 0x07
    assert port.all_taken() == b"z"


def test_what_kvm_has_put_by_raises_the_interrupt_that_a_driver_waits_for(port) -> None:
    """A driver that looks at IIR is told; one that does nothing else is told by the timer."""
    ring = Coalesced(port)
    port.write(MCR, OUT2)
    port.write(IER, 0x02)
    assert port.read(IIR) & 0x0F == 0x02
    ring.put(b"x" * 16)
    assert port.read(IIR) & 0x0F == 0x02
    ring.put(b"x" * 16)
    assert port.read(LSR) == 0x60, "which does not ask for it"
    assert not port.level
    port.native.linger_ns = FOR_EVER
    lib.vmrun_uart_look(port.native)
    assert port.level
    assert port.taken() == b"x" * 32


def test_a_ring_that_stays_empty_ends_the_coalescing(port) -> None:
    """A timer is not free: after ten looks at nothing the port is as before."""
    ring = Coalesced(port)
    ring.put(b"once")
    looks = 1
    while lib.vmrun_uart_look(port.native) and looks < 100:
        looks += 1
    assert (looks, port.native.coalescing) == (11, 0)
    assert port.taken() == b"once"


def test_a_ring_that_points_outside_itself_gives_nothing(port) -> None:
    ring = Coalesced(port)
    RING.pack_into(ring.page, 0, ENTRIES, 0)
    port.say(b"x")
    assert port.all_taken() == b"x"


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("read"), st.integers(0, 7), st.just(0)),
    st.tuples(st.just("feed"), st.integers(0, 2000), st.just(0)),
    st.tuples(st.just("say"), st.integers(0, 5000), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.just(0)),
    st.tuples(st.just("take"), st.integers(1, 100_000), st.just(0)),
    st.tuples(st.just("look"), st.just(0), st.just(0)),
)


@given(st.lists(steps, max_size=60))
def test_no_sequence_breaks_the_port(sequence: list[tuple[str, int, int]]) -> None:
    """Whatever guest and host do: registers are bytes, the rings stay within bounds, one timer is planned,
    and the line is up exactly when OUT2 lets through an interrupt that IIR shows."""
    port = Port()
    port.clog()
    for what, first, second in sequence:
        if what == "write":
            port.write(first, second)
        elif what == "read":
            assert 0 <= port.read(first) <= 0xFF
        elif what == "feed":
            assert port.uart.feed(b"f" * first) <= min(first, INPUT_RING)
        elif what == "say":
            port.say(b"s" * first)
        elif what == "wait":
            port.loop.wait()
        elif what == "take":
            port.taken(first)
        else:
            level, gate = port.level, port.read(MCR) & (OUT2 | LOOP) == OUT2
            assert level == (gate and not port.read(IIR) & 1)
        port.loop.turn()
        assert port.native.out.count <= OUTPUT_RING
        assert len(port.loop.planned) <= 1
    port.close()


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 400))
def test_a_slow_reader_gets_every_byte_that_was_not_dropped(bursts: list[int], room: int) -> None:
    """With a reader that takes a little now and then, nothing is lost, doubled or out of order."""
    port, said, heard = Port(), bytearray(), b""
    for number, size in enumerate(bursts):
        data = bytes((number + index) % 251 for index in range(size))
        said += data
        port.say(data)
        port.loop.wait()
        heard += port.taken(room)
    heard += port.all_taken()
    assert port.native.out.dropped == 0
    assert heard == said
    port.close()
