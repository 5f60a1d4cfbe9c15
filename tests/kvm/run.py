"""A tiny guest that runs, under either engine: what it printed, what it told, how it ended."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

from runner.engine.protocol import Event, GuestProcess

SECONDS = 60
"""For what is to happen at all."""


class Run:
    """One run: ``output`` and ``events`` grow while it is waited for.

    What the guest says on a virtio-console is for the test to read from ``screen``.
    """

    def __init__(
        self, process: GuestProcess, console: socket.socket, screen: socket.socket | None = None
    ) -> None:
        self.process: Any = process
        self.console = console
        self.screen: Any = screen
        self.output = b""
        self.events: list[Event] = []

    def until(self, done: Callable[[], object], seconds: float = SECONDS) -> Run:
        """Serve both descriptors until ``done()`` is true; fail the test after ``seconds``."""
        deadline = time.monotonic() + seconds
        poll = select.poll()  # select(2) knows no descriptor above 1023
        for fd in (self.console.fileno(), self.process.events_fd):
            poll.register(fd, select.POLLIN)
        while not done():
            assert time.monotonic() < deadline, f"nothing within {seconds} s: {self.output!r} {self.events}"
            for fd, _ in poll.poll(100):
                if fd == self.console.fileno():
                    self._hear(poll)
            self.events += self.process.events()
        return self

    def _hear(self, poll: select.poll) -> None:
        data = self.console.recv(65536)
        self.output += data
        if not data:
            poll.unregister(self.console)

    def told(self, kind: str) -> list[Any]:
        """The data of all events of a kind."""
        return [event.data for event in self.events if event.kind == kind]

    def end(self) -> Any:
        """Wait for the end and all output; returns the event's data."""
        self.until(lambda: self.told("end"))
        self.console.settimeout(SECONDS)
        while data := self.console.recv(65536):
            self.output += data
        return self.told("end")[0]

    def close(self) -> None:
        """End it, if it runs."""
        self.process.close()
        self.console.close()
        if self.screen is not None:
            self.screen.close()
