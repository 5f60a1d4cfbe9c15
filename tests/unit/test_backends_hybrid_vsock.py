"""The hybrid vsock: Firecracker's protocol on Unix sockets, between a host and a device that is made up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.backends import hybrid_vsock
from runner.backends.hybrid_vsock import MOST_GREETINGS, HybridVsock, SocketStream
from runner.engine.protocol import Resources
from runner.errors import HostError
from runner.graph.model import BackendClaim
from runner.supervisor.loop import Loop
from tests.unit.served_machine import PATIENCE, Machine


class Both:
    """The supervisor's side and the VM process's, turned by hand."""

    def __init__(self, path: Path) -> None:
        options: Any = {"cid": 7, "socket": {"text": path.name, "resolved": str(path)}}
        self.claim = BackendClaim("vsock", "hybrid-vsock", options)
        self.path = path
        self.opened = hybrid_vsock.open_host(self.claim, None)  # type: ignore[arg-type]
        self.supervisor = Loop()
        assert self.opened.attend is not None
        self.opened.attend(self.supervisor)
        self.machine = Machine(layout=((0, 1 << 20),))
        fds = {name: os.dup(fd) for name, fd in self.opened.fds.items()}
        machine: Any = self.machine
        self.vsock: HybridVsock = hybrid_vsock.attach(self.claim, Resources(fds), machine)
        self.wanted: list[tuple[int, SocketStream, Callable[[int], None]]] = []
        self.vsock.on_connection(lambda *seen: self.wanted.append(seen))
        self._listener = fds["vsock"]

    def knock(self, words: bytes) -> socket.socket:
        """Somebody of the host connects and says this."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.path))
        client.sendall(words)
        return client

    def dial(self, port: int) -> SocketStream | None:
        """The guest connects; the supervisor has its turn meanwhile."""
        found: list[SocketStream | None] = []
        guest = threading.Thread(target=lambda: found.append(self.vsock.connect(port)))
        guest.start()
        while guest.is_alive():
            self.supervisor.after(0.01, lambda: None)
            self.supervisor.turn()
        return found[0]

    def close(self) -> None:
        self.vsock.close()
        os.close(self._listener)
        self.opened.close()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path / "vm.sock")
    yield made
    made.close()


def test_the_host_says_which_port_and_hears_when_it_is_taken(both: Both) -> None:
    client = both.knock(b"CONNECT 5000\n")
    both.machine.until(lambda: both.wanted)
    port, stream, accepted = both.wanted[0]
    assert port == 5000
    assert stream.read(10) is None, "what is not there yet is not the end"
    accepted(1 << 30)
    assert client.recv(100) == b"OK 1073741824\n"
    client.sendall(b"hello")
    both.machine.until(lambda: stream.read(0) is not None)
    assert stream.read(100) == b"hello"
    assert stream.write(b"back") == 4
    stream.shutdown()
    assert (client.recv(100), client.recv(100)) == (b"back", b"")
    client.close()
    both.machine.turn()
    assert stream.read(10) == b""
    stream.close()


def test_what_follows_the_line_is_the_guests(both: Both) -> None:
    """The line is read no further than its end, however much comes with it."""
    both.knock(b"CONNECT 9\nthen this\n")
    both.machine.until(lambda: both.wanted)
    assert both.wanted[0][1].read(100) == b"then this\n"


def test_a_line_may_come_in_pieces(both: Both) -> None:
    client = both.knock(b"CONN")
    both.machine.turn()
    client.sendall(b"ECT 12")
    both.machine.turn()
    assert both.wanted == []
    client.sendall(b"34\n")
    both.machine.until(lambda: both.wanted)
    assert both.wanted[0][0] == 1234


@pytest.mark.parametrize(
    "words",
    [
        b"CONNECT\n",
        b"CONNECT x\n",
        b"CONNECT -1\n",
        b"CONNECT 4294967296\n",
        b"connect 1\n",
        b"\n",
        b"CONNECT 1 \n",
        b"CONNECT " + b"1" * 40,
        b"GET / HTTP/1.1\r\nHost: somewhere.or.other\r\n",
    ],
)
def test_anything_else_is_hung_up_on(both: Both, words: bytes) -> None:
    client = both.knock(words)
    client.setblocking(False)

    def hung_up() -> bool:
        try:
            return client.recv(10) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    both.machine.until(hung_up)
    assert both.wanted == []


