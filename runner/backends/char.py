"""Host ends of serial lines and consoles: null, file, pty and socket.

The terminal (mode ``tty``) is :mod:`runner.backends.stdio`, since it is shared by all
consoles of a run.  Every mode is an :class:`runner.supervisor.console.Endpoint`.
"""

from __future__ import annotations

import os
from errno import EADDRINUSE

from runner.errors import HostError, HostIoError
from runner.host import unix_socket
from runner.light import suppress
from runner.supervisor.inlet import Inlet
from runner.supervisor.loop import Loop
from runner.supervisor.outlet import Outlet, nonblocking
from runner.typed import Callable

Tell = Callable[[str, str], None]
"""(level, words): how an endpoint says that something of the host failed."""


class NullEndpoint:
    """Takes everything, gives nothing."""

    dropped = 0

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Nothing to begin."""

    def write(self, data: bytes) -> None:
        """Gone."""

    def want_input(self, wanted: bool) -> None:
        """There is none."""

    def waiting(self) -> int:
        """Nothing ever waits."""
        return 0

    def close(self) -> None:
        """Nothing to give back."""


class StreamEndpoint:
    """A non-blocking descriptor of our own, read and written."""

    def __init__(self, fd: int, tell: Tell, words: str, *, reads: bool = True) -> None:
        self._fd = fd
        self._tell = tell
        self._words = words
        self._reads = reads
        self._outlet: Outlet | None = None
        self._inlet: Inlet | None = None

    @property
    def dropped(self) -> int:
        """Bytes that did not arrive."""
        return self._outlet.dropped if self._outlet else 0

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Watch the descriptor."""
        self._outlet = Outlet(loop, self._fd, nonblocking(self._fd), self._broken)
        if self._reads:
            self._inlet = Inlet(loop, self._fd, feed, self._ended)

    def write(self, data: bytes) -> None:
        """Send, or keep while it is slow."""
        if self._outlet is not None:
            self._outlet.write(data)

    def want_input(self, wanted: bool) -> None:
        """Read only while the guest takes it."""
        if self._inlet is not None:
            self._inlet.want(wanted)

    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._outlet.waiting if self._outlet else 0

    def close(self) -> None:
        """Close the descriptor."""
        if self._inlet is not None:
            self._inlet.close()
        if self._outlet is not None:
            self._outlet.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _broken(self, error: OSError) -> None:
        why = os.strerror(error.errno or 0)
        self._tell("warning", f"{self._words}: {why}; its further output is dropped")

    def _ended(self, error: OSError | None) -> None:
        """The other end closed its writing half: the guest just gets no more input."""


class PtyEndpoint(StreamEndpoint):
    """A pseudo-terminal, raw, that any terminal program can open by the path that is told.

    We keep its other end open, so that a program may come and go; what the guest says
    while nobody has it open waits there.
    """

    def __init__(self, name: str, tell: Tell, link: str | None) -> None:
        import tty

        master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(master, False)
        self.path = os.ttyname(self._slave)
        self._link = link
        super().__init__(master, tell, f"{name} on {self.path}")
        if link:
            _place_link(self.path, link)
        tell("info", f"{name} is at {self.path}" + (f" ({link})" if link else ""))

    def close(self) -> None:
        """Close both ends, and remove the link."""
        super().close()
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1
            if self._link:
                with suppress(OSError):
                    if os.readlink(self._link) == self.path:
                        os.unlink(self._link)


class SocketEndpoint:
    """A Unix socket that one program at a time may connect to."""

    def __init__(self, name: str, tell: Tell, path: str) -> None:
        self.dropped = 0
        self._name = name
        self._tell = tell
        self._path = path
        self._listener = _listen(path)
        self._loop: Loop | None = None
        self._feed: Callable[[bytes], None] | None = None
        self._client = -1
        self._outlet: Outlet | None = None
        self._inlet: Inlet | None = None
        self._wanted = False
        tell("info", f"{name} is at {path}")

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Wait for the first client."""
        self._loop, self._feed = loop, feed
        loop.on_readable(self._listener, self._accept)

    def write(self, data: bytes) -> None:
        """To the client.  Without one it is gone, as on a cable that nobody has plugged in; not missed."""
        if self._outlet is not None:
            self._outlet.write(data)

    def want_input(self, wanted: bool) -> None:
        """Read only while the guest takes it."""
        self._wanted = wanted
        if self._inlet is not None:
            self._inlet.want(wanted)

    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        return self._outlet.waiting if self._outlet else 0

    def close(self) -> None:
        """Close, and remove the socket's file."""
        self._hang_up()
        if self._listener >= 0:
            if self._loop is not None:
                self._loop.forget(self._listener)
            os.close(self._listener)
            self._listener = -1
            with suppress(OSError):
                os.unlink(self._path)

    def _accept(self) -> None:
        assert self._loop is not None
        assert self._feed is not None
        fd = unix_socket.accept(self._listener)
        if fd is None:
            return
        self._hang_up()  # the newest wins: a client that has gone away silently blocks nobody
        self._client = fd
        self._outlet = Outlet(self._loop, fd, nonblocking(fd), self._hang_up)
        self._inlet = Inlet(self._loop, fd, self._feed, self._hang_up)
        self._inlet.want(self._wanted)

    def _hang_up(self, _error: OSError | None = None) -> None:
        if self._inlet is not None:
            self._inlet.close()
        if self._outlet is not None:
            self._outlet.close()
            self.dropped += self._outlet.dropped - self._outlet.lost
        self._inlet = self._outlet = None
        if self._client >= 0:
            os.close(self._client)
            self._client = -1


def open_file(name: str, path: str, tell: Tell) -> StreamEndpoint:
    """Output is appended to a file, which is made if need be; a FIFO or a device is written to as it is."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o666)
    except OSError as error:
        raise HostIoError(
            f"{name}: cannot write to {path}: {error.strerror}",
            hint="a FIFO needs its reader first" if error.errno == 6 else "",
        ) from None
    return StreamEndpoint(fd, tell, f"{name} to {path}", reads=False)


def _listen(path: str) -> int:
    try:
        return unix_socket.listen(path)
    except OSError as error:
        if error.errno == EADDRINUSE:
            return _replace_stale(path)
        raise HostIoError(f"cannot listen at {path}: {error.strerror or error}") from None


def _replace_stale(path: str) -> int:
    import stat

    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise HostError(f"{path} exists and is no socket", hint="give the socket another path")
    if unix_socket.is_live(path):
        raise HostError(f"somebody already listens at {path}", hint="is the same machine running twice?")
    os.unlink(path)
    try:
        return unix_socket.listen(path)
    except OSError as error:
        raise HostIoError(f"cannot listen at {path}: {error.strerror or error}") from None


def _place_link(target: str, link: str) -> None:
    """A symbolic link at ``link``; only an older link is replaced, never a file."""
    try:
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(target, link)
    except OSError as error:
        raise HostIoError(f"cannot make the link {link} to {target}: {error.strerror}") from None
