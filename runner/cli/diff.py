"""``vmrun diff A B``: what differs between two machines; definitions or stored plans."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.graph.model import Graph


def add_arguments(parser: ArgumentParser) -> None:
    """Two files of either kind, and what plans are made with."""
    from runner.cli.plan import add_planning_arguments

    parser.add_argument("old", metavar="A", help="definition (TOML) or plan (`vmrun plan --json`)")
    parser.add_argument("new", metavar="B", help="the same")
    parser.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output diff`)")
    add_planning_arguments(parser)


def run(args: Namespace) -> int:
    """Print the differences; 0 when there are none, 1 when there are, as diff(1) does."""
    import sys

    from runner.graph.diff import diff, show

    if args.set and args.old.endswith(".json") and args.new.endswith(".json"):
        from runner.errors import UsageError

        raise UsageError("--set has nothing to go into: both files are stored plans")
    changes = diff(_graph(args.old, args), _graph(args.new, args))
    if args.json:
        from runner.cli.envelope import enveloped

        sys.stdout.write(enveloped({"changes": [change._asdict() for change in changes]}))
    else:
        sys.stdout.write(show(changes))
    return 1 if changes else 0


def _graph(path: str, args: Namespace) -> Graph:
    """A plan as stored, or a definition planned now; the name's end decides."""
    if not path.endswith(".json"):
        from runner.cli.plan import planned

        return planned(path, args.host, args.engine, tuple(args.set or ()))
    from runner.cli.plan import read_json
    from runner.errors import UsageError
    from runner.graph.encode import from_json
    from runner.graph.model import Graph

    try:
        return from_json(Graph, _unwrapped(read_json(path)), "plan")
    except ValueError as error:
        raise UsageError(f"{path}: no plan: {error}") from None


def _unwrapped(stored: Any) -> Any:
    """A plan without the version of its form.  Raises ValueError for a form that is not ours."""
    from runner.cli.envelope import VERSION

    if not isinstance(stored, dict):
        return stored
    version = stored.pop("version", VERSION)
    if version != VERSION:
        raise ValueError(f"its form has the version {version!r}, and this vmrun reads {VERSION}")
    return stored
