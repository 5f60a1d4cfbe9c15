"""argparse, with the house's manners: status 64, "did you mean", no abbreviations."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from runner.cli.arguments import add_global_arguments
from runner.definition.words import closest
from runner.errors import UsageError
from runner.typed import Any, Callable, NoReturn


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit with 2."""

    _given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """What argparse cannot read; a misspelt option is told before what it left out."""
        if "are required" in message and (unknown := self._unknown_options()):
            self._unknown(unknown[0])
        alone = re.fullmatch(r"argument (.*): expected one argument", message)
        if alone and (value := self._dashed_value(alone[1].split("/"))):
            option = alone[1].split("/")[-1]
            self._refuse(
                f"{option} lacks its value: `{value}` begins with a dash, as options do",
                f"such a value is written {option}={value}",
            )
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            near = closest(choice[1], re.findall(r"'([^']*)'", choice[2]))
            if near:
                self._refuse(message, f"did you mean {near}?")
        self._refuse(message, f"`{self.prog} --help` tells the options")

    def _refuse(self, message: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('vmrun ')}: {message}", hint=hint)

    def _print_message(self, message: str, file: Any = None) -> None:
        """The help is a command's result: that it cannot be written is not passed over, as argparse does."""
        (file or sys.stderr).write(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but an unknown option is told with the one that was probably meant."""
        self._given = list(args or ())
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._unknown(unknown[0])
        return known

    def _dashed_value(self, names: list[str]) -> str:
        """The word after an option that argparse took for another option."""
        pairs = zip(self._given, self._given[1:], strict=False)
        words = (word for name, word in pairs if name in names and word not in self._option_string_actions)
        return next((word for word in words if word.startswith("-")), "")

    def _unknown_options(self) -> list[str]:
        given = list(self._given)
        before = given[: given.index("--")] if "--" in given else given  # behind it stand no options
        options = [word for word in before if word.startswith("-") and word != "-"]
        return [word for word in options if word.partition("=")[0] not in self._option_string_actions]

    def _unknown(self, word: str) -> NoReturn:
        near = closest(word.partition("=")[0], self._option_string_actions, 0.7)
        hint = f"did you mean {near}?" if near else f"`{self.prog} --help` tells the options"
        what = "unknown option" if word.startswith("-") else "one word too many:"
        self._refuse(f"{what} {word}", hint)


def make(verb: str, add_arguments: Callable[[Any], None]) -> Parser:
    """The parser of one command: its own arguments and the global ones."""
    from runner.cli.commands import COMMANDS

    parser = Parser(prog=f"vmrun {verb}", description=_sentence(COMMANDS[verb]), allow_abbrev=False)
    add_arguments(parser)
    add_global_arguments(parser)
    return parser


def parse(verb: str, add_arguments: Callable[[Any], None], words: list[str]) -> argparse.Namespace:
    """The arguments of a command.  Raises UsageError; SystemExit(0) after ``--help``."""
    parsed: argparse.Namespace = make(verb, add_arguments).parse_args(words)
    return parsed


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."
