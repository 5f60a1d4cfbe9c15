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
    import sys

    from runner.definition.file import read_file
    from runner.errors import UsageError

    name = words[0]
    data = sys.stdin.buffer.read() if name == "-" else read_file(name)
    try:
        return in_a_shell(data.decode("utf-8"))
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read as a command: {str(error).lower()}") from None


MOST_LINES = 200  # of one command, with those that an open quotation mark takes in


def in_a_shell(text: str) -> list[str]:
    """The first command of a known tool, in words as a shell gives them; none when there is none.

    A backslash takes the end of its line away (POSIX, XCU 2.2.1); a blank behind it, which a
    copy from a web page often has, is meant so too.  ValueError for a quotation mark left open.
    """
    import re

    text = re.sub(r"\\[ \t]+\n", " ", text.replace("\r\n", "\n").replace("\\\n", ""))
    lines = text.split("\n")
    fault: ValueError | None = None
    for first, line in enumerate(lines):
        if not any(tool in line for tool in TOOLS):
            continue
        try:
            words = _one_command(lines[first : first + MOST_LINES])
        except ValueError as error:  # prose around the command has apostrophes
            fault = fault or error
            continue
        if program(words):
            return words
    if fault is not None:
        raise fault
    return []


def _one_command(lines: list[str]) -> list[str]:
    """The first line's words, with those of lines that it leaves open or that go on with options."""
    import re
    import shlex

    count = 1
    while True:
        try:
            words = shlex.split("\n".join(lines[:count]), comments=True)
        except ValueError:
            if count == len(lines):
                raise
        else:
            if count == len(lines) or not re.match(r"\s*--?\w", lines[count]):
                break
        count += 1
    ends = (at for at, word in enumerate(words) if re.fullmatch(r"[;&|]+|\d*[<>].*|&>.*", word))
    return words[: next(ends, None)]


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
