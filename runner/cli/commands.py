"""Which command the words ask for.  Nothing of any command is imported before it is chosen."""

from __future__ import annotations

import os
import sys

from runner.errors import UsageError
from runner.light import import_module

COMMANDS = {
    "run": "boot the machine of a file (the default: vmrun FILE)",
    "check": "tell everything that is wrong with files, and start nothing",
    "plan": "show the resolved machine: memory map, slots, lines, engine",
    "diff": "compare the machines of two files or stored plans",
    "ps": "list the machines that run",
    "stop": "end a machine: power button, then deadline, then kill",
    "attach": "take over the console of a machine that runs",
    "logs": "show what a machine has written on its console",
    "pause": "hold a machine's CPUs",
    "resume": "let a held machine go on",
    "balloon": "show or change how much memory a machine gives back",
    "doctor": "say what this host can do, and how to mend what it cannot",
    "host": "list, bind, unbind and restore the host's PCI devices",
    "import": "turn a command line of cloud-hypervisor or QEMU into a definition",
    "export": "turn a definition into a command line of QEMU",
    "schema": "print the JSON schema of a definition",
    "completion": "print the completion script for bash, zsh or fish",
}
"""Verb and summary; the verb is the module's name.  The one place where commands are registered."""

MODULES = {"import": "import_"}
"""A verb that is a word of Python, and its module."""


QUICK = ("run", "completion")
"""Commands whose start-up time counts (a shell asks for its completion when it starts): no argparse."""

VERBOSE = {"-v", "-vv", "--verbose"}
QUIET = {"-q", "--quiet"}
GLOBAL_SWITCHES = VERBOSE | QUIET
"""Options of every command that may also stand before it; ``--log FORM`` is the one with a value."""

EPILOGUE = """\
`vmrun FILE` is `vmrun run FILE`; `vmrun COMMAND --help` tells a command's options.
Standard output is the guest's (or a command's result), standard error is ours.

exit status: the guest's own, or 64 usage, 65 definition invalid, 69 host cannot,
70 bug of vmrun, 74 input/output error, 77 permission, 124 deadline or watchdog, 125 expectation
failed, 134 guest panicked, 139 guest triple-faulted, 128+n signal
"""


def dispatch(words: list[str]) -> int:
    """Run the command that ``words`` ask for; returns its exit status."""
    position = first_word(words)
    word = words[position] if position < len(words) else ""
    if word in ("--version", "-V"):
        return _version()
    if word in ("--help", "-h", "help"):
        return _help(words[position + 1 :])
    from runner.cli import log

    if not word:
        log.voice().write(help_text())
        return 64

    log.configure(verbose=len(VERBOSE & set(words)), quiet=bool(QUIET & set(words)), form=_log_form(words))
    verb, rest = chosen(words, position)
    return run_command(verb, rest)


def run_command(verb: str, words: list[str]) -> int:
    """Import one command, read its words, and run it."""
    from runner.cli import log

    command = import_module(f"runner.cli.{MODULES.get(verb, verb)}")
    if verb in QUICK:
        from runner.cli.arguments import parse
    else:
        from runner.cli.parser import parse
    args = parse(verb, command.add_arguments, words)
    log.configure(verbose=args.verbose, quiet=args.quiet, form=args.log)
    status: int = command.run(args)
    return status


def _log_form(words: list[str]) -> str:
    """The form of our own lines, known before the words are read: a usage error has it too."""
    for before, word in zip(["", *words], words, strict=False):
        given = word if before == "--log" else word.removeprefix("--log=")
        if (before == "--log" or given != word) and given in ("human", "json"):
            return given
    return "json" if os.environ.get("VMRUN_LOG") == "json" else "human"


def first_word(words: list[str]) -> int:
    """The index of the first word that is no global option."""
    position = 0
    while position < len(words):
        if words[position] == "--log":
            position += 1
        elif words[position] not in GLOBAL_SWITCHES and not words[position].startswith("--log="):
            break
        position += 1
    return position


def chosen(words: list[str], position: int) -> tuple[str, list[str]]:
    """The verb, and the words without it.  Raises UsageError for a word that is none."""
    word = words[position]
    if word in COMMANDS:
        return word, words[:position] + words[position + 1 :]
    if word.startswith("-") or "/" in word or word.endswith(".toml") or os.path.isfile(word):
        return "run", words
    raise UsageError(f"`{word}` is neither a command nor a file", hint=_near(word))


def _near(word: str) -> str:
    from runner.definition.words import closest

    near = closest(word, COMMANDS)
    if near:
        return f"did you mean `vmrun {near}`?"
    if os.path.isfile(f"{word}.toml"):
        return f"did you mean `vmrun {word}.toml`?"
    return "`vmrun --help` lists the commands"


def help_text() -> str:
    """The whole of ``vmrun --help``, made without importing any command."""
    rows = "".join(f"  {verb:<12}{summary}\n" for verb, summary in COMMANDS.items())
    return (
        "usage: vmrun [-v] [-q] [--log human|json] [COMMAND] …\n"
        "       vmrun FILE\n\nBoot a virtual machine that a TOML file describes.\n\n"
        f"commands:\n{rows}\noptions:\n"
        "  -h, --help        this text\n"
        "  -V, --version     the version\n"
        "  -v, --verbose     say more on standard error (and show tracebacks)\n"
        "  -q, --quiet       say only what went wrong\n"
        "  --log human|json  form of what is said on standard error\n\n" + EPILOGUE
    )


def _help(words: list[str]) -> int:
    """``vmrun help [COMMAND]``."""
    if words and words[0] in COMMANDS:
        return run_command(words[0], ["--help"])
    if words and not words[0].startswith("-"):
        raise UsageError(f"there is no command `{words[0]}`", hint=_near(words[0]))
    sys.stdout.write(help_text())
    return 0


def _version() -> int:
    from runner import __version__

    sys.stdout.write(f"vmrun {__version__}\n")
    return 0
