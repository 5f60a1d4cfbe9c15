"""The 16550A: what Linux's probe expects, the data sheet's rules, and that no guest can grow or stall it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.devices import uart16550
from runner.devices.uart16550 import INPUT_RING, OUTPUT_RING, Uart16550
from tests.unit.wired import Line, Sink, Time

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
OUT2 = 0x08


class Port:
    def __init__(self, room: int = 1 << 30) -> None:
        self.line, self.sink, self.time = Line(), Sink(room), Time()
        self.uart = Uart16550(self.line, self.sink, self.time, self.time)

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        assert self.uart.write(register, 1, value) is None

    def say(self, text: bytes) -> None:
        for byte in text:
            self.write(DATA, byte)


def test_probe_of_linux_finds_a_16550a() -> None:
    """The steps of autoconfig() in drivers/tty/serial/8250/8250_port.c end at "16550A"."""
    port = Port()
    port.write(IER, 0)
    assert port.read(IER) == 0
    port.write(IER, 0x0F)
    assert port.read(IER) == 0x0F
    port.write(IER, 0)
    port.write(MCR, 0x10 | 0x08 | 0x02)
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


def test_probe_of_linux_trusts_the_transmitter_interrupt() -> None:
    """serial8250_THRE_test: switching THRE interrupts on while empty asserts again and again."""
    port = Port()
    port.write(MCR, OUT2)
    for _ in range(2):
        port.write(IER, 0x02)
        assert port.line.level
        assert port.read(IIR) & 0x0F == 0x02
        assert not port.line.level, "reading IIR withdraws it"
        port.write(IER, 0)


def test_scratch_and_divisor_keep_what_was_written() -> None:
    """The scratch register is memory, and DLAB uncovers the divisor without touching IER."""
    port = Port()
    port.write(SCR, 0x5A)
    port.write(IER, 0x05)
    port.write(LCR, 0x83)
    port.write(0, 0x34)
    port.write(1, 0x12)
    assert (port.read(0), port.read(1), port.read(SCR)) == (0x34, 0x12, 0x5A)
    port.write(LCR, 0x03)
    assert port.read(IER) == 0x05
    assert port.sink.taken == b""


def test_output_goes_at_once_with_its_newline() -> None:
    """A line is one call of the sink."""
    port = Port()
    port.say(b"hello\n")
    assert (bytes(port.sink.taken), port.sink.calls) == (b"hello\n", 1)


def test_output_without_a_newline_goes_after_a_moment() -> None:
    """A prompt is shown though no newline follows it."""
    port = Port()
    port.say(b"login: ")
    assert port.sink.taken == b""
    port.time.advance(uart16550.LINGER_NS)
    assert port.sink.taken == b"login: "
    assert port.time.planned == [], "and nothing wakes the host when there is nothing to say"


def test_a_burst_is_what_single_writes_are() -> None:
    """write_burst gives the same bytes, and under DLAB sets the divisor's low byte."""
    port = Port()
    port.uart.write_burst(b"abc\n")
    assert port.sink.taken == b"abc\n"
    port.write(LCR, 0x80)
    port.uart.write_burst(b"\x01\x0c")
    port.uart.write_burst(b"")
    assert port.read(0) == 0x0C
    assert port.sink.taken == b"abc\n"


def test_transmitter_interrupt_rises_again_after_each_service() -> None:
    """An edge-triggered line sees a rise for each time the guest has answered the last one."""
    port = Port()
    port.write(MCR, OUT2)
    port.write(IER, 0x02)
    rises = [port.line.rises]
    for _ in range(3):
        assert port.read(IIR) & 0x0F == 0x02
        port.say(b"x" * 16)
        rises.append(port.line.rises)
    assert rises == [1, 2, 3, 4]


def test_out2_gates_the_line_as_on_a_pc() -> None:
    """Without OUT2 nothing reaches the interrupt controller."""
    port = Port()
    port.write(IER, 0x01)
    port.uart.feed(b"x")
    assert not port.line.level
    port.write(MCR, OUT2)
    assert port.line.level


def test_input_is_read_in_order_and_says_when_there_is_room() -> None:
    """What was fed comes out once, the line falls with the last byte, and on_room tells the feeder."""
    port, told = Port(), []
    port.write(FCR, 0x01)
    port.uart.on_room = lambda: told.append(port.uart.room)
    port.write(MCR, OUT2)
    port.write(IER, 0x01)
    assert port.uart.feed(b"ab") == 2
    assert port.read(LSR) & 1
    assert (port.read(DATA), told, port.line.level) == (ord("a"), [], True)
    assert (port.read(DATA), told, port.line.level) == (ord("b"), [INPUT_RING], False)
    assert port.read(LSR) & 1 == 0
    assert port.read(DATA) == 0


def test_trigger_level_decides_between_data_and_timeout() -> None:
    """Below the trigger level waiting bytes are told as a character timeout (data sheet 8.6)."""
    port = Port()
    port.write(FCR, 0x81)
    port.write(IER, 0x01)
    port.uart.feed(b"1234567")
    assert port.read(IIR) & 0x0F == 0x0C
    port.uart.feed(b"8")
    assert port.read(IIR) & 0x0F == 0x04


def test_loopback_returns_bytes_and_cuts_the_line_off() -> None:
    """In loopback the guest hears itself, the host neither hears nor is heard, and overruns are told."""
    port, told = Port(), []
    port.uart.on_room = lambda: told.append(True)
    port.write(FCR, 0x01)
    port.write(MCR, 0x10)
    port.say(b"0123456789abcdefX")
    assert port.uart.feed(b"host") == 0
    assert port.read(LSR) & 0x02, "the seventeenth byte overran"
    assert bytes(port.read(DATA) for _ in range(16)) == b"0123456789abcdef"
    assert port.sink.taken == b""
    told.clear()
    port.write(MCR, 0)
    assert told, "the feeder is told that the line is back"


