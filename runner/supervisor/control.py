"""The control socket: how ``vmrun stop``, ``attach`` and the others reach a running machine.

A client writes one JSON object on a line, ``{"do": NAME, …}``, and gets one back:
``{"ok": true, …}`` or ``{"ok": false, "error": "…"}``; then it may ask again.

=========  =======================  ====================================================
do         with                     answer
=========  =======================  ====================================================
status                              state, pid, consoles, since (seconds), said (bytes)
stop       grace (seconds)          at once; the connection closes when all is over
kill                                the same, without the power button
pause                               at once
resume                              at once
balloon    size (bytes, optional)   target, actual (bytes)
logs       console, follow          ``bytes``, and then that many bytes of the last output;
                                    with ``follow`` the stream goes on until the end
attach     console                  the last output, then output and input as a raw stream
=========  =======================  ====================================================

Only the owner of the run and root may speak here: the folder is closed to others, and
the kernel's word for who connected (SO_PEERCRED) is asked as well.
"""

from __future__ import annotations

import os
from time import monotonic_ns

from runner.host import unix_socket
from runner.light import suppress
from runner.supervisor.inlet import Inlet
from runner.supervisor.loop import Loop
from runner.supervisor.outlet import Outlet, nonblocking
from runner.typed import TYPE_CHECKING, Callable, Mapping

if TYPE_CHECKING:
    from runner.definition.model import Json
    from runner.supervisor.console import Console
    from runner.supervisor.supervise import Supervisor

CLIENTS = 16
LONGEST_LINE = 4096
GRACE = 10.0  # seconds from the power button to the end by force, when nobody says otherwise


class ControlServer:
    """Listens for clients while a machine runs."""

    def __init__(self, path: str, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.clients: list[Client] = []
        self._path = path
        self._since = monotonic_ns()
        self._listener = unix_socket.listen(path)
        supervisor.loop.on_readable(self._listener, self._accept)

    def status(self) -> dict[str, Json]:
        """The machine as it is now."""
        supervisor = self.supervisor
        return {
            "state": supervisor.state,
            "pid": os.getpid(),
            "vm_pid": supervisor.guest.pid,
            "since": round((monotonic_ns() - self._since) / 1e9, 3),
            "consoles": [console.name for console in supervisor.consoles],
            "said": sum(console.tail.total for console in supervisor.consoles),
        }

    def close(self) -> None:
        """Hang up on everybody, and remove the socket's file."""
        for client in tuple(self.clients):
            client.close()
        self.supervisor.loop.forget(self._listener)
        os.close(self._listener)
        with suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        fd = unix_socket.accept(self._listener)
        if fd is None:
            return
        _, uid = unix_socket.peer(fd)
        if uid not in (0, os.geteuid()) or len(self.clients) >= CLIENTS:
            os.close(fd)
            return
        self.clients.append(Client(fd, self))


class Client:
    """One connection: lines, until ``attach`` or ``logs`` turns it into an endpoint of a console."""

    def __init__(self, fd: int, server: ControlServer) -> None:
        self.fd = fd
        self._server = server
        self._line = b""
        self._console: Console | None = None
        self._feed: Callable[[bytes], None] | None = None
        self._attached = False
        loop = server.supervisor.loop
        self._outlet = Outlet(loop, fd, nonblocking(fd), self._gone)
        self._inlet = Inlet(loop, fd, self._read, self._gone)
        self._inlet.want(True)

    @property
    def dropped(self) -> int:
        """A slow client's losses are its own, not the run's."""
        return 0

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Become an endpoint of a console."""
        self._feed = feed

    def write(self, data: bytes) -> None:
        """Guest output."""
        self._outlet.write(data)

    def want_input(self, wanted: bool) -> None:
        """Read what the client types only while the guest takes it."""
        if self._attached:
            self._inlet.want(wanted)

    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        return self._outlet.waiting

    def close(self) -> None:
        """Hang up.  Idempotent."""
        if self.fd < 0:
            return
        self._inlet.close()
        self._outlet.close()
        os.close(self.fd)
        self.fd = -1
        if self in self._server.clients:
            self._server.clients.remove(self)
        if self._console is not None:
            self._console.remove(self)

    def _gone(self, _error: OSError | None = None) -> None:
        self.close()

    def _read(self, data: bytes) -> None:
        if self._attached:
            if self._feed is not None:
                self._feed(data)
            return
        if self._console is not None:  # follows logs: it has nothing to say
            return
        self._line += data
        while b"\n" in self._line and self.fd >= 0 and self._console is None:
            line, _, self._line = self._line.partition(b"\n")
            self._answer(line)
        if len(self._line) > LONGEST_LINE:
            self.close()

    def _answer(self, line: bytes) -> None:
        import json

        try:
            asked = json.loads(line)
            if not isinstance(asked, dict):
                raise TypeError("a request is an object")
        except (ValueError, TypeError, RecursionError) as error:
            self._say({"ok": False, "error": f"not a request: {error}"})
            return
        match asked.get("do"):
            case "status":
                self._say({"ok": True, **self._server.status()})
            case "stop":
                self._stop(asked)
            case "kill":
                self._say({"ok": True})
                self._server.supervisor.end("stopped", detail="vmrun stop --now")
            case "pause":
                self._say({"ok": True})
                self._server.supervisor.pause()
            case "resume":
                self._say({"ok": True})
                self._server.supervisor.resume()
            case "balloon":
                self._balloon(asked)
            case "logs":
                self._stream(asked, attach=False)
            case "attach":
                self._stream(asked, attach=True)
            case other:
                self._say({"ok": False, "error": f"no such request: {other!r:.60}"})

    def _stop(self, asked: Mapping[str, object]) -> None:
        grace = asked.get("grace", GRACE)
        if not isinstance(grace, int | float) or not 0 <= grace <= 86400:
            self._say({"ok": False, "error": "grace is a number of seconds, at most a day"})
            return
        self._say({"ok": True})
        self._server.supervisor.stop(float(grace))

    def _balloon(self, asked: Mapping[str, object]) -> None:
        balloon = self._server.supervisor.balloon
        error = "it has no balloon" if balloon is None else ""
        if balloon is not None and "size" in asked:
            error = balloon.inflate(asked["size"])
        if error or balloon is None:
            self._say({"ok": False, "error": error})
        else:
            self._say({"ok": True, **balloon.status()})

    def _stream(self, asked: Mapping[str, object], *, attach: bool) -> None:
        consoles = self._server.supervisor.consoles
        wanted = asked.get("console")
        found = [console for console in consoles if wanted in (None, console.name)]
        if not found:
            names = ", ".join(console.name for console in consoles) or "none"
            self._say({"ok": False, "error": f"no such console; there are: {names}"})
            return
        last = found[0].tail.last()
        self._say({"ok": True, "console": found[0].name, "bytes": len(last)})
        self._outlet.write(last)
        if attach or asked.get("follow") is True:
            self._console = found[0]
            self._attached = attach
            found[0].add(self)
            rest, self._line = self._line, b""
            if attach and rest and self._feed is not None:
                self._feed(rest)

    def _say(self, answer: dict[str, Json]) -> None:
        import json

        self._outlet.write(json.dumps(answer).encode() + b"\n")
