"""A completion script says what the parsers say, without making them."""

from __future__ import annotations

from importlib import import_module

import pytest

from runner.cli.commands import COMMANDS, MODULES
from runner.cli.completion import Choice, Verb, verbs
from runner.cli.parser import make


@pytest.mark.parametrize("verb", verbs(), ids=lambda verb: verb.name)
def test_what_is_declared_is_what_argparse_makes_of_it(verb: Verb) -> None:
    module = import_module(f"runner.cli.{MODULES.get(verb.name, verb.name)}")
    words, choices = [], []
    for action in make(verb.name, module.add_arguments)._actions:
        listed = tuple(str(word) for word in action.choices or ())
        if action.option_strings:
            names = tuple(action.option_strings)
            choices.append(Choice(names, action.nargs != 0, listed, action.help or ""))
        else:
            words.extend(listed)
    assert verb == Verb(verb.name, COMMANDS[verb.name], tuple(words), tuple(choices))