def test_modem_lines_change_once() -> None:
    """A change shows in the delta bits until MSR is read."""
    port = Port()
    port.write(MCR, 0x10)
    assert port.read(MSR) & 0x0B == 0x0B, "CTS, DSR and DCD went away"
    assert port.read(MSR) & 0x0F == 0
    port.write(MCR, 0x14)
    assert port.read(MSR) & 0x04 == 0, "RI tells its trailing edge only"
    port.write(MCR, 0x10)
    assert port.read(MSR) & 0x04


def test_clearing_the_fifo_takes_no_more_than_the_fifo() -> None:
    """What waits behind the 16 bytes of the FIFO is still on its way and survives."""
    port = Port()
    port.write(FCR, 0x01)
    port.uart.feed(bytes(range(20)))
    port.write(FCR, 0x03)
    assert bytes(port.read(DATA) for _ in range(4)) == bytes(range(16, 20))


def test_input_ring_is_bounded() -> None:
    """device-bugs 16: what does not fit is left to the sender."""
    port = Port()
    assert port.uart.feed(b"x" * (INPUT_RING + 5)) == INPUT_RING
    assert port.uart.feed(b"y") == 0


def test_output_ring_is_bounded_and_keeps_the_last_words() -> None:
    """device-bugs 16: a reader that takes nothing costs at most the ring, and the newest bytes survive."""
    port = Port(room=0)
    port.uart.write_burst(b"first" + b"." * OUTPUT_RING)
    port.uart.write_burst(b"last\n")
    assert port.uart.dropped == 10
    port.sink.room = 1 << 30
    port.time.advance(uart16550.LINGER_NS)
    assert len(port.sink.taken) == OUTPUT_RING
    assert port.sink.taken.endswith(b".last\n")


def test_a_stalled_reader_is_not_asked_for_every_byte() -> None:
    """device-bugs 16: while the reader stalls a guest's write costs no call of the sink."""
    port = Port(room=0)
    port.say(b"\n")
    port.say(b"line\n" * 1000)
    assert port.sink.calls == 1
    assert len(port.time.planned) == 1


def test_wide_accesses_touch_nothing() -> None:
    """The device is eight bits wide: a wider read floats, a wider write is lost."""
    port = Port()
    assert port.uart.read(0, 4) == 0xFFFF_FFFF
    assert port.uart.write(0, 2, 0x4141) is None
    port.time.advance(uart16550.LINGER_NS)
    assert port.sink.taken == b""


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("read"), st.integers(0, 7), st.just(0)),
    st.tuples(st.just("feed"), st.integers(0, 2000), st.just(0)),
    st.tuples(st.just("burst"), st.integers(0, 70_000), st.just(0)),
    st.tuples(st.just("time"), st.integers(0, 20_000_000), st.just(0)),
    st.tuples(st.just("room"), st.integers(0, 100_000), st.just(0)),
)


@given(st.lists(steps, max_size=60))
def test_no_sequence_breaks_the_port(sequence: list[tuple[str, int, int]]) -> None:
    """Whatever guest and host do: registers are bytes, the rings stay within bounds, one timer is planned,
    and the line is up exactly when OUT2 lets through an interrupt that IIR shows."""
    port = Port(room=0)
    for what, first, second in sequence:
        if what == "write":
            port.write(first, second)
        elif what == "read":
            assert 0 <= port.read(first) <= 0xFF
        elif what == "feed":
            room = port.uart.room
            assert port.uart.feed(b"f" * first) == min(first, room)
        elif what == "burst":
            port.uart.write_burst(b"b" * first)
        elif what == "time":
            port.time.advance(first)
        else:
            port.sink.room += first
        assert 0 <= port.uart.room <= INPUT_RING
        assert len(port.uart._output) <= OUTPUT_RING
        assert len(port.time.planned) <= 1
        gate = port.read(MCR) & 0x18 == 0x08
        assert port.line.level == (gate and port.uart._cause() != 1)


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 400))
def test_a_slow_reader_gets_every_byte_that_was_not_dropped(bursts: list[int], room: int) -> None:
    """With a reader that takes a little now and then, nothing is lost, doubled or out of order."""
    port, said = Port(room=0), bytearray()
    for number, size in enumerate(bursts):
        data = bytes((number + index) % 251 for index in range(size))
        said += data
        port.uart.write_burst(data)
        port.sink.room += room
        port.time.advance(uart16550.LINGER_NS)
    port.sink.room = 1 << 30
    port.time.advance(uart16550.LINGER_NS)
    assert port.uart.dropped == 0
    assert port.sink.taken == said


accesses = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("read"), st.integers(0, 7), st.just(0)),
    st.tuples(st.just("feed"), st.integers(1, 40), st.just(0)),
)


@given(st.lists(accesses, max_size=40))
def test_a_register_that_is_told_to_be_steady_reads_so_without_an_effect(steps) -> None:
    """Whoever answers reads from what was told gives what the device would, and the device misses nothing."""
    port, other = Port(), Port()
    told: dict[int, int | None] = {}
    port.uart.on_steady = told.__setitem__
    for what, number, value in steps:
        for each in (port, other):
            if what == "write":
                each.write(number, value)
            elif what == "feed":
                each.uart.feed(bytes(number))
            elif each is other or told.get(number) is None:
                each.read(number)
        for register, steady in told.items():
            if steady is not None:
                assert other.read(register) == steady
        assert port.line.level == other.line.level
    assert [port.read(register) for register in range(8)] == [other.read(register) for register in range(8)]
