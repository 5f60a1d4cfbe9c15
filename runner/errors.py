"""Errors by blame: who has to act decides the class, and the class decides the exit status.

A message is written for somebody who has never seen it: it names both parties,
tells an errno in words, and ``hint`` says what to do next (a command, if there is one).
Statuses follow sysexits.h where it has one.
"""

from __future__ import annotations


class VmrunError(Exception):
    """Anything vmrun itself reports; ``str(error)`` is one line, ``hint`` the way out."""

    status = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VmrunError):
    """The command line cannot be understood (EX_USAGE)."""

    status = 64


class DefinitionError(VmrunError):
    """The definition is wrong (EX_DATAERR); every finding is carried, not only the first."""

    status = 65

    def __init__(self, message: str, findings: tuple[object, ...] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = findings


class HostError(VmrunError):
    """This host cannot do it: no KVM, no device, no such program (EX_UNAVAILABLE)."""

    status = 69


class HostIoError(HostError):
    """Reading or writing something of the host failed (EX_IOERR)."""

    status = 74


class HostPermissionError(HostError):
    """The host could, this user may not (EX_NOPERM)."""

    status = 77


class InternalError(VmrunError):
    """vmrun broke its own rules (EX_SOFTWARE)."""

    status = 70


def way_of(error: BaseException) -> str:
    """Where it was raised, outermost call first: a traceback for processes that can open no source file."""
    lines = []
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        lines.append(f"  {code.co_filename}:{at.tb_lineno} in {code.co_name}")
        at = at.tb_next
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])
