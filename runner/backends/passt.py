"""`user` networking: passt, a network stack in a process of its own, without any privilege.

Frames go over a stream socket as QEMU's ``-netdev stream`` has them: the length as 32 bits
big-endian, then the frame.  Both engines are given the same connected socket.
"""

from __future__ import annotations

import os
import select
from time import monotonic_ns

from runner.backends import Opened
from runner.backends.room import Room
from runner.errors import HostError
from runner.host import helper_process
from runner.typed import TYPE_CHECKING, Any, Callable, Sequence

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph
    from runner.host.helper_process import Helper

PROGRAM = PACKAGE = "passt"
START_SECONDS = 10
LARGEST_MTU = 65520  # passt's own limit
LENGTH = 4
SMALLEST_FRAME, LARGEST_FRAME = 14, 65535 + 18
BUFFER = 256 << 10


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Start passt on one end of a socketpair; it is ready, its ports are bound, when this returns."""
    program = helper_process.find(PROGRAM, PACKAGE)
    from runner.host import unix_socket

    ours, its = unix_socket.pair()
    ready, its_ready = os.pipe2(os.O_CLOEXEC)
    os.fchmod(its_ready, 0o622)  # passt opens it again by its path, as nobody when we are root
    try:
        words = [program, *arguments(claim, its, its_ready)]
        helper = helper_process.start(claim.name, words, [its, its_ready], fatal=False)
    except BaseException:
        os.close(ours)
        os.close(ready)
        raise
    finally:
        os.close(its)
        os.close(its_ready)

    def close() -> None:
        os.close(ours)
        helper.close()

    try:
        _await(helper, ready)
    except BaseException:
        close()
        raise
    finally:
        os.close(ready)
    return Opened({claim.name: ours}, {}, f"{claim.name}: {PROGRAM}", close, (helper,))


def arguments(claim: BackendClaim, connection: int, ready: int) -> list[str]:
    """passt's words.  It writes its pid, as into a pid file, when it is ready."""
    mtu: Any = claim.options.get("mtu", 1500)
    words = ["--foreground", "--quiet", "--fd", str(connection), "--pid", f"/proc/self/fd/{ready}"]
    words += ["--mtu", str(min(mtu, LARGEST_MTU))]
    if os.geteuid() == 0:
        words += ["--runas", "nobody"]
    forwards: Any = claim.options.get("forwards") or ()
    for each in forwards:
        option = "--udp-ports" if each.get("protocol") == "udp" else "--tcp-ports"
        words += [option, f"{each.get('address', '127.0.0.1')}/{each['host']}:{each['guest']}"]
    return words


def _await(helper: Helper, ready: int) -> None:
    """Until the pid comes; the pipe's end without one is passt's."""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    if poll.poll(START_SECONDS * 1000) and os.read(ready, 16):
        return
    if helper.has_ended(1.0):
        words = helper.how_it_ended()
        raise HostError(f"{helper.owner}: {words}", hint=_hint(words))
    raise HostError(f"{helper.owner}: {PROGRAM} is not ready after {START_SECONDS} s")


def _hint(words: str) -> str:
    if "Failed to bind" in words:
        return "another program has a port of `forwards`: ss -lntup shows which"
    if "interface" in words:
        return "passt lends the guest the host's addresses, and needs an interface with a default route"
    return ""


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> Passt:
    """The network as the card sees it."""
    return Passt(claim.name, resources.fds[claim.name], machine)


class Passt:
    """``NetBackend``: one frame queue, no offloads."""

    offloads = False

    def __init__(self, name: str, fd: int, machine: Machine) -> None:
        self.queues: Sequence[StreamFrames] = (StreamFrames(name, fd, machine),)

    def set_offloads(self, flags: int) -> None:
        """There are none."""

    def set_pairs(self, count: int) -> None:
        """There is one."""


