"""virtio-console: output is always taken, input only when there is room, ports introduce themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.devices import virtio_console
from runner.devices.ports import CharDevice, OffloadedQueue
from runner.wire import virtio
from runner.wire import virtio_console as wire
from tests.unit.virtio_driver import Attachment, Driver, placed


class Line:
    """ConsoleLine that remembers what is done to it, and offers what ``type`` was given."""

    features = virtio.RING_FEATURES
    config = b""

    def __init__(self) -> None:
        self.taken = b""
        self.waiting = b""
        self.device: CharDevice | None = None
        self.on_broken: Callable[[str], None] | None = None
        self.queue: OffloadedQueue | None = None
        self.offered = 0
        self.kicked: list[int] = []
        self.flushed = 0
        self.stopping: list[Callable[[], None]] | None = None  # where stops wait for the test

    def write(self, data: bytes) -> int:
        self.taken += data
        return len(data)

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        (self.queue,) = queues
        self.offered = features

    def stop(self, done: Callable[[], None]) -> None:
        self.queue = None
        if self.stopping is None:
            done()
        else:
            self.stopping.append(done)

    def kick(self, number: int) -> None:
        self.kicked.append(number)

    def flush(self) -> None:
        self.flushed += 1

    def connect(self, device: CharDevice) -> None:
        self.device = device
        device.on_room = self.offer

    def type(self, data: bytes) -> None:
        self.waiting += data
        self.offer()

    def offer(self) -> None:
        assert self.device is not None
        if self.waiting:
            self.waiting = self.waiting[self.device.feed(self.waiting) :]


def built(*ports: str) -> tuple[Driver, list[Line]]:
    options: dict[str, Any] = {"mode": "tty"}
    if ports:
        options["ports"] = [{"name": name, "mode": "null"} for name in ports]
    lines = [Line() for _ in range(1 + len(ports))]
    names = ["console", *(f"console.{name}" for name in ports)]
    at = Attachment(dict(zip(names, lines, strict=True)))
    claim = virtio_console.claim("console", options)
    node = placed("virtio_console", "console", "console", options, claim, intx=False)
    return Driver(virtio_console.build(node, at), at), lines


def console() -> tuple[Driver, Line]:
    driver, lines = built()
    return driver.start(), lines[0]


def test_the_line_serves_the_transmit_queue() -> None:
    """From DRIVER_OK to the reset, with the addresses that the driver gave and the features it took."""
    driver, line = console()
    assert line.queue is not None
    ring = driver.queues[1]
    assert line.queue[:5] == (1, ring.size, ring.descriptors, ring.driver, ring.device)
    assert line.offered & virtio.F_VERSION_1
    driver.status = 0
    assert line.queue is None


def test_a_notification_of_output_that_came_by_another_way_is_passed_on() -> None:
    """Through the registers, where no doorbell caught it; never when nobody serves the queue."""
    driver, line = console()
    line.kicked.clear()
    driver.built.transport.notify(1)
    assert line.kicked == [1]
    driver.built.transport.notify(0)
    assert line.kicked == [1]


def test_a_line_that_finds_a_broken_ring_makes_the_device_need_a_reset() -> None:
    """The status says so; a reset takes the queue back."""
    driver, line = console()
    assert line.on_broken is not None
    line.on_broken("descriptor 9 of 8")
    assert driver.status & virtio.NEEDS_RESET
    driver.status = 0
    assert line.queue is None
    assert driver.status == 0


def test_a_reset_is_over_when_every_line_has_let_go() -> None:
    """Until then the status does not read as zero."""
    driver, lines = built("agent")
    driver.start()
    for line in lines:
        line.stopping = []
    driver.status = 0
    assert driver.status != 0
    while waiting := [done for line in lines for done in line.stopping or ()]:
        for line in lines:
            line.stopping = []
        assert driver.status != 0
        waiting[0]()
    assert driver.status == 0


def test_the_last_words_go_out_when_the_machine_has_halted() -> None:
    """Every port's line is told."""
    driver, lines = built("agent")
    driver.built.flush()
    assert [line.flushed for line in lines] == [1, 1]


def test_input_fills_the_drivers_buffers() -> None:
    """Bytes go into the buffers that are there; the rest waits with the backend."""
    driver, line = console()
    buffer = driver.writable(4)
    driver.queues[0].add(buffer)
    line.type(b"abcdef")
    assert driver.queues[0].used() == [(0, 4)]
    assert driver.memory.read(buffer[0], 4) == b"abcd"
    assert line.waiting == b"ef"
    assert driver.at.messages.fired == [1]
    assert driver.request(0, driver.writable(4)) == [(1, 2)]
    assert line.waiting == b""


