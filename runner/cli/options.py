"""The options of ``vmrun run``, as one table: a quick reader of plain cases, and argparse for the rest.

Building an argparse parser costs as much as reading a definition, and in the run's own
start-up every millisecond counts.  What the quick reader does not know at once (``--help``,
abbreviations, mistakes) it leaves to argparse, which is built from the same table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Option(NamedTuple):
    """``metavar`` "" makes a switch; ``choices`` () allows any word."""

    name: str
    short: str
    metavar: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``--log-file`` → ``log_file``."""
        return self.name.lstrip("-").replace("-", "_")


RUN: tuple[Option, ...] = (
    Option("--engine", "-e", "ENGINE", "run with this engine and no other", ("kvm", "qemu")),
    Option("--timeout", "-t", "TIME", "end the run after this time, e.g. 60s or 5m; 0: never"),
    Option("--name", "-n", "NAME", "name for vmrun ps, stop and attach; must be free"),
    Option("--report", "", "FILE", "write a JSON report of the run"),
    Option("--junit", "", "FILE", "write the run as a JUnit test case"),
    Option("--timings", "", "", "say how long each phase took"),
    Option("--detach", "-d", "", "return when the guest has started; the console goes to `vmrun logs`"),
    Option("--log", "", "FORM", "how vmrun's own lines look", ("human", "json")),
    Option("--verbose", "-v", "", "say more"),
    Option("--quiet", "-q", "", "say only what went wrong"),
)

Values = dict[str, str | bool | None]


def read_quickly(arguments: list[str]) -> Values | None:
    """The values, or None when argparse has to look: help, an unknown word, a missing value."""
    names = {option.name: option for option in RUN} | {o.short: o for o in RUN if o.short}
    values: Values = {option.key: (None if option.metavar else False) for option in RUN}
    values["file"] = None
    words = iter(arguments)
    for word in words:
        head, equals, tail = word.partition("=")
        option = names.get(head)
        if option is None:
            if word.startswith("-") or values["file"] is not None:
                return None
            values["file"] = word
        elif option.metavar:
            value = tail if equals else next(words, None)
            if value is None or value.startswith("-") or (option.choices and value not in option.choices):
                return None
            values[option.key] = value
        elif equals:
            return None
        else:
            values[option.key] = True
    return values if values["file"] is not None else None


def add_to(parser: ArgumentParser) -> None:
    """The same table for argparse."""
    parser.add_argument("file", metavar="FILE", help="definition (TOML)")
    for option in RUN:
        flags = [flag for flag in (option.short, option.name) if flag]
        if option.metavar:
            parser.add_argument(
                *flags, metavar=option.metavar, choices=option.choices or None, help=option.help
            )
        else:
            parser.add_argument(*flags, action="store_true", help=option.help)


def seconds(text: str) -> float:
    """``60s``, ``1.5m``, ``2h``, ``500ms`` or plain seconds.  Raises ValueError."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        number = text[: len(text) - len(unit)]
        if text.endswith(unit) and number.replace(".", "", 1).isdecimal() and number.isascii():
            return float(number) * factor
    raise ValueError(f"`{text}` is no time: write 60s, 5m or 1.5h")
