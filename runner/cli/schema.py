"""``vmrun schema``: the JSON schema of a definition, whole and self-contained."""

from __future__ import annotations

import sys

from runner.typed import TYPE_CHECKING, Iterable, NoReturn

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """One device's part of it, or a schema composed anew."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--device", metavar="KIND", help="only the part of one device, such as virtio_blk")
    which.add_argument(
        "--output",
        metavar="COMMAND",
        help=f"the schema of the JSON that a command writes: {', '.join(OUTPUTS)}",
    )
    which.add_argument(
        "--compose",
        metavar="FOLDER",
        help="compose it from machine.schema.json and devices/*.schema.json of a folder",
    )


def run(args: Namespace) -> int:
    """Print it on standard output."""
    from runner.definition.schema import compose_from, printed, schema_text, whole_schema

    if args.compose:
        sys.stdout.write(printed(compose_from(args.compose)))
    elif args.device:
        known = {name: part for name, part in whole_schema()["definitions"].items() if "x-vmrun" in part}
        sys.stdout.write(printed(_one(args.device, known)))
    elif args.output:
        sys.stdout.write(_output_schema(args.output))
    else:
        sys.stdout.write(schema_text().decode())
    return 0


OUTPUTS = {
    "balloon": "balloon", "check": "check", "diff": "diff", "doctor": "doctor", "facts": "host-facts",
    "host": "host-list", "plan": "plan", "ps": "ps", "run": "report",
}  # fmt: skip
"""Commands that write JSON (``facts`` is ``doctor --facts``), and the file in ``schemas/output``."""


def _one(name: str, known: dict[str, dict[str, object]]) -> dict[str, object]:
    """The part of one device.  Raises UsageError."""
    if name not in known:
        _refuse(f"there is no device `{name}` with keys of its own", name, known)
    return known[name]


def _output_schema(command: str) -> str:
    """The schema of what a command writes: of ``run`` it is the report.  Raises UsageError."""
    from runner.definition.schema import schema_folder

    if command not in OUTPUTS:
        _refuse(f"`{command}` is none of the commands that write JSON", command, OUTPUTS)
    with open(f"{schema_folder()}/output/{OUTPUTS[command]}.schema.json", encoding="utf-8") as file:
        return file.read()


def _refuse(words: str, name: str, known: Iterable[str]) -> NoReturn:
    from runner.definition.words import closest
    from runner.errors import UsageError

    near = closest(name, known)
    raise UsageError(
        words, hint=f"did you mean {near}?" if near else f"there are: {', '.join(sorted(known))}"
    )