def test_buffers_without_room_do_not_keep_the_thread() -> None:
    """A driver that refills its ring with buffers of nothing: two rounds a turn, then others are served."""
    driver, line = console()
    queue = driver.queues[0]
    port = driver.built.transport.device.ports[0]
    ring = port.receive
    rounds = 0

    def refill(*_: object) -> None:
        nonlocal rounds
        rounds += 1
        assert rounds < 1000, "the device never lets go of its thread"
        queue.used()
        while queue.free:
            queue.add(driver.readable(b"x"))

    push = ring.push

    def pushed(*given: Any) -> None:
        push(*given)
        refill()

    ring.push = pushed
    refill()
    line.type(b"abc")
    assert line.waiting == b"abc"
    assert rounds == 1 + 2 * queue.size
    ring.push = push
    queue.used()
    assert len(driver.at.loop.timers) == 1
    driver.at.loop.run()
    assert len(queue.used()) == queue.size
    driver.request(0, driver.writable(4))
    assert line.waiting == b""


def test_input_before_the_driver_waits() -> None:
    """Typed before DRIVER_OK: nothing is lost."""
    driver, lines = built()
    lines[0].type(b"early")
    assert lines[0].waiting == b"early"
    driver.start()
    assert driver.request(0, driver.writable(16)) == [(0, 5)]


def test_an_emergency_write_needs_no_queue() -> None:
    """§5.3.4: one character through the configuration space, before anything is set up."""
    driver, lines = built()
    assert driver.offered & wire.F_EMERG_WRITE
    driver.set_device_config(wire.EMERG_WRITE_OFFSET, 4, ord("!"))
    driver.set_device_config(0, 4, ord("x"))
    assert lines[0].taken == b"!"


def test_the_console_alone_tells_its_size_in_the_configuration() -> None:
    """F_SIZE: columns and rows change with an interrupt."""
    driver, _ = console()
    assert driver.offered & wire.F_SIZE
    driver.built.transport.device.resize(132, 43)
    assert driver.device_config(0, 2) == 132
    assert driver.device_config(2, 2) == 43
    assert driver.at.messages.fired == [0]


def test_a_size_from_before_the_driver_is_told_when_it_comes() -> None:
    """Linux' driver reads the size at a change of the configuration only, so there has to be one."""
    driver, _ = built()
    driver.built.transport.device.resize(132, 43)
    assert driver.at.messages.fired == []
    driver.start()
    assert driver.at.messages.fired == [0]
    assert driver.device_config(0, 2) == 132


def message(driver: Driver, number: int, event: int, value: int) -> None:
    """The driver says something on the control queue."""
    driver.request(wire.CONTROL_TX, driver.readable(wire.CONTROL.pack(number, event, value)))


class Multi:
    """A driver of a console with ports, with plenty of control buffers."""

    def __init__(self, *ports: str) -> None:
        self.driver, self.lines = built(*ports)
        self.driver.start()
        self.buffers: dict[int, tuple[int, int, bool]] = {}
        for _ in range(32):
            buffer = self.driver.writable(64)
            self.buffers[self.driver.queues[wire.CONTROL_RX].add(buffer)] = buffer
        self.driver.kick(wire.CONTROL_RX)

    def said(self) -> list[tuple[int, int, int, bytes]]:
        said = []
        for head, length in self.driver.queues[wire.CONTROL_RX].used():
            data = self.driver.memory.read(self.buffers[head][0], length)
            said.append((*wire.CONTROL.unpack_from(data), data[wire.CONTROL.size :]))
        return said


def test_ports_introduce_themselves() -> None:
    """§5.3.6.2: ADD for each, then what each one is, and that the host's end is open."""
    multi = Multi("agent")
    message(multi.driver, 0xFFFFFFFF, wire.DEVICE_READY, 1)
    assert multi.said() == [(0, wire.DEVICE_ADD, 1, b""), (1, wire.DEVICE_ADD, 1, b"")]
    message(multi.driver, 0, wire.PORT_READY, 1)
    assert multi.said() == [(0, wire.CONSOLE_PORT, 1, b""), (0, wire.PORT_OPEN, 1, b"")]
    message(multi.driver, 1, wire.PORT_READY, 1)
    assert multi.said() == [(1, wire.PORT_NAME, 1, b"agent"), (1, wire.PORT_OPEN, 1, b"")]


