"""Commands, one file each: the only room that prints or exits."""

from __future__ import annotations

import sys

INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13


def main(argv: list[str] | None = None) -> int:
    """The command line: run what is asked for and return the exit status.

    Whatever happens becomes a status and, at most, a few lines on standard error
    (docs/reference/exit-status.md); a traceback is shown only with ``-v`` or VMRUN_DEBUG.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    _open_what_was_closed()
    _write_what_it_cannot_spell()
    try:
        status = _dispatched(words)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:
        from runner.cli.failure import of_output, told

        if of_output(error):
            _drop_output()
        return told(error)


def _dispatched(words: list[str]) -> int:
    from runner.cli.commands import dispatch

    try:
        return dispatch(words)
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0


def _write_what_it_cannot_spell() -> None:
    """A sign that standard output's encoding lacks (or a name that is no text) is written as \\uXXXX."""
    from io import TextIOWrapper

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _open_what_was_closed() -> None:
    """Who closes an output (``>&-``) does not want it: what is written there goes nowhere."""
    if sys.stdout is None or sys.stderr is None:
        import os

        nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def _pipe_closed() -> int:
    """The reader has gone (``vmrun … | head``)."""
    _drop_output()
    return BROKEN_PIPE


def _drop_output() -> None:
    """What cannot be written is let go: Python's own flush at the end must not meet it again."""
    import os

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)
