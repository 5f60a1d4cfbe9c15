"""One serial line or console of the guest: the pump between its socket and its endpoints."""

from __future__ import annotations

import os
from errno import EAGAIN

from runner.supervisor.tail import Tail
from runner.typed import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from runner.supervisor.endpoint import Endpoint
    from runner.supervisor.loop import Loop

CHUNK = 65536


class Console:
    """Pumps both ways; keeps the last output in every mode.

    ``fd`` is the supervisor's non-blocking end of the socket pair.  Input is read from
    the endpoints only while the guest takes it, so a large paste or a file on standard
    input waits where it is and is never lost.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.tail = Tail()
        self.ended = False
        self.listeners: list[Callable[[bytes], None]] = []
        self.endpoints: list[Endpoint] = []
        self._loop: Loop | None = None
        self._input = b""

    @property
    def eloquence(self) -> tuple[bool, int]:
        """Its rank among those whose last words are shown: a port of a console (`console.NAME`) carries
        data for a program, so it comes after every console that has said something."""
        return bool(self.tail.total) and "." not in self.name, self.tail.total

    @property
    def undelivered(self) -> int:
        """Bytes that its endpoints could not deliver, or have not yet."""
        return sum(endpoint.dropped + endpoint.waiting() for endpoint in self.endpoints)

    def open(self, loop: Loop) -> None:
        """Begin to pump."""
        self._loop = loop
        loop.on_readable(self.fd, self._read)
        for endpoint in self.endpoints:
            endpoint.open(loop, self.feed)
            endpoint.want_input(True)

    def add(self, endpoint: Endpoint) -> None:
        """One more reader and writer (``vmrun attach``), while it runs."""
        self.endpoints.append(endpoint)
        if self._loop is not None:
            endpoint.open(self._loop, self.feed)
            endpoint.want_input(not self._input)

    def remove(self, endpoint: Endpoint) -> None:
        """Undo :meth:`add`."""
        if endpoint in self.endpoints:
            self.endpoints.remove(endpoint)
        endpoint.close()

    def feed(self, data: bytes) -> None:
        """Input for the guest."""
        if self.ended:
            return
        self._input += data
        self._send()

    def drain(self) -> None:
        """Take what the guest has written so far (after its process has ended)."""
        before = -1
        while not self.ended and self.tail.total != before:
            before = self.tail.total
            self._read()

    def close(self) -> None:
        """Close the guest's end and every endpoint."""
        self._end()
        for endpoint in tuple(self.endpoints):
            endpoint.close()

    def _read(self) -> None:
        try:
            data = os.read(self.fd, CHUNK)
        except OSError as error:
            if error.errno != EAGAIN:  # ECONNRESET: the VM process has been killed
                self._end()
            return
        if not data:
            self._end()
            return
        self.tail.add(data)
        for endpoint in tuple(self.endpoints):
            endpoint.write(data)
        for listener in self.listeners:
            listener(data)

    def _send(self) -> None:
        try:
            sent = os.write(self.fd, self._input)
        except OSError as error:
            if error.errno != EAGAIN:
                self._end()
                return
            sent = 0
        self._input = self._input[sent:]
        if self._loop is not None:
            self._loop.on_writable(self.fd, self._send if self._input else None)
        for endpoint in tuple(self.endpoints):
            endpoint.want_input(not self._input)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._input = b""
        if self._loop is not None:
            self._loop.forget(self.fd)
        os.close(self.fd)