def test_a_port_passes_data_both_ways_once_it_is_open() -> None:
    """Port 1 has queues 4 and 5; input waits until the driver opens its end."""
    multi = Multi("agent")
    driver, line = multi.driver, multi.lines[1]
    assert line.queue is not None
    assert line.queue.number == 5
    driver.queues[4].add(driver.writable(8))
    line.type(b"in")
    assert driver.queues[4].used() == []
    message(driver, 1, wire.PORT_OPEN, 1)
    assert driver.queues[4].used() == [(0, 2)]
    message(driver, 1, wire.PORT_OPEN, 0)
    driver.queues[4].add(driver.writable(8))
    line.type(b"more")
    assert line.waiting == b"more"


def test_a_resize_travels_as_a_message() -> None:
    """With ports, the console's size is a control message: columns, then rows."""
    multi = Multi("agent")
    multi.driver.built.transport.device.resize(80, 25)
    assert multi.said() == [(0, wire.RESIZE_EVENT, 0, b"\x50\0\x19\0")]
    message(multi.driver, 0, wire.PORT_READY, 1)
    assert (0, wire.RESIZE_EVENT, 0, b"\x50\0\x19\0") in multi.said()


def test_messages_that_make_no_sense_are_ignored() -> None:
    """Ports that are not there, events that only a device sends, and half a message."""
    multi = Multi("agent")
    for number, event, value in (
        (2, wire.PORT_READY, 1),
        (99, wire.PORT_OPEN, 1),
        (0, wire.DEVICE_ADD, 1),
        (0, 77, 1),
    ):
        message(multi.driver, number, event, value)
    multi.driver.request(wire.CONTROL_TX, multi.driver.readable(b"\0\0"))
    assert multi.said() == []
    assert not multi.driver.status & virtio.NEEDS_RESET


def test_row_16_a_flood_of_control_messages_is_bounded() -> None:
    """Device-bugs 16: without buffers for the answers, only so many wait."""
    driver, _ = built("agent")
    driver.start()
    for _ in range(1000):
        message(driver, 0, wire.DEVICE_READY, 1)
    device = driver.built.transport.device
    assert len(device._waiting) == virtio_console.MESSAGES_A_PORT * 2
    driver.status = 0
    assert device._waiting == []


def test_without_multiport_the_other_ports_are_silent() -> None:
    """A driver that does not negotiate MULTIPORT has the console, and no other queue does anything."""
    driver, lines = built("agent")
    driver.start(features=virtio.F_VERSION_1)
    assert lines[0].queue is not None
    assert lines[1].queue is None
    driver.built.transport.notify(5)
    assert lines[1].kicked == []
    message(driver, 0, wire.DEVICE_READY, 1)
    assert driver.queues[wire.CONTROL_RX].used() == []


def test_a_broken_receive_ring_is_found_when_input_comes() -> None:
    """The backend's callback cannot bring the machine down."""
    driver, line = console()
    driver.queues[0].set_index(999)
    line.type(b"x")
    assert driver.status & virtio.NEEDS_RESET
    assert line.waiting == b"x"


def test_in_words_of_qemu() -> None:
    """virtio-serial with a console on its own backend, and a port on its."""
    options: dict[str, Any] = {"mode": "tty", "ports": [{"name": "agent", "mode": "null"}]}
    claim = virtio_console.claim("console", options)
    node = placed("virtio_console", "console", "console", options, claim, intx=False)
    words = virtio_console.qemu(node)
    assert words[3] == "virtconsole,bus=console.0,chardev=console"
    assert words[5] == "virtserialport,bus=console.0,nr=1,chardev=console.agent,name=agent"
    assert [backend.options for backend in claim.backends] == [{"mode": "tty"}, {"mode": "null"}]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.binary(max_size=24), st.integers(0, 40), st.binary(max_size=9)),
        max_size=30,
    )
)
def test_whatever_is_said_the_console_stands(steps: list[tuple[int, bytes, int, bytes]]) -> None:
    """Any messages on any queue, with input coming in between: bounded, and no exception."""
    driver, lines = built("agent")
    driver.start()
    for queue, data, room, typed in steps:
        parts = [driver.readable(data)] if data else []
        parts += [driver.writable(room)] if room else []
        if queue in (1, 5):
            driver.built.transport.notify(queue)
        elif parts and len(driver.queues[queue].free) >= 2:
            driver.request(queue, *parts)
        lines[0].type(typed)
        lines[1].type(typed)
    device = driver.built.transport.device
    assert len(device._waiting) <= virtio_console.MESSAGES_A_PORT * 2


@pytest.mark.parametrize(("port", "queue"), [(0, 0), (1, 4), (2, 6)])
def test_queues_are_numbered_as_the_specification_says(port: int, queue: int) -> None:
    """§5.3.2."""
    assert wire.receive_queue(port) == queue
    assert wire.port_of(queue) == wire.port_of(queue + 1) == port
    assert wire.port_of(2) is wire.port_of(3) is None
