"""The arguments of ``vmrun run`` without argparse, whose import costs 8 ms of a start that has 20.

It records the calls of ``add_argument`` and reads plain command lines from them.  Whatever is
not plain (``--help``, an unknown option, a bad value) is given to argparse, which then says
it in its words; so both read the same declarations and neither can disagree on a valid line.
"""

from __future__ import annotations

import os

from runner.light import SimpleNamespace
from runner.typed import Any, Callable


class _Unclear(Exception):
    """Not a plain command line: argparse decides."""


class Option:
    """One recorded ``add_argument``; the keywords are argparse's."""

    def __init__(self, names: tuple[str, ...], **settings: Any) -> None:
        self.positional = not names[0].startswith("-")
        long = next((name for name in names if name.startswith("--")), names[0])
        self.dest: str = settings.get("dest") or long.lstrip("-").replace("-", "_")
        self.action: str = settings.get("action", "store")
        self.default: Any = settings.get("default", False if self.action == "store_true" else None)
        self.choices: Any = settings.get("choices")
        self.type: Callable[[str], Any] = settings.get("type", str)
        self.nargs: Any = settings.get("nargs")

    @property
    def takes_value(self) -> bool:
        """Whether a word follows it."""
        return self.action in ("store", "append")

    def value(self, word: str) -> Any:
        """The word as its type.  Raises _Unclear where argparse would complain."""
        try:
            found = self.type(word)
        except Exception:
            raise _Unclear from None
        if self.choices is not None and found not in self.choices:
            raise _Unclear
        return found


class Recorder:
    """Stands in for an ArgumentParser while a command declares its arguments."""

    def __init__(self) -> None:
        self.options: dict[str, Option] = {}
        self.positionals: list[Option] = []
        self.defaults: dict[str, Any] = {}

    def add_argument(self, *names: str, **settings: Any) -> None:
        """As ArgumentParser.add_argument, for the actions store, append, store_true and count."""
        option = Option(names, **settings)
        self.defaults[option.dest] = option.default
        if option.positional:
            self.positionals.append(option)
        for name in names if not option.positional else ():
            self.options[name] = option

    def add_mutually_exclusive_group(self, **_: Any) -> Recorder:
        """Options of which one excludes the others: two of them are argparse's case."""
        return _Group(self)

    def read(self, words: list[str]) -> SimpleNamespace:
        """The namespace for plain words.  Raises _Unclear for any others."""
        values = dict(self.defaults)
        places = list(self.positionals)
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--" or (word.startswith("-") and word not in self.options and "=" not in word):
                raise _Unclear
            if word.startswith("-") and word != "-":
                self._option(word, rest, values)
                continue
            if not places or places[0].nargs not in (None, "?"):
                raise _Unclear
            place = places.pop(0)
            values[place.dest] = place.value(word)
        if any(place.nargs != "?" for place in places):
            raise _Unclear
        return SimpleNamespace(**values)

    def _option(self, word: str, rest: list[str], values: dict[str, Any]) -> None:
        name, equals, given = word.partition("=")
        option = self.options.get(name)
        if option is None or option.nargs is not None or option.action not in _ACTIONS:
            raise _Unclear
        if not option.takes_value:
            if equals:
                raise _Unclear
            values[option.dest] = True if option.action == "store_true" else (values[option.dest] or 0) + 1
            return
        if not equals:
            if not rest or (rest[0].startswith("-") and rest[0] != "-"):
                raise _Unclear
            given = rest.pop(0)
        final = option.value(given)
        if option.action == "append":
            final = [*(values[option.dest] or []), final]
        values[option.dest] = final


_ACTIONS = ("store", "append", "store_true", "count")


class _Group(Recorder):
    """A group that excludes: its members are recorded as ones that need argparse's check."""

    def __init__(self, owner: Recorder) -> None:
        super().__init__()
        self._owner = owner

    def add_argument(self, *names: str, **settings: Any) -> None:
        option = Option(names, **settings)
        self._owner.defaults[option.dest] = option.default
        for name in names:
            self._owner.options[name] = option
            option.action = "excluding"


def add_global_arguments(parser: Any) -> None:
    """What every command understands: how much is said, and in which form."""
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more on standard error")
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument(
        "--log",
        choices=("human", "json"),
        default=default_log(),
        help="form of what is said on standard error",
    )


def default_log() -> str:
    """``VMRUN_LOG``, or human."""
    form = os.environ.get("VMRUN_LOG", "human")
    return form if form in ("human", "json") else "human"


def parse(verb: str, add_arguments: Callable[[Any], None], words: list[str]) -> Any:
    """The arguments of a command.  Raises UsageError; SystemExit(0) after ``--help``."""
    recorder = Recorder()
    add_arguments(recorder)
    add_global_arguments(recorder)
    try:
        return recorder.read(words)
    except _Unclear:
        from runner.cli import parser

        return parser.parse(verb, add_arguments, words)
