"""``vmrun plan FILE``: the resolved device graph, and which engine would run it and why."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.graph.model import Graph
    from runner.hostfacts import HostFacts


def add_arguments(parser: ArgumentParser) -> None:
    """The file, one output form at most, and what replaces this host and the preference."""
    parser.add_argument("file", metavar="FILE", help="definition (TOML)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output plan`)")
    form.add_argument("--dot", action="store_true", help="the graph for Graphviz")
    form.add_argument("--svg", action="store_true", help="the graph as a picture")
    add_planning_arguments(parser)


def add_planning_arguments(parser: ArgumentParser) -> None:
    """What decides a plan beside the definition; ``vmrun diff`` has them too."""
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="a key of the definition, said here"
    )
    parser.add_argument(
        "--host", metavar="FACTS", help="plan for another host: its stored facts (JSON), - for standard input"
    )
    parser.add_argument(
        "--engine",
        action="append",
        choices=("kvm", "qemu"),
        help="instead of the definition's preference; several are tried in order",
    )


def run(args: Namespace) -> int:
    """Print the plan; 0 also when no engine could run it here, which the plan says."""
    import sys

    graph = planned(args.file, args.host, args.engine, tuple(args.set or ()))
    form = "json" if args.json else "dot" if args.dot else "svg" if args.svg else "tree"
    sys.stdout.write(rendered(graph, form))
    return 0


def planned(path: str, host: str | None, engine: list[str] | None, settings: tuple[str, ...] = ()) -> Graph:
    """The graph of a definition for this host, or for stored facts."""
    from runner.definition.load import load
    from runner.graph.plan import plan

    definition = load(path, settings)
    return plan(definition, host_facts(host), engine=tuple(engine) if engine else None)


def host_facts(stored: str | None) -> HostFacts:
    """This host's facts, or a file's: HostFacts as JSON, alone or under the key ``facts``."""
    if stored is None:
        from runner.host.survey import survey

        return survey()
    from runner.errors import UsageError
    from runner.graph.encode import from_json
    from runner.hostfacts import HostFacts

    data = read_json(stored)
    if isinstance(data, dict) and "facts" in data:
        data = data["facts"]
    try:
        return from_json(HostFacts, data, "facts")
    except ValueError as error:
        raise UsageError(f"{stored}: no host facts: {error}") from None


def read_json(path: str) -> Any:
    """A JSON file, ``-`` for standard input.  Raises UsageError or HostIoError, which name it."""
    import json
    import sys

    from runner.errors import HostIoError, UsageError

    try:
        if path == "-":
            return json.load(sys.stdin)
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise HostIoError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None


def rendered(graph: Graph, form: str) -> str:
    """The graph as text in one of the four forms: tree, json, dot, svg."""
    match form:
        case "json":
            from runner.cli.envelope import enveloped
            from runner.graph.encode import to_json

            answer = to_json(graph)
            assert isinstance(answer, dict)
            return enveloped(answer)
        case "dot":
            from runner.graph.dot import dot

            return dot(graph)
        case "svg":
            from runner.graph.svg import svg

            return svg(graph)
    from runner.graph.show import show

    return show(graph)
