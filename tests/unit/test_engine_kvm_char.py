"""The VM process's end of a serial line: it never blocks, and reads no more than the device takes."""

from __future__ import annotations

import fcntl
import os
import socket
import termios
from collections.abc import Callable, Iterator
from struct import unpack

import pytest

from runner.engine.kvm.char import CHUNK, CharEnd
from tests.unit.served_machine import Machine


class Device:
    """CharDevice with so much room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = b""
        self.on_room: Callable[[], None] | None = None

    def feed(self, data: bytes) -> int:
        taken = data[: self.room]
        self.got += taken
        self.room -= len(taken)
        return len(taken)

    def give(self, room: int) -> None:
        self.room += room
        assert self.on_room is not None
        self.on_room()


class Line:
    """A device behind a :class:`CharEnd`, and the supervisor's end."""

    def __init__(self) -> None:
        its, self.supervisor = socket.socketpair()
        self.fd = its.detach()
        self.machine = Machine(layout=((0, 1 << 20),))
        self.end = CharEnd(self.fd, self.machine.loop)
        self.supervisor.settimeout(5)

    def unread(self) -> int:
        """Bytes in the socket that the device's end has not read."""
        (count,) = unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))
        return int(count)

    def close(self) -> None:
        os.close(self.fd)
        self.supervisor.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def test_row_16_a_slow_supervisor_never_blocks_the_device(line: Line) -> None:
    """Device-bugs 16: what the socket does not take is the device's to keep; the rest arrived in order."""
    assert not os.get_blocking(line.fd)
    text = bytes(range(256)) * 16384
    sent = line.end.write(text)
    assert 0 < sent < len(text)
    assert line.end.write(b"more") == 0
    arrived = b""
    while len(arrived) < sent:
        arrived += line.supervisor.recv(1 << 20)
    assert arrived == text[:sent]
    assert line.end.write(b"more") == 4


def test_row_16_input_stays_in_the_socket_while_the_device_has_no_room(line: Line) -> None:
    """Device-bugs 16: a sender that does not stop fills its own socket and not this process."""
    device = Device(room=3)
    line.end.connect(device)
    text = bytes(range(256)) * 16
    line.supervisor.sendall(text)
    line.machine.turn(0.05)
    assert device.got == text[:3]
    assert line.unread() == len(text) - CHUNK
    line.supervisor.sendall(b"behind")
    line.machine.turn(0.02)
    assert line.unread() == len(text) - CHUNK + 6
    device.give(10)
    line.machine.turn(0.02)
    assert line.unread() == len(text) - CHUNK + 6
    device.give(1 << 20)
    line.machine.until(lambda: len(device.got) == len(text) + 6)
    assert device.got == text + b"behind"


def test_without_a_supervisor_nothing_is_read_and_output_goes_nowhere(line: Line) -> None:
    """Its end of the socket is closed: always readable, and nobody is asked again."""
    asked: list[int] = []
    read = line.end._readable

    def counted() -> None:
        asked.append(1)
        read()

    line.end._readable = counted  # type: ignore[method-assign]
    line.end.connect(Device(room=100))
    line.supervisor.close()
    line.machine.turn(0.05)
    assert len(asked) == 1
    assert line.end.write(b"to nobody") == 9
