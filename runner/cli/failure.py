"""The end of a command that failed: what is said, and the status."""

from __future__ import annotations

import os
import sys

from runner.cli import log
from runner.errors import DefinitionError, VmrunError


def told(error: Exception) -> int:
    """Say what went wrong in one line, and what to do; returns the exit status."""
    if not isinstance(error, VmrunError):
        return _bug(error)
    if isinstance(error, DefinitionError) and error.findings:
        from runner.cli.show_findings import show_all

        sys.stderr.write(show_all(error.findings, sys.stderr))
    _say(str(error), error.hint, error.status)
    if log.is_verbose() or os.environ.get("VMRUN_DEBUG"):
        _traceback(error)
    return error.status


def _say(message: str, hint: str, status: int) -> None:
    """A machine gets one record, people a line for what is wrong and one for the way out."""
    if log.is_json():
        log.tell("error", message, **({"hint": hint} if hint else {}), status=status)
        return
    log.tell("error", message)
    for line in hint.splitlines():
        log.tell("notice", f"hint: {line}")


def _bug(error: Exception) -> int:
    """Something that no part of vmrun foresaw: not the user's fault, and not the user's to read."""
    verbose = log.is_verbose() or bool(os.environ.get("VMRUN_DEBUG"))
    hint = "" if verbose else "please report it with what the same command and -v print"
    _say(f"this is a bug in vmrun: {type(error).__name__}: {error}", hint, 70)
    if verbose:
        _traceback(error)
    return 70


def _traceback(error: Exception) -> None:
    import traceback

    sys.stderr.write("".join(traceback.format_exception(error)))
