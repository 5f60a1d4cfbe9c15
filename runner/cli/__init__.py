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
    try:
        from runner.cli.commands import dispatch

        status = dispatch(words)
        if sys.stdout is not None:  # closed before we came
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:
        from runner.cli.failure import told

        return told(error)


def _pipe_closed() -> int:
    """The reader has gone (``vmrun … | head``).  Python's own flush at the end must not meet it again."""
    import os

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)
    return BROKEN_PIPE
