"""``vmrun pause NAME``: the guest's CPUs stand still until ``vmrun resume``."""

from __future__ import annotations

from runner.cli.control_client import connect
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Whom."""
    parser.add_argument("name", metavar="NAME", help="as `vmrun ps` shows it")


def run(args: Namespace) -> int:
    """Return when the request has been taken."""
    with connect(args.name) as machine:
        machine.ask(do="pause")
    return 0
