"""``vmrun attach NAME``: a machine's console on this terminal, until Ctrl-A d."""

from __future__ import annotations

import os
import sys

from runner.cli import log
from runner.cli.control_client import connect
from runner.host.signals import Interrupted, Signals
from runner.host.terminal import Terminal
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.supervisor.loop import Loop

STDIN, STDOUT = 0, 1
COMMANDS = {ord("d"): "detach", ord("x"): "end", ord("p"): "power-button", ord("h"): "help", ord("?"): "help"}
HELP = """\
Ctrl-A d  leave; the machine goes on
Ctrl-A x  end the machine now
Ctrl-A p  press its power button, and end it when it has not gone after a while
Ctrl-A a  send Ctrl-A to the guest
Ctrl-A h  this help
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Whose, and which console."""
    parser.add_argument("name", metavar="NAME", help="as `vmrun ps` shows it")
    parser.add_argument("-c", "--console", metavar="CONSOLE", help="which one, if it has several")


def run(args: Namespace) -> int:
    """Until the machine ends, its user leaves, or a signal comes; the terminal is restored."""
    signals = Signals()
    signals.install()
    try:
        with connect(args.name) as machine:
            answer = machine.ask(do="attach", console=args.console)
            if sys.stdin.isatty():
                log.tell("info", f"{answer['console']} of {args.name}; Ctrl-A d leaves, Ctrl-A h helps")
            return _Attached(args.name, machine.fd, machine.rest, signals).run()
    except Interrupted as interrupted:
        return 128 + interrupted.number
    finally:
        signals.close()


class _Attached:
    """The pump between this terminal and the control socket."""

    def __init__(self, name: str, fd: int, first: bytes, signals: Signals) -> None:
        from runner.supervisor.inlet import Inlet
        from runner.supervisor.keys import Keys
        from runner.supervisor.loop import Loop
        from runner.supervisor.outlet import Outlet, nonblocking
        from runner.supervisor.standard_output import writer

        self._name = name
        self._over = False
        self._status = 0
        self._signals = signals
        self._keys = Keys(COMMANDS)
        self._loop: Loop = Loop()
        self._terminal = Terminal.at(STDIN)
        os.set_blocking(fd, False)
        out, write, self._give_back = writer(STDOUT)
        self._shown = Outlet(self._loop, out, write, self._end)
        self._machine = Outlet(self._loop, fd, nonblocking(fd), self._end)
        self._from_machine = Inlet(self._loop, fd, self._shown.write, self._end, 65536)
        self._from_user = Inlet(self._loop, STDIN, self._typed, self._input_ended)
        self._shown.write(first)

    def run(self) -> int:
        self._signals.defer()
        self._loop.on_readable(self._signals.wake_fd, self._signalled)
        self._from_machine.want(True)
        self._from_user.want(self._terminal is None or self._terminal.make_raw())
        try:
            while not self._over:
                self._loop.turn()
        finally:
            if self._terminal is not None:
                self._terminal.close()
            self._give_back()
        return self._status

    def _typed(self, data: bytes) -> None:
        if self._terminal is None:
            self._machine.write(data)
            return
        for part in self._keys.feed(data):
            if isinstance(part, bytes):
                self._machine.write(part)
            else:
                self._command(part)

    def _command(self, name: str) -> None:
        if name == "detach":
            self._over = True
        elif name == "help":
            for line in HELP.splitlines():
                log.tell("notice", line)
        else:
            with connect(self._name) as other:
                if name == "end":
                    other.ask(do="kill")
                else:
                    other.ask(do="stop")

    def _signalled(self) -> None:
        for number in self._signals.noted():
            self._status = 128 + number
            self._over = True

    def _input_ended(self, error: OSError | None) -> None:
        """A pipe that has been read to its end: the rest of the output still comes."""
        if self._terminal is not None:
            self._over = True

    def _end(self, error: OSError | None = None) -> None:
        self._over = True
