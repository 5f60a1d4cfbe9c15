"""Mode ``tty``: standard input and output, shared by all consoles that have it.

Output of every such console goes to standard output; what is typed goes to the one that
has the focus (Ctrl-A c moves it).  A terminal on standard input is raw while the guest
runs; a pipe or file on it just feeds the guest, and its end is fine.
"""

from __future__ import annotations

import os
from errno import EIO, EPIPE

from runner.host.terminal import Terminal
from runner.supervisor.inlet import Inlet
from runner.supervisor.outlet import Outlet
from runner.supervisor.standard_output import writer
from runner.typed import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from runner.supervisor.keys import Keys
    from runner.supervisor.loop import Loop

STDIN, STDOUT = 0, 1
RECHECK = 1.0  # seconds between looks whether a background job has come to the foreground


class StdioEndpoint:
    """One console's share of the standard streams."""

    def __init__(self, streams: StandardStreams) -> None:
        self._streams = streams
        self.feed: Callable[[bytes], None] | None = None
        self.wanted = False

    @property
    def dropped(self) -> int:
        """Bytes that standard output did not take; told by the first console that shares it."""
        return self._streams.dropped if self._streams.is_first(self) else 0

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Begin; the first console that comes gets the focus."""
        self.feed = feed
        self._streams.open(loop)

    def write(self, data: bytes) -> None:
        """To standard output."""
        self._streams.write(data)

    def want_input(self, wanted: bool) -> None:
        """Read standard input only while the focused console takes it."""
        self.wanted = wanted
        self._streams.update()

    def waiting(self) -> int:
        """Bytes that standard output has not taken."""
        return self._streams.waiting if self._streams.is_first(self) else 0

    def close(self) -> None:
        """The terminal is as it was before."""
        self._streams.close()


class StandardStreams:
    """Standard input and output of this process, and the terminal there may be on the first.

    ``on_command`` gets what Ctrl-A says, ``on_output_gone`` is called when nobody reads
    standard output any more, ``on_hangup`` when the terminal has gone away.
    """

    def __init__(
        self,
        on_command: Callable[[str], None],
        on_output_gone: Callable[[OSError], None],
        on_hangup: Callable[[], None],
    ) -> None:
        self._on_command = on_command
        self._on_output_gone = on_output_gone
        self._on_hangup = on_hangup
        self._loop: Loop | None = None
        self._endpoints: list[StdioEndpoint] = []
        self._focus = 0
        self._keys: Keys | None = None
        self._inlet: Inlet | None = None
        self._outlet: Outlet | None = None
        self._give_back: Callable[[], None] | None = None
        self._shown_on_terminal = os.isatty(STDOUT)
        self.terminal: Terminal | None = Terminal.at(STDIN)
        self._readable = self.terminal is None

    @property
    def dropped(self) -> int:
        """Bytes of output that were dropped."""
        return self._outlet.dropped if self._outlet else 0

    @property
    def waiting(self) -> int:
        """Bytes of output that wait."""
        return self._outlet.waiting if self._outlet else 0

    @property
    def holds_terminal(self) -> bool:
        """Whether a console of the guest is to have the terminal on standard input."""
        return self.terminal is not None and bool(self._endpoints)

    def endpoint(self) -> StdioEndpoint:
        """For one more console."""
        endpoint = StdioEndpoint(self)
        self._endpoints.append(endpoint)
        return endpoint

    def is_first(self, endpoint: StdioEndpoint) -> bool:
        """The first console accounts for what they share."""
        return bool(self._endpoints) and self._endpoints[0] is endpoint

    def open(self, loop: Loop) -> None:
        """Begin reading and writing; a terminal in the foreground becomes raw.  Idempotent."""
        if self._loop is not None:
            return
        self._loop = loop
        fd, write, self._give_back = writer(STDOUT)
        self._outlet = Outlet(loop, fd, write, self._output_gone)
        loop.on_hangup(fd, self._output_hung_up)
        self._inlet = Inlet(loop, STDIN, self._typed, self._input_ended)
        self.enter()

    def enter(self) -> None:
        """Take the terminal if it is ours to take; in the background look again later."""
        if self.terminal is None or self._loop is None:
            return
        self._readable = self.terminal.make_raw()
        if not self._readable:
            self._loop.after(RECHECK, self.enter)
        self.update()

    def leave(self) -> None:
        """Give the terminal back for a while (before a stop signal)."""
        if self.terminal is not None:
            self.terminal.restore()
            self._readable = False
            self.update()

    def update(self) -> None:
        """Read exactly while the focused console wants input."""
        if self._inlet is not None and self._endpoints:
            self._inlet.want(self._readable and self._endpoints[self._focus].wanted)

    def write(self, data: bytes) -> None:
        """Guest output."""
        if self._outlet is not None:
            self._outlet.write(data)

    def next_console(self) -> int:
        """Move the focus; returns the number of the console that has it now."""
        self._focus = (self._focus + 1) % len(self._endpoints)
        self.update()
        return self._focus

    def close(self) -> None:
        """Restore the terminal and stop.  Idempotent."""
        if self._inlet is not None:
            self._inlet.close()
        if self._outlet is not None:
            self._outlet.close()
        if self.terminal is not None:
            self.terminal.close()
        if self._give_back is not None:
            self._give_back()
        self._give_back = None
        self._loop = None

    def _typed(self, data: bytes) -> None:
        if self.terminal is None:
            self._send(data)
            return
        if self._keys is None:
            from runner.supervisor.keys import Keys

            self._keys = Keys()
        for part in self._keys.feed(data):
            if isinstance(part, bytes):
                self._send(part)
            else:
                self._on_command(part)

    def _send(self, data: bytes) -> None:
        feed = self._endpoints[self._focus].feed
        if feed is not None:
            feed(data)

    def _input_ended(self, error: OSError | None) -> None:
        if self.terminal is None:
            return
        if error is not None and error.errno == EIO and not self.terminal.in_foreground():
            assert self._loop is not None  # a background job may not read; nothing has been hung up
            self._inlet = Inlet(self._loop, STDIN, self._typed, self._input_ended)
            self.enter()
            return
        self._on_hangup()

    def _output_gone(self, error: OSError) -> None:
        self._on_output_gone(error)

    def _output_hung_up(self) -> None:
        if self._outlet is None or self._outlet.broken:
            return
        self._outlet.close()
        if self._shown_on_terminal:
            self._on_hangup()
        else:
            self._on_output_gone(BrokenPipeError(EPIPE, os.strerror(EPIPE)))
