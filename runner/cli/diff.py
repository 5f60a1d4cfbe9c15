"""``vmrun diff A B``: what differs between two machines; definitions or stored plans."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.graph.model import Graph


def add_arguments(parser: ArgumentParser) -> None:
    """Two files of either kind, and what plans are made with."""
    from runner.cli.plan import add_planning_arguments

    parser.add_argument("old", metavar="A", help="definition (TOML) or plan (`vmrun plan --json`)")
    parser.add_argument("new", metavar="B", help="the same")
    parser.add_argument("--json", action="store_true", help="as JSON (schemas/output/diff.schema.json)")
    add_planning_arguments(parser)


def run(args: Namespace) -> int:
    """Print the differences; 0 when there are none, 1 when there are, as diff(1) does."""
    import sys

    from runner.graph.diff import diff, show

    changes = diff(_graph(args.old, args), _graph(args.new, args))
    if args.json:
        from runner.graph.encode import dumps

        sys.stdout.write(dumps(changes))
    else:
        sys.stdout.write(show(changes))
    return 1 if changes else 0


def _graph(path: str, args: Namespace) -> Graph:
    """A plan as stored, or a definition planned now; the name's end decides."""
    if not path.endswith(".json"):
        from runner.cli.plan import planned

        return planned(path, args.host, args.engine)
    from runner.cli.plan import read_json
    from runner.errors import UsageError
    from runner.graph.encode import from_json
    from runner.graph.model import Graph

    try:
        return from_json(Graph, read_json(path), "plan")
    except ValueError as error:
        raise UsageError(f"{path}: no plan: {error}") from None