def test_a_client_that_leaves_in_the_middle_of_its_line_is_forgotten(both: Both) -> None:
    both.knock(b"CONNECT 12").close()
    both.machine.turn()
    assert both.wanted == []
    assert not both.vsock._greetings


def test_clients_that_say_nothing_are_bounded(both: Both) -> None:
    """They cost a descriptor each."""
    silent = []
    for _ in range(MOST_GREETINGS + 3):
        silent.append(both.knock(b""))
        both.machine.turn(0.002)
    assert len(both.vsock._greetings) == MOST_GREETINGS
    assert silent[-1].recv(1) == b""


def test_the_guest_reaches_who_listens_for_its_port(both: Both) -> None:
    """The VM process cannot connect: the supervisor does it, and hands over the descriptor."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{both.path}_6000")
    listener.listen()
    stream = both.dial(6000)
    assert stream is not None
    there, _ = listener.accept()
    assert stream.write(b"from the guest") == 14
    assert there.recv(100) == b"from the guest"
    stream.close()
    assert there.recv(100) == b""


def test_nobody_there_is_told_at_once(both: Both) -> None:
    assert both.dial(6001) is None
    (both.path.parent / f"{both.path.name}_6002").write_text("no socket")
    assert both.dial(6002) is None


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(both: Both) -> None:
    """A supervisor that was stopped: the guest is refused, and the late connection closed."""
    first, second = (socket.socket(socket.AF_UNIX) for _ in range(2))
    for listener, port in ((first, 1), (second, 2)):
        listener.bind(f"{both.path}_{port}")
        listener.listen()
    both.vsock._dialling.settimeout(0.05)
    assert both.vsock.connect(1) is None
    both.vsock._dialling.settimeout(PATIENCE)
    stream = both.dial(2)
    assert stream is not None
    there, _ = second.accept()
    stream.write(b"x")
    assert there.recv(1) == b"x"
    late, _ = first.accept()
    assert late.recv(1) == b"", "the late one was closed"


def test_a_stream_that_is_full_says_when_it_is_not(both: Both) -> None:
    client = both.knock(b"CONNECT 1\n")
    both.machine.until(lambda: both.wanted)
    stream = both.wanted[0][1]
    while stream.write(b"x" * 65536):
        pass
    woken: list[bool] = []
    stream.on_writable(lambda: woken.append(True))
    both.machine.turn()
    assert woken == []
    while not woken:
        client.recv(1 << 16)
        both.machine.turn(0.001)
    assert stream.write(b"x")


def test_no_callback_comes_after_the_close(both: Both) -> None:
    client = both.knock(b"CONNECT 1\n")
    both.machine.until(lambda: both.wanted)
    stream, calls = both.wanted[0][1], []
    stream.on_readable(lambda: calls.append(1))
    while stream.write(b"x" * 65536):
        pass
    stream.on_writable(lambda: calls.append(2))
    stream.close()
    client.close()
    both.machine.turn()
    assert calls == []


def test_a_vm_process_without_descriptors_left_does_not_spin(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE at accept: it is told, and tried again a little later."""
    both.knock(b"CONNECT 1\n")

    def full(listener: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("runner.host.unix_socket.accept", full)
        both.machine.turn()
    assert len(both.machine.logged) == 1
    both.machine.until(lambda: both.wanted)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "vm.sock"))
    stale.close()
    first = Both(tmp_path / "vm.sock")
    with pytest.raises(HostError, match="somebody listens there already"):
        Both(tmp_path / "vm.sock")
    first.close()
    assert not (tmp_path / "vm.sock").exists()


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vm.sock").write_text("precious")
    with pytest.raises(HostError):
        Both(tmp_path / "vm.sock")
    assert (tmp_path / "vm.sock").read_text() == "precious"
