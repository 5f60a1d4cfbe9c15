"""``vmrun completion bash|zsh|fish``: a script for the shell, made from the commands' own options."""

from __future__ import annotations

import sys

from runner.light import import_module
from runner.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

SHELLS = ("bash", "zsh", "fish")


class Choice(NamedTuple):
    """One option of a command: its names, the words it takes (() for none or anything), its help."""

    names: tuple[str, ...]
    takes_value: bool
    words: tuple[str, ...]
    help: str


class Verb(NamedTuple):
    """One command: what can follow it, before any file."""

    name: str
    summary: str
    words: tuple[str, ...]  # subcommands, or the choices of its first argument
    choices: tuple[Choice, ...]


def add_arguments(parser: ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, help="which shell the script is for")


def run(args: Namespace) -> int:
    """Print the script; ``source <(vmrun completion bash)`` is all that is needed."""
    script = {"bash": bash, "zsh": zsh, "fish": fish}[args.shell]
    sys.stdout.write(script(verbs()))
    return 0


def verbs() -> tuple[Verb, ...]:
    """All commands as their parsers declare them."""
    from runner.cli.commands import COMMANDS

    return tuple(_verb(name, summary) for name, summary in COMMANDS.items())


def _verb(name: str, summary: str) -> Verb:
    from runner.cli.arguments import add_global_arguments
    from runner.cli.commands import MODULES

    declared = Declared()
    import_module(f"runner.cli.{MODULES.get(name, name)}").add_arguments(declared)
    add_global_arguments(declared)
    return Verb(name, summary, tuple(declared.words), tuple(declared.choices))


class Declared:
    """Stands in for an ArgumentParser: what a command declares is all that a script wants to know.

    Seventeen parsers, and argparse itself, would take longer than all the rest.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.choices = [Choice(("-h", "--help"), False, (), "show this help message and exit")]

    def add_argument(self, *names: str, **settings: Any) -> None:
        """As ArgumentParser.add_argument."""
        listed = tuple(str(word) for word in settings.get("choices") or ())
        if not names[0].startswith("-"):
            self.words.extend(listed)
            return
        takes = settings.get("action", "store") in ("store", "append")
        self.choices.append(Choice(names, takes, listed, settings.get("help", "")))

    def add_mutually_exclusive_group(self, **_: Any) -> Declared:
        """Which of them excludes which, a script does not know."""
        return self

    def add_subparsers(self, **_: Any) -> Declared:
        """The commands of a command are words; what each takes is not told apart."""
        return self

    def add_parser(self, name: str, **_: Any) -> Declared:
        """One of them."""
        self.words.append(name)
        return Declared()


def bash(commands: tuple[Verb, ...]) -> str:
    """For bash's ``complete``."""
    cases = "".join(_bash_case(verb) for verb in commands)
    names = " ".join(verb.name for verb in commands)
    return f"""\
# bash completion for vmrun; source <(vmrun completion bash)
_vmrun() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local verb="" options="" words="" part files
  for part in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$part" in -*) ;; *) verb="$part"; break ;; esac
  done
  case "$verb" in
{cases}    "") words="{names}"; options="--help --version --verbose --quiet --log" ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) files="$(compgen -f -X '!*.toml' -- "$word"; compgen -d -- "$word")"
      COMPREPLY=($(compgen -W "$words" -- "$word") $files) ;;
  esac
}}
complete -o filenames -F _vmrun vmrun
"""


def _bash_case(verb: Verb) -> str:
    options = " ".join(name for choice in verb.choices for name in choice.names)
    values = "".join(
        f"        {'|'.join(choice.names)})"
        f' COMPREPLY=($(compgen -W "{" ".join(choice.words)}" -- "$word")); return ;;\n'
        for choice in verb.choices
        if choice.words
    )
    return (
        f'    {verb.name})\n      case "$before" in\n{values}      esac\n'
        f'      options="{options}"; words="{" ".join(verb.words)}" ;;\n'
    )


def zsh(commands: tuple[Verb, ...]) -> str:
    """For zsh's ``compsys``."""
    described = "\n".join(f"    {_single(verb.name + ':' + verb.summary)}" for verb in commands)
    cases = []
    for verb in commands:
        rows = [row for choice in verb.choices for row in _zsh_option(choice)]
        rows.append(f"'1: :({' '.join(verb.words)})'" if verb.words else "'*:file:_files -g \"*.toml\"'")
        cases.append(f"    {verb.name}) _arguments {' '.join(rows)} ;;")
    joined = "\n".join(cases)
    return f"""\
#compdef vmrun
# zsh completion for vmrun; source <(vmrun completion zsh)
_vmrun() {{
  local -a verbs
  verbs=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command verbs
    _files -g "*.toml"
    return
  fi
  local verb=$words[2]
  shift words
  (( CURRENT-- ))
  case $verb in
{joined}
    *) _files -g "*.toml" ;;
  esac
}}
compdef _vmrun vmrun
"""


def _zsh_option(choice: Choice) -> list[str]:
    value = f": :({' '.join(choice.words)})" if choice.words else ": :_files" if choice.takes_value else ""
    text = choice.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    return [_single(f"{name}[{text}]{value}") for name in choice.names]


def fish(commands: tuple[Verb, ...]) -> str:
    """For fish's ``complete``."""
    lines = ["# fish completion for vmrun; vmrun completion fish | source", "complete -c vmrun -f"]
    names = " ".join(verb.name for verb in commands)
    first = f"not __fish_seen_subcommand_from {names}"
    start = f"complete -c vmrun -n {_single(first)}"
    lines.extend(f"{start} -a {verb.name} -d {_single(verb.summary)}" for verb in commands)
    lines.append("complete -c vmrun -a '(__fish_complete_suffix .toml)'")
    for verb in commands:
        seen = _single(f"__fish_seen_subcommand_from {verb.name}")
        if verb.words:
            lines.append(f"complete -c vmrun -n {seen} -a {_single(' '.join(verb.words))}")
        lines.extend(f"complete -c vmrun -n {seen}{_fish_option(choice)}" for choice in verb.choices)
    return "\n".join(lines) + "\n"


def _fish_option(choice: Choice) -> str:
    flags = "".join(
        f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in choice.names
    )
    words = f" -x -a {_single(' '.join(choice.words))}" if choice.words else ""
    return flags + (words or (" -r" if choice.takes_value else "")) + f" -d {_single(choice.help)}"


def _single(text: str) -> str:
    """In single quotes, for each of the three shells."""
    return "'" + text.replace("'", "'\\''") + "'"
