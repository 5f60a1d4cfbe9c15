"""``vmrun export FILE``: the machine as a command of QEMU's, to be run without vmrun."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.exchange.to_qemu import Exported
    from runner.hostfacts import HostFacts


def add_arguments(parser: ArgumentParser) -> None:
    """The file, and keys that are said here."""
    parser.add_argument("file", metavar="FILE", help="definition (TOML)")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a key, said here")


def run(args: Namespace) -> int:
    """Print the command, quoted for a shell; what it lacks is said, and stands before it as comments."""
    import sys

    from runner.cli import log

    exported = exported_from(args.file, tuple(args.set or ()))
    for note in exported.notes:
        log.tell("warning", note)
    sys.stdout.write(shown(exported))
    return 0


def shown(exported: Exported) -> str:
    """A shell script: comments, then one option a line."""
    import shlex

    lines = " \\\n    ".join(shlex.join(group) for group in exported.groups)
    return "".join(f"# {note}\n" for note in exported.notes) + lines + "\n"


def exported_from(path: str, settings: tuple[str, ...]) -> Exported:
    """The command for a definition, with the kernel fetched and the initramfs built."""
    from runner.artifacts.prepare import fetch
    from runner.cli import log
    from runner.definition.load import load
    from runner.errors import HostError
    from runner.exchange.to_qemu import command
    from runner.graph.plan import plan
    from runner.host.survey import survey

    graph = plan(load(path, settings), _with_qemu(survey()), engine=("qemu",))
    if not graph.engine.name:
        reasons = "; ".join(why for _, why in graph.engine.reasons)
        raise HostError(f"QEMU cannot run this machine: {reasons}")
    return command(graph, fetch(graph.boot, tell=lambda line: log.tell("info", line)))


def _with_qemu(facts: HostFacts) -> HostFacts:
    """The command is for some host that has QEMU; this one need not."""
    return facts if facts.qemu.path else facts._replace(qemu=facts.qemu._replace(path="qemu-system-x86_64"))
