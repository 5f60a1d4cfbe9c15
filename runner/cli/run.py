"""``vmrun FILE``: run a machine; the guest's exit status becomes ours."""

from __future__ import annotations

import os
import sys
from time import monotonic_ns
from typing import TYPE_CHECKING

from runner.cli.narrator import Narrator
from runner.cli.options import Values, add_to, read_quickly, seconds
from runner.errors import UsageError, VmrunError
from runner.supervisor.record import Request, Run

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.host.signals import Signals
    from runner.verdict.decide import Verdict

SUMMARY = "run a machine (what `vmrun FILE` does)"
SHOWN_LINES = 8


def add_arguments(parser: ArgumentParser) -> None:
    """The options of a run."""
    add_to(parser)


def run(args: Namespace) -> int:
    """As parsed by argparse."""
    return _run(vars(args), monotonic_ns())


def main(arguments: list[str], began_ns: int | None = None) -> int | None:
    """Run if the arguments are a plain case; None leaves them to argparse."""
    values = read_quickly(arguments)
    return None if values is None else _run(values, began_ns or monotonic_ns())


def _run(values: Values, began_ns: int) -> int:
    from runner.host.signals import Interrupted, Signals

    _open_standard_streams()
    form = str(values["log"] or "human")
    tell = Narrator(quiet=bool(values["quiet"]), verbose=bool(values["verbose"]), form=form)
    signals = Signals()
    try:
        signals.install()
        record = Run(_request(values), began_ns)
        if record.request.detached:
            from runner.cli.detach import detach

            return detach(record, lambda: _execute(record, values, signals, tell), tell)
        return _execute(record, values, signals, tell)
    except UsageError as error:
        _say_error(error, tell)
        return error.status
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _execute(record: Run, values: Values, signals: Signals, tell: Narrator) -> int:
    """One run and its report.  Everything that goes wrong becomes words and a status."""
    from runner.host.signals import Interrupted
    from runner.supervisor.launch import execute

    try:
        verdict = execute(record, signals, tell)
    except VmrunError as error:
        _say_error(error, tell)
        record.error = error
    except Interrupted as interrupted:
        tell("error", f"{interrupted} before the guest was started")
        record.signal = interrupted.number
    else:
        _say_verdict(verdict, record, tell)
    return _report(record, values, tell)


def _report(record: Run, values: Values, tell: Narrator) -> int:
    """Write what was asked for; a report that cannot be written is a failure of its own."""
    if values["timings"]:
        for phase, milliseconds in record.times():
            tell("notice", f"{milliseconds:10.1f} ms  {phase}")
    status = record.status
    for key in ("report", "junit"):
        path = _word(values[key])
        if path is None:
            continue
        from runner.verdict import report

        try:
            report.write(path, report.as_json(record) if key == "report" else report.as_junit(record))
        except VmrunError as error:
            _say_error(error, tell)
            status = status or error.status
    return status


def _say_verdict(verdict: Verdict, record: Run, tell: Narrator) -> None:
    """Nothing for a run that went well; else what happened, what to try and the last words."""
    name = record.name
    if record.ending is not None and record.ending.dropped:
        count = record.ending.dropped
        tell("warning", f"{count} bytes of console output were dropped: their reader was too slow")
    if verdict.good:
        tell("debug", f"{name}: {verdict.words}")
        return
    status = "" if verdict.reason == "exit" else f" (status {verdict.status})"
    tell("error", f"{name}: {verdict.words}{status}")
    if verdict.hint:
        tell("error", f"try: {verdict.hint}")
    if verdict.reason in ("exit", "signal", "output-closed"):
        return
    for line in verdict.cpus:
        tell("error", line)
    if not _console_was_seen(record):
        for line in verdict.last_lines[-SHOWN_LINES:]:
            tell("error", f"  | {line}")


def _console_was_seen(record: Run) -> bool:
    """Whether the user has the last lines before their eyes already."""
    return os.isatty(1) and record.shows_console


def _say_error(error: VmrunError, tell: Narrator) -> None:
    findings = getattr(error, "findings", ())
    if findings and hasattr(findings[0], "line"):
        for finding in findings:
            tell("error", str(finding))
    else:
        tell("error", str(error))
    if error.hint:
        tell("error", f"try: {error.hint}")
    for note in getattr(error, "__notes__", ()):
        tell("debug", note)


def _request(values: Values) -> Request:
    return Request(
        path=str(values["file"]),
        engine=_engine(values),
        timeout=_timeout(values),
        name=_word(values["name"]),
        detached=bool(values["detach"]),
    )


def _engine(values: Values) -> tuple[str, ...] | None:
    engine = values["engine"]
    return (str(engine),) if engine else None


def _timeout(values: Values) -> float | None:
    text = _word(values["timeout"])
    if text is None:
        return None
    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from None


def _word(value: str | bool | None) -> str | None:
    return value if isinstance(value, str) else None


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 exist: otherwise the next file opened would be taken for one of them."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
