"""vsock by Unix sockets, with Firecracker's protocol (its docs/vsock.md), which cloud-hypervisor has too.

A program of the host that wants the guest's port connects to the socket at ``path``, writes
``CONNECT port\\n`` and reads ``OK host_port\\n`` when the guest has taken the connection; when
nobody takes it, it is closed.  A guest that connects to port P of the host (context id 2)
reaches whoever listens at ``path_P``.

The VM process may neither make nor connect sockets.  It accepts from a listener that it was
given; and for the guest's own connections it asks the supervisor, which answers with a
connected descriptor or with none.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, SCM_RIGHTS, SHUT_WR, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, socket, socketpair
from time import monotonic_ns

from runner.backends import Opened
from runner.backends.room import Room
from runner.errors import HostError
from runner.host import unix_socket
from runner.light import suppress
from runner.typed import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph
    from runner.supervisor.loop import Loop

REQUEST = struct.Struct("<II")  # number of the request, port
ANSWER_SECONDS = 1.0
MOST_GREETINGS = 64  # connections of the host that have not said what they want
LONGEST_GREETING = 32
PAUSE_NS = 100_000_000
GREETING = b"CONNECT "


# ---- the supervisor's side


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Listen at the path, and be ready to connect for the guest."""
    place: Any = claim.options["socket"]
    path = str(place["resolved"])
    try:
        listener = unix_socket.listen_again(path)
    except OSError as error:
        words = "somebody listens there already" if error.errno == 98 else error.strerror or str(error)
        raise HostError(f"{claim.name}: no socket can be made at {path}: {words}") from None
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
    fds = {claim.name: listener, f"{claim.name}:dial": theirs.detach()}

    def close() -> None:
        ours.close()
        with suppress(OSError):
            os.unlink(path)
        for fd in fds.values():
            os.close(fd)

    words = f"{claim.name}: {path} leads into the guest, {path}_PORT out of it"
    return Opened(fds, {}, words, close, attend=lambda loop: _attend(ours, path, loop))


def _attend(dialling: socket, path: str, loop: Loop) -> None:
    dialling.setblocking(False)

    def asked() -> None:
        try:
            message = dialling.recv(REQUEST.size)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if len(message) == REQUEST.size:
            _answer(dialling, path, message)
        else:
            loop.forget(dialling.fileno())

    loop.on_readable(dialling.fileno(), asked)


def _answer(dialling: socket, path: str, message: bytes) -> None:
    """Connect, and send the descriptor along with the request's own bytes; none when nobody is there."""
    _, port = REQUEST.unpack(message)
    fd = unix_socket.try_connect(f"{path}_{port}")
    rights = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))]
    with suppress(OSError):  # who asked has gone, or does not read
        dialling.sendmsg([message], rights)
    if fd is not None:
        os.close(fd)


# ---- the VM process's side


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> HybridVsock:
    """The host as the device sees it."""
    return HybridVsock(resources.fds[claim.name], resources.fds[f"{claim.name}:dial"], machine)


