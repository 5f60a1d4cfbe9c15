"""``[expect]``: whether a run has shown what it was to show."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.definition.model import Expect
    from runner.supervisor.ending import Ending
    from runner.verdict.decide import Verdict

GUESTS_OWN = (
    "exit", "power-off", "reset", "stopped", "panic", "triple-fault", "watchdog", "deadline", "hang",
)  # fmt: skip
"""Ends that say something about the guest; of any other, expectations cannot be judged."""


def judged(verdict: Verdict, expect: Expect, ending: Ending) -> Verdict:
    """``verdict``, or ``expectation`` when something is missing; an end that was expected is good."""
    if verdict.reason not in GUESTS_OWN:
        return verdict
    missing = _missing(verdict, expect, ending)
    if missing:
        words = f"{'; '.join(missing)} ({verdict.words})"
        return verdict._replace(reason="expectation", status=125, words=words)
    if expect.reason is not None or expect.status is not None:
        return verdict._replace(status=0)
    return verdict


def _missing(verdict: Verdict, expect: Expect, ending: Ending) -> list[str]:
    missing = [f"the console never showed `{text}`" for text in expect.console if text not in ending.seen]
    ended = _end(verdict, ending)
    if expect.reason is not None and ended != expect.reason:
        missing.append(f"the guest was to end by `{expect.reason}` and ended by `{ended}`")
    if expect.status is not None and verdict.guest_status != expect.status:
        given = "none" if verdict.guest_status is None else verdict.guest_status
        missing.append(f"the guest was to hand over status {expect.status} and handed over {given}")
    return missing


def _end(verdict: Verdict, ending: Ending) -> str:
    """The guest's own way to end: one that switches itself off at the power button has done so."""
    off = verdict.reason == "stopped" and ending.told is not None and ending.told.get("reason") == "power-off"
    return "power-off" if off else verdict.reason
