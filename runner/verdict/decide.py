"""From the evidence of a run to one verdict: reason, status, and words that help."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, NamedTuple
from runner.verdict.reasons import REASONS, exit_status

if TYPE_CHECKING:
    from runner.definition.model import Expect
    from runner.supervisor.ending import Ending

LAST_LINES = 20
PANICKED = ("reset", "power-off", "triple-fault", "watchdog", "engine-died")
"""Ends that a panicked guest takes by itself (panic=N, a crash handler)."""


class Setting(NamedTuple):
    """What the verdict has to know of the machine to give advice."""

    cmdline: str = ""
    timeout: float | None = None  # seconds
    memory: int = 0  # bytes
    has_initramfs: bool = False
    serial: bool = False  # whether it has a serial line, ttyS0
    expect: Expect | None = None


class Verdict(NamedTuple):
    """How the run ended.  ``status`` is the command's; ``guest_status`` what the guest handed over."""

    reason: str
    status: int
    guest_status: int | None
    words: str
    hint: str
    detail: str
    symptom: str
    cpus: tuple[str, ...]
    last_lines: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nobody has to be told more than asked."""
        return self.status == 0


def decide(ending: Ending, setting: Setting) -> Verdict:
    """Pure: same evidence, same verdict."""
    verdict = _decide(ending, setting)
    if setting.expect is None:
        return verdict
    from runner.verdict.expectations import judged

    return judged(verdict, setting.expect, ending)


def _decide(ending: Ending, setting: Setting) -> Verdict:
    reason, guest_status, detail = _reason(ending)
    if reason in ("exit", "stopped", "signal") or (reason == "power-off" and not ending.said):
        return _plain(ending, reason, guest_status, detail)
    from runner.verdict.diagnose import diagnose

    return diagnose(ending, setting, reason, guest_status, detail)


def status_of(ending: Ending, reason: str, guest_status: int | None) -> int:
    """128+n for a signal, 128+SIGPIPE as of any program in a pipe, else the table's."""
    if reason == "signal" and ending.intent is not None:
        return 128 + ending.intent.signal
    return exit_status(reason, guest_status)


def _plain(ending: Ending, reason: str, guest_status: int | None, detail: str) -> Verdict:
    from runner.verdict.console_text import last_lines

    words = next(row.words for row in REASONS if row.name == reason)
    if reason == "exit":
        words = f"the guest handed over exit status {guest_status or 0}"
    if reason == "signal" and ending.intent is not None:
        from runner.host.signals import name

        words = f"ended by {name(ending.intent.signal)}"
    lines = last_lines(ending.output, LAST_LINES)
    return Verdict(
        reason, status_of(ending, reason, guest_status), guest_status, words, "", detail, "", (), lines
    )


def _reason(ending: Ending) -> tuple[str, int | None, str]:
    """(reason, the guest's status, detail), before the console has been read.

    What the guest said of its end comes first, unless we had ended it before; a guest
    that was asked to stop and hands over a status has still handed it over.
    """
    told, intent = ending.told, ending.intent
    if told is None:
        if intent is not None:
            return intent.reason, None, intent.detail
        return "engine-died", None, ending.died
    reason, detail = str(told.get("reason", "engine-died")), str(told.get("detail") or "")
    status = told.get("status")
    guest_status = status if isinstance(status, int) else None
    if reason == "engine-died":
        detail = ", ".join(words for words in (ending.died, detail) if words)
    if intent is None or (intent.reason == "stopped" and reason not in ("power-off", "reset", "stopped")):
        return reason, guest_status, detail
    return intent.reason, guest_status, intent.detail
