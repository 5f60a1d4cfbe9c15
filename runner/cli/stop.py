"""``vmrun stop NAME``: power button, then a deadline, then the end by force."""

from __future__ import annotations

from runner.cli import log
from runner.cli.control_client import connect
from runner.cli.run import seconds
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Whom, and how patiently."""
    parser.add_argument("name", metavar="NAME", help="as `vmrun ps` shows it")
    parser.add_argument(
        "--grace", metavar="TIME", default="10s", help="how long the guest may take to shut down (10s)"
    )
    parser.add_argument("--now", action="store_true", help="do not press the power button: end it")


def run(args: Namespace) -> int:
    """Return when the machine has ended and the host is as it was before."""
    grace = seconds(args.grace)
    with connect(args.name) as machine:
        if args.now:
            machine.ask(do="kill")
        else:
            machine.ask(do="stop", grace=grace)
        machine.wait_for_end()
    log.tell("info", f"{args.name} has ended")
    return 0