class StreamFrames:
    """``FrameQueue`` on a stream socket: whole frames, whatever pieces they come and go in.

    A length that no frame has is the end of the connection: nothing behind it can be told apart.
    """

    header_size = 0

    def __init__(self, name: str, fd: int, machine: Machine) -> None:
        os.set_blocking(fd, False)
        self._name, self._fd, self._machine = name, fd, machine
        self._buffer = bytearray(BUFFER)
        self._start = self._end = 0  # of what has been read and not yet received
        self._unsent = b""
        self._waiting: Callable[[], None] | None = None
        self._room = Room(machine.loop)
        self._callback: Callable[[], None] | None = None
        self._again = False
        self._gone = False

    # ---- from the guest

    def send(self, parts: Sequence[memoryview]) -> bool:
        """One frame; what the socket takes only in part is kept and goes first the next time."""
        if self._gone:
            return True
        if self._unsent and not self._flush():
            return False
        size = sum(map(len, parts))
        sent = self._write([size.to_bytes(LENGTH, "big"), *parts])
        if sent == 0:
            return self._gone
        if sent < LENGTH + size:
            self._unsent = b"".join((size.to_bytes(LENGTH, "big"), *parts))[sent:]
            self._room.await_room(self._fd, self._writable)
        return True

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Once, when the rest of a frame is gone and there is room again."""
        self._waiting = callback
        self._room.await_room(self._fd, self._writable)

    def _writable(self) -> None:
        if not self._flush():
            self._room.await_room(self._fd, self._writable)
            return
        callback, self._waiting = self._waiting, None
        if callback is not None:
            callback()

    def _flush(self) -> bool:
        self._unsent = self._unsent[self._write([self._unsent]) :] if self._unsent else b""
        return self._gone or not self._unsent

    def _write(self, parts: Sequence[bytes | memoryview]) -> int:
        try:
            return os.writev(self._fd, parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(os.strerror(error.errno or 0))
            return 0

    # ---- to the guest

    def receive(self, into: memoryview) -> int:
        """One frame, or 0; a frame larger than ``into`` is dropped."""
        while True:
            size = self._next()
            if size is None:
                if not self._read():
                    return 0
                continue
            start = self._start + LENGTH
            self._start = start + size
            if size <= len(into):
                into[:size] = self._buffer[start : start + size]
                self._ask_again()
                return size

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """While frames are there, in the socket or in the buffer."""
        self._callback = callback
        if callback is None or self._gone:
            self._machine.loop.remove_reader(self._fd)
        else:
            self._machine.loop.add_reader(self._fd, callback)
            self._ask_again()

    def _next(self) -> int | None:
        """The length of the frame that begins at ``start``, if it is there as a whole."""
        held = self._end - self._start
        if held < LENGTH:
            return None
        size = int.from_bytes(self._buffer[self._start : self._start + LENGTH], "big")
        if not SMALLEST_FRAME <= size <= LARGEST_FRAME:
            self._lose(f"a frame of {size} bytes")
            return None
        return size if held >= LENGTH + size else None

    def _read(self) -> bool:
        """Some more of the stream into the buffer, in which the largest frame has room."""
        if self._gone:
            return False
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end > BUFFER - LENGTH - LARGEST_FRAME:
            held = self._buffer[self._start : self._end]
            self._buffer[: len(held)] = held
            self._start, self._end = 0, len(held)
        try:
            count = os.readv(self._fd, [memoryview(self._buffer)[self._end :]])
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(os.strerror(error.errno or 0))
            return False
        if not count:
            self._lose("it has closed the connection")
        self._end += count
        return bool(count)

    def _ask_again(self) -> None:
        """The socket says nothing of frames that are in the buffer already: ask at the loop's next turn."""
        if self._again or self._callback is None or self._next() is None:
            return
        self._again = True

        def again() -> None:
            self._again = False
            if self._callback is not None and self._next() is not None:
                self._callback()

        self._machine.loop.call_at(monotonic_ns(), again)

    def _lose(self, why: str) -> None:
        """The network is gone: the guest's frames go nowhere from now on."""
        if self._gone:
            return
        self._gone = True
        self._start = self._end = 0
        self._unsent = b""
        self._machine.loop.remove_reader(self._fd)
        self._machine.loop.call_at(monotonic_ns(), self._writable)  # who waits for room waits in vain
        self._machine.log("error", "network-lost", device=self._name, reason=why)
