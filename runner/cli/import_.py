"""``vmrun import``: another tool's command line as a definition, on standard output."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.exchange.taken import Imported

TOOLS = {
    "cloud-hypervisor": "cloud_hypervisor", "qemu-system-x86_64": "qemu", "qemu": "qemu", "kvm": "qemu",
}  # fmt: skip
"""A program's name and the module that reads its words."""


def add_arguments(parser: ArgumentParser) -> None:
    """The command line, as words or in a file."""
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="+",
        help="after --, the command: cloud-hypervisor … or qemu-system-x86_64 …; "
        "or a file that holds it, - for standard input",
    )


def run(args: Namespace) -> int:
    """Print the definition; what could not be taken over is said, and stands in it as a comment."""
    import sys

    from runner.cli import log
    from runner.exchange.toml_text import toml

    imported = read(command(args.words))
    for note in imported.notes:
        log.tell("warning", note)
    comments = "".join(f"# {' '.join(note.split())}\n" for note in imported.notes)
    sys.stdout.write(comments + ("\n" if comments else "") + toml(imported.document))
    return 0


def command(words: list[str]) -> list[str]:
    """The words of the command, from a file where only that is named.  Raises UsageError."""
    if len(words) > 1 or program(words):
        return words
    import shlex
    import sys

    from runner.definition.file import read_file
    from runner.errors import UsageError

    name = words[0]
    data = sys.stdin.buffer.read() if name == "-" else read_file(name)
    try:
        return shlex.split(data.decode("utf-8"), comments=True)
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read as a command: {str(error).lower()}") from None


def program(words: list[str]) -> int:
    """One more than the place of the program's name among the words; 0 when there is none."""
    places = (at for at, word in enumerate(words, 1) if word.rpartition("/")[2] in TOOLS)
    return next(places, 0)


def read(words: list[str]) -> Imported:
    """The definition that a command stands for.  Raises UsageError."""
    from runner.errors import UsageError
    from runner.light import import_module

    start = program(words)
    if not start:
        known = ", ".join(TOOLS)
        hint = "vmrun import -- cloud-hypervisor --kernel vmlinux …"
        raise UsageError(f"no command of a known tool (one of {known})", hint=hint)
    tool = words[start - 1].rpartition("/")[2]
    try:
        found: Imported = import_module(f"runner.exchange.{TOOLS[tool]}").read(words[start:])
    except (ValueError, KeyError) as error:
        raise UsageError(f"{tool}: an option has a value that it cannot have: {error}") from None
    return found
