"""``vmrun logs NAME``: what a machine has written on its console.

Of a machine that runs: its last 64 KiB, and with ``-f`` what follows.  Of a detached run
that has ended: its log file.
"""

from __future__ import annotations

import os

from runner.cli.control_client import Connection, find
from runner.errors import UsageError
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

STDOUT = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Whose, which console, and whether to go on."""
    parser.add_argument("name", metavar="NAME", help="as `vmrun ps` shows it")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the machine ends")
    parser.add_argument("-c", "--console", metavar="CONSOLE", help="which one, if it has several")


def run(args: Namespace) -> int:
    """Write to standard output."""
    try:
        machine = find(args.name)
    except UsageError as not_running:
        return _from_file(args, not_running)
    with Connection(machine) as connection:
        answer = connection.ask(do="logs", console=args.console, follow=args.follow)
        _copy(connection, None if args.follow else answer["bytes"])
    return 0


def _copy(connection: Connection, count: int | None) -> None:
    """``count`` bytes, or all until the end."""
    left = count
    data = connection.rest
    while True:
        data = data if left is None else data[:left]
        write(data)
        if left is not None:
            left -= len(data)
            if left == 0:
                return
        data = os.read(connection.fd, 65536)
        if not data:
            return


def write(data: bytes) -> None:
    """All of it to standard output."""
    while data:
        data = data[os.write(STDOUT, data) :]


def _from_file(args: Namespace, not_running: UsageError) -> int:
    from runner.backends.log_file import log_path

    name = args.console or "serial"
    found = False
    for path in (log_path(args.name, f"{name}.log.1"), log_path(args.name, f"{name}.log")):
        try:
            with open(path, "rb") as file:
                found = True
                while data := file.read(1 << 20):
                    write(data)
        except FileNotFoundError:
            continue
    if not found:
        raise not_running
    return 0
