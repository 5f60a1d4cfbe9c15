"""Ends that need an explanation: what happened, in one sentence, and what to try."""

from __future__ import annotations

from runner.definition.model import Json
from runner.supervisor.ending import Ending
from runner.typed import Mapping
from runner.verdict import panic, symptoms
from runner.verdict.console_text import last_lines, plain_lines
from runner.verdict.cpus import cpu_lines
from runner.verdict.decide import LAST_LINES, PANICKED, Setting, Verdict, status_of
from runner.verdict.reasons import REASONS

BUSY, IDLE = 0.5, 0.05  # shares of one host CPU
SEARCHED = 200  # last lines in which a symptom is looked for


def diagnose(ending: Ending, setting: Setting, reason: str, guest_status: int | None, detail: str) -> Verdict:
    """Read the console's last lines, and say more than the bare reason does."""
    lines = plain_lines(ending.output)
    found = panic.find(lines)
    if found is not None and found.last and reason in (*PANICKED, "deadline", "hang"):
        reason = "panic"
    shown = lines[found.line - 30 if found and found.line > 30 else 0 :] if found else lines[-SEARCHED:]
    symptom = symptoms.find(shown) if reason not in ("power-off", "reset", "output-closed") else None
    words, hint = _words(ending, setting, reason, detail)
    if reason == "panic" and found is not None:
        words = f"the guest kernel panicked: {found.cause}"
    if symptom is not None:
        words = f"{words}; {symptom[1]}"
        hint = symptom[0].hint
    return Verdict(
        reason=reason,
        status=status_of(ending, reason, guest_status),
        guest_status=guest_status,
        words=words,
        hint=hint,
        detail=detail,
        symptom=symptom[0].name if symptom else "",
        cpus=tuple(cpu_lines(_cpus(ending))),
        last_lines=last_lines(ending.output, LAST_LINES),
    )


def _cpus(ending: Ending) -> Mapping[str, Json]:
    """The snapshot that was asked for, else the registers that came with the end."""
    if ending.cpus is not None:
        return ending.cpus
    facts = ending.told.get("facts") if ending.told else None
    return facts if isinstance(facts, dict) else {}


def _words(ending: Ending, setting: Setting, reason: str, detail: str) -> tuple[str, str]:
    """(what happened, what to try) from the reason alone."""
    words = next((row.words for row in REASONS if row.name == reason), reason)
    if reason in ("deadline", "hang"):
        return _deadline(ending, setting, reason)
    if reason == "triple-fault":
        return f"{words}, which resets a CPU that cannot even report a fault", _silent_hint(ending, setting)
    if reason == "engine-died":
        return f"{words} ({detail or 'how is not known'})", _died_hint(detail)
    if reason == "emulation-failure":
        return (
            f"{words}{f' ({detail})' if detail else ''}",
            "KVM emulates what touches no memory of the guest, and some KVMs every instruction; this one it "
            "cannot. `vmrun doctor` says which KVM this is, `--engine qemu` knows all instructions",
        )
    return f"{words}{f' ({detail})' if detail else ''}", _silent_hint(ending, setting)


def _deadline(ending: Ending, setting: Setting, reason: str) -> tuple[str, str]:
    limit = f"{setting.timeout:g} s" if setting.timeout else "the deadline"
    if not ending.said:
        words = f"{limit} passed and the guest has not said a word; {_activity(ending)}"
        return words, _silent_hint(ending, setting)
    if reason == "hang":
        words = f"{limit} passed and the guest had been silent for {ending.silent:.0f} s; {_activity(ending)}"
        return words, "the last lines tell where it stopped"
    return f"{limit} passed while the guest was still working", "give it a longer `timeout`"


def _activity(ending: Ending) -> str:
    if ending.busy is None:
        return "what its CPUs did was not measured"
    if ending.busy <= IDLE:
        return "its CPUs were idle: it waits for something"
    if ending.busy >= BUSY:
        return f"its CPUs were busy ({ending.busy * 100:.0f} % of one): it computes or spins"
    return f"its CPUs were little used ({ending.busy * 100:.0f} % of one)"


def _silent_hint(ending: Ending, setting: Setting) -> str:
    if ending.said:
        return ""
    if setting.serial and "console=" not in setting.cmdline:
        return "cmdline has no `console=ttyS0`: the kernel's words went nowhere"
    return (
        "add `earlyprintk=ttyS0` and `ignore_loglevel` to cmdline to hear it before its console is up; "
        "is it a kernel for x86-64?"
    )


def _died_hint(detail: str) -> str:
    if "SIGKILL" in detail:
        return "somebody killed it; `dmesg` tells whether it was the kernel, for want of memory"
    return "this is a fault of vmrun or of the emulator: run it again with -v and report it"
