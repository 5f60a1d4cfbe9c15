"""``vmrun ps``: the machines of this user that run now."""

from __future__ import annotations

import sys

from runner.cli.control_client import Connection
from runner.errors import HostError
from runner.supervisor.registry import Live, live
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

COLUMNS = ("NAME", "STATE", "PID", "ENGINE", "SINCE", "DEFINITION")


def add_arguments(parser: ArgumentParser) -> None:
    """The form of the list."""
    parser.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output ps`)")


def run(args: Namespace) -> int:
    """Print them by name."""
    machines = [described(machine) for machine in live()]
    if args.json:
        from runner.cli.envelope import enveloped

        sys.stdout.write(enveloped({"machines": machines}))
        return 0
    rows = [COLUMNS, *(_row(machine) for machine in machines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def described(machine: Live) -> dict[str, Any]:
    """What the folder and the machine itself say; one that does not answer is ``starting`` or ``ending``."""
    known: dict[str, Any] = {
        "name": machine.name,
        "state": "ending" if machine.about else "starting",
        "pid": None,
        "vm_pid": None,
        "engine": machine.about.get("engine"),
        "accelerator": machine.about.get("accelerator"),
        "definition": machine.about.get("definition"),
        "seconds": None,
        "consoles": [],
    }
    try:
        with Connection(machine) as connection:
            status = connection.ask(do="status")
    except (HostError, OSError):
        return known
    known.update(
        state=status["state"],
        pid=status["pid"],
        vm_pid=status["vm_pid"],
        seconds=status["since"],
        consoles=status["consoles"],
    )
    return known


def _row(machine: dict[str, Any]) -> tuple[str, ...]:
    engine = str(machine["engine"] or "-")
    if machine["accelerator"] not in (None, engine):
        engine += f" ({str(machine['accelerator']).upper()})"
    return (
        machine["name"],
        machine["state"],
        str(machine["pid"] or "-"),
        engine,
        _duration(machine["seconds"]),
        str(machine["definition"] or "-"),
    )


def _duration(seconds: float | None) -> str:
    """``75`` → ``1m15s``."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
