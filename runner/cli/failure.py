"""The end of a command that failed: what is said, and the status."""

from __future__ import annotations

import errno
import os
import sys

from runner.cli import log
from runner.errors import DefinitionError, HostIoError, VmrunError


def told(error: Exception) -> int:
    """Say what went wrong in one line, and what to do; returns the exit status."""
    if of_output(error):
        error = HostIoError(f"standard output: {str(error.args[1]).lower()}")
    if not isinstance(error, VmrunError):
        return _bug(error)
    if isinstance(error, DefinitionError) and error.findings:
        _findings(error.findings)
    _say(str(error), error.hint, error.status)
    if log.is_verbose() or os.environ.get("VMRUN_DEBUG"):
        _traceback(error)
    return error.status


def of_output(error: Exception) -> bool:
    """Whether our own output could not be written: every other file is named in its error."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return isinstance(error, OSError) and error.filename is None and error.errno in full


def _findings(findings: tuple[object, ...]) -> None:
    """Each fault of a definition: a paragraph for people, a record for a machine."""
    from runner.cli.show_findings import show_all
    from runner.definition.findings import Finding

    if not log.is_json():
        log.voice().write(show_all(findings, sys.stderr))
        return
    for one in findings:
        if isinstance(one, Finding):
            said = {key: value for key, value in one._asdict().items() if value != ""}
            log.tell(str(said.pop("severity")), str(said.pop("message")), **said)


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

    log.voice().write("".join(traceback.format_exception(error)))