class HybridVsock:
    """``StreamDialler``."""

    def __init__(self, listener: int, dialling: int, machine: Machine) -> None:
        self._listener, self._machine = listener, machine
        self._dialling = socket(fileno=dialling)
        self._dialling.settimeout(ANSWER_SECONDS)
        self._number = 0
        self._room = Room(machine.loop)
        self._greetings: set[Greeting] = set()
        self._callback: Callable[[int, SocketStream, Callable[[int], None]], None] | None = None

    def connect(self, port: int) -> SocketStream | None:
        """Ask the supervisor; it answers at once, with a connection or without."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        request = REQUEST.pack(self._number, port)
        try:
            self._dialling.send(request)
            while True:
                answer, ancillary, _, _ = self._dialling.recvmsg(REQUEST.size, 64)
                fds = _descriptors(ancillary)
                if answer == request:
                    return SocketStream(fds[0], self._machine, self._room) if fds else None
                for fd in fds:  # the answer to a request that we had given up
                    os.close(fd)
                if not answer:
                    return None
        except OSError:
            return None

    def on_connection(self, callback: Callable[[int, SocketStream, Callable[[int], None]], None]) -> None:
        """Accept from now on."""
        self._callback = callback
        self._listen()

    def _listen(self) -> None:
        self._machine.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            fd = unix_socket.accept(self._listener)
        except OSError as error:  # too many open files: let some go first
            self._machine.log("warning", "vsock", reason=os.strerror(error.errno or 0))
            self._machine.loop.remove_reader(self._listener)
            self._machine.loop.call_at(monotonic_ns() + PAUSE_NS, self._listen)
            return
        if fd is None:
            return
        if len(self._greetings) >= MOST_GREETINGS:
            os.close(fd)
            return
        stream = SocketStream(fd, self._machine, self._room)
        self._greetings.add(Greeting(stream, self._greeted))

    def _greeted(self, greeting: Greeting, port: int | None) -> None:
        self._greetings.discard(greeting)
        stream = greeting.stream
        if port is None or self._callback is None:
            stream.close()
            return

        def accepted(host_port: int) -> None:
            stream.write(b"OK %d\n" % host_port)

        self._callback(port, stream, accepted)

    def close(self) -> None:
        """The end of the machine."""
        self._machine.loop.remove_reader(self._listener)
        for greeting in self._greetings:
            greeting.stream.close()
        self._dialling.close()


def _descriptors(ancillary: list[Any]) -> list[int]:
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            return list(struct.unpack(f"{len(data) // 4}i", data))
    return []


class Greeting:
    """A connection of the host that has yet to say which port it wants.

    What follows its line is the guest's, so it is read no further than the line's end.
    """

    def __init__(self, stream: SocketStream, done: Callable[[Greeting, int | None], None]) -> None:
        self.stream, self._done = stream, done
        self._line = b""
        stream.on_readable(self._more)

    def _more(self) -> None:
        port: int | None = None
        try:
            while not self._line.endswith(b"\n") and len(self._line) < LONGEST_GREETING:
                piece = self.stream.read(1)
                if piece is None:
                    return
                if not piece:
                    break
                self._line += piece
            port = _port(self._line)
        except OSError:
            port = None
        self.stream.on_readable(None)
        self._done(self, port)


def _port(line: bytes) -> int | None:
    """The port of ``CONNECT port\\n``, or None for anything else."""
    number = line[len(GREETING) : -1]
    if not line.startswith(GREETING) or not line.endswith(b"\n") or not number.isdigit():
        return None
    return port if (port := int(number)) <= 0xFFFFFFFF else None


class SocketStream:
    """``ByteStream`` on a connected Unix socket."""

    def __init__(self, fd: int, machine: Machine, room: Room) -> None:
        os.set_blocking(fd, False)
        self._socket = socket(fileno=fd)
        self._fd, self._machine, self._room = fd, machine, room
        self._closed = False

    def read(self, limit: int) -> bytes | None:
        """See :class:`runner.devices.ports.ByteStream`."""
        try:
            return self._socket.recv(limit)
        except BlockingIOError:
            return None

    def write(self, data: bytes | memoryview) -> int:
        """See :class:`runner.devices.ports.ByteStream`."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """See :class:`runner.devices.ports.ByteStream`."""
        if callback is None or self._closed:
            self._machine.loop.remove_reader(self._fd)
        else:
            self._machine.loop.add_reader(self._fd, callback)

    def on_writable(self, callback: Callable[[], None]) -> None:
        """See :class:`runner.devices.ports.ByteStream`."""
        if self._closed:
            self._machine.loop.call_at(monotonic_ns(), callback)
        else:
            self._room.await_room(self._fd, callback)

    def shutdown(self) -> None:
        """See :class:`runner.devices.ports.ByteStream`."""
        with suppress(OSError):  # the other end has gone
            self._socket.shutdown(SHUT_WR)

    def close(self) -> None:
        """See :class:`runner.devices.ports.ByteStream`."""
        if not self._closed:
            self._closed = True
            self._machine.loop.remove_reader(self._fd)
            self._room.forget(self._fd)
            self._socket.close()
