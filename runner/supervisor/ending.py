"""How a run ended, as the supervisor saw it: the evidence for the verdict."""

from __future__ import annotations

from runner.definition.model import Json
from runner.typed import Mapping, NamedTuple


class Intent(NamedTuple):
    """Why *we* end the guest: a reason of runner.verdict.reasons, and the signal if there was one."""

    reason: str
    signal: int = 0
    detail: str = ""


class Ending(NamedTuple):
    """Everything known about the end.

    ``told`` is the VM process's own "end" event (None: it ended without a word), ``intent``
    what we wanted before that, ``died`` how the process ended ("killed by SIGKILL").
    ``silent`` is seconds since the last console output (since the start when there was
    none), ``busy`` the share of one host CPU that the VM process used in its last
    seconds (None: not measured).  ``cpus`` is what the virtual CPUs did last.
    """

    told: Mapping[str, Json] | None
    intent: Intent | None
    died: str = ""
    silent: float = 0.0
    busy: float | None = None
    cpus: Mapping[str, Json] | None = None
    output: bytes = b""
    said: int = 0  # bytes of console output altogether
    dropped: int = 0
    phases: tuple[tuple[str, int], ...] = ()  # (name, CLOCK_MONOTONIC ns)
    seen: tuple[str, ...] = ()  # expected texts that a console has shown
