"""``vmrun balloon NAME [SIZE]``: how much of its memory a guest gives back to the host."""

from __future__ import annotations

import sys
from time import monotonic, sleep

from runner.cli.control_client import connect
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.cli.control_client import Connection

LOOK_AGAIN = 0.1  # seconds


def add_arguments(parser: ArgumentParser) -> None:
    """Whom, how much, and how patiently."""
    parser.add_argument("name", metavar="NAME", help="as `vmrun ps` shows it")
    parser.add_argument("size", metavar="SIZE", nargs="?", help="in all, as 512M; 0: nothing")
    parser.add_argument("--wait", metavar="TIME", help="until it is so, or the time is over (status 124)")
    parser.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output balloon`)")


def run(args: Namespace) -> int:
    """Ask, wait where that was asked for, and say how it stands."""
    from runner.cli.run import seconds

    patience = 0.0 if args.wait is None else seconds(args.wait)
    with connect(args.name) as machine:
        if args.size is not None:
            machine.ask(do="balloon", size=size(args.size))
        reached = _await(machine, monotonic() + patience)
        status = machine.ask(do="balloon")
    if args.json:
        from runner.cli.envelope import enveloped

        sizes = {key: status[key] for key in ("target", "actual")}
        sys.stdout.write(enveloped({"name": args.name, **sizes}))
        return 0 if reached or args.wait is None else 124
    from runner.graph import words

    target, actual = words.size(status["target"]), words.size(status["actual"])
    sys.stdout.write(f"{actual} given back, {target} asked for\n")
    return 0 if reached or args.wait is None else 124


def _await(machine: Connection, deadline: float) -> bool:
    while True:
        status = machine.ask(do="balloon")
        if status["actual"] == status["target"]:
            return True
        if monotonic() >= deadline:
            return False
        sleep(LOOK_AGAIN)


def size(text: str) -> int:
    """``512M`` or ``0`` as bytes, whole pages.  Raises UsageError."""
    from runner.definition import formats
    from runner.errors import UsageError

    if text == "0":
        return 0
    try:
        return formats.size(text) & ~4095
    except formats.FormatFault as error:
        raise UsageError(f"`{text}` is no size: {error}", hint="write 512M or 2G") from None
