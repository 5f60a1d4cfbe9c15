"""``vmrun schema``: the JSON schema of a definition, whole and self-contained."""

from __future__ import annotations

import sys

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """One device's part of it, or a schema composed anew."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--device", metavar="KIND", help="only the part of one device, such as virtio_blk")
    which.add_argument("--output", metavar="COMMAND", help="the schema of what a command prints with --json")
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
        sys.stdout.write(printed(_one(args.device, known, "device")))
    elif args.output:
        sys.stdout.write(_output_schema(args.output))
    else:
        sys.stdout.write(schema_text().decode())
    return 0


def _one(name: str, known: dict[str, dict[str, object]], what: str) -> dict[str, object]:
    if name not in known:
        from runner.definition.words import closest
        from runner.errors import UsageError

        near = closest(name, known)
        hint = f"did you mean {near}?" if near else f"there are: {', '.join(sorted(known))}"
        raise UsageError(f"there is no {what} `{name}` with keys of its own", hint=hint)
    return known[name]


def _output_schema(command: str) -> str:
    """What ``--json`` of a command prints is described in ``schemas/output/``."""
    import os

    from runner.definition.schema import schema_folder

    folder = f"{schema_folder()}/output"
    suffix = ".schema.json"
    names: dict[str, dict[str, object]] = {
        name.removesuffix(suffix): {} for name in os.listdir(folder) if name.endswith(suffix)
    }
    _one(command, names, "output")
    with open(f"{folder}/{command}{suffix}", encoding="utf-8") as file:
        return file.read()
