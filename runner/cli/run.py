"""``vmrun FILE``: run a machine; the guest's exit status becomes ours."""

from __future__ import annotations

import gc
import os
from time import monotonic_ns, process_time_ns

from runner.cli import log
from runner.errors import HostError, UsageError, VmrunError
from runner.supervisor.record import Request, Run
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.definition.findings import Finding
    from runner.host.signals import Signals
    from runner.verdict.decide import Verdict

SHOWN_LINES = 8


def add_arguments(parser: ArgumentParser) -> None:
    """The options of a run."""
    add = parser.add_argument
    add("file", metavar="FILE", help="definition (TOML)")
    add("-e", "--engine", choices=("kvm", "qemu"), help="run with this engine and no other")
    add("-t", "--timeout", metavar="TIME", help="end the run after this time (60s, 5m); 0: never")
    add("-n", "--name", metavar="NAME", help="name for vmrun ps, stop and attach; has to be free")
    add("--set", action="append", metavar="KEY=VALUE", help="a key of the definition, said here")
    add("-d", "--detach", action="store_true", help="return when the guest has started")
    add("--refresh", action="store_true", help="ask anew what the kernel's package name stands for")
    add("--report", metavar="FILE", help="write a JSON report (`vmrun schema --output run`)")
    add("--junit", metavar="FILE", help="write the run as a JUnit test case")
    add("--timings", action="store_true", help="say when each phase was done, in milliseconds")


def run(args: Namespace) -> int:
    """Run, report, and return the status.  Raises VmrunError for what failed before the guest started."""
    began_ns = monotonic_ns() - process_time_ns()  # the interpreter's own start counts, and is all CPU
    gc.disable()  # nothing of a start is garbage; until the guest runs, looking for some is a tenth of it
    from runner.host.signals import Interrupted, Signals

    _open_standard_streams()
    record = Run(_request(args), began_ns)
    record.mark("interpreter")
    record.on_warnings = _warn
    signals = Signals()
    try:
        signals.install()
        if record.request.detached:
            from runner.cli.detach import detach

            return detach(record, lambda: _execute(record, args, signals), signals)
        return _execute(record, args, signals)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    finally:
        signals.close()


def _execute(record: Run, args: Namespace, signals: Signals) -> int:
    """One run and its report, which is written however it ends."""
    from runner.host.signals import Interrupted
    from runner.supervisor.launch import execute

    _look_at_report(args)
    try:
        verdict = execute(record, signals, log.tell)
    except VmrunError as error:
        record.error = error
        _report(record, args)
        raise
    except Interrupted as interrupted:
        record.signal = interrupted.number
        log.tell("error", f"{interrupted} before the guest was started")
    except Exception:
        _report(record, args)
        raise
    else:
        _say(verdict, record)
    _report(record, args)
    return record.status


def _look_at_report(args: Namespace) -> None:
    """A report that nobody could write is told before the run, not after an hour of it."""
    for path in (args.report, args.junit):
        if path:
            from runner.verdict.report import look_at

            look_at(path)


def timing_lines(times: list[tuple[str, float]]) -> list[str]:
    """Since the start, and since the phase before; the VM process (``vm-…``) works beside the supervisor."""
    before = {True: 0.0, False: 0.0}
    lines = []
    for phase, at in times:
        vm = phase.startswith("vm-")
        lines.append(f"{at:9.1f} ms {at - before[vm]:+9.1f}  {phase}")
        before[vm] = at
    return lines


def _report(record: Run, args: Namespace) -> None:
    """What was asked for.  A report that cannot be written fails a run that went well, and no other."""
    if args.timings:
        for line in timing_lines(record.times()):
            log.tell("notice", line)
    if not (args.report or args.junit):
        return
    from runner.verdict import report

    try:
        if args.report:
            report.write(args.report, report.as_json(record))
        if args.junit:
            report.write(args.junit, report.as_junit(record))
    except HostError as error:
        if record.status == 0:
            raise
        log.tell("error", str(error))


def _say(verdict: Verdict, record: Run) -> None:
    """Nothing for a run that went well; else what happened, what to try and the last words."""
    tell = log.tell
    if record.ending is not None and record.ending.dropped:
        count = record.ending.dropped
        tell("warning", f"{count} bytes of console output were dropped: their reader was too slow")
    if verdict.good:
        tell("debug", f"{record.name}: {verdict.words}")
        return
    status = "" if verdict.reason == "exit" else f" (status {verdict.status})"
    tell("error", f"{record.name}: {verdict.words}{status}")
    if verdict.hint:
        tell("notice", f"hint: {verdict.hint}")
    if verdict.reason in ("exit", "signal", "output-closed"):
        return
    for line in verdict.cpus:
        tell("error", line)
    if not (record.shows_console and os.isatty(1)):  # else the user has them before their eyes
        for line in verdict.last_lines[-SHOWN_LINES:]:
            tell("error", f"  | {line}")


def _warn(findings: tuple[Finding, ...]) -> None:
    """What `vmrun check` would warn of; the machine runs all the same."""
    if log.is_json():
        for one in findings:
            log.tell("warning", one.message, file=one.file, line=one.line, column=one.column, code=one.code)
    elif not log.is_quiet():
        import sys

        from runner.cli.show_findings import show_all

        log.voice().write(show_all(findings, sys.stderr))


def _request(args: Namespace) -> Request:
    return Request(
        path=args.file,
        engine=(args.engine,) if args.engine else None,
        timeout=None if args.timeout is None else seconds(args.timeout),
        name=_name(args.name),
        detached=args.detach,
        settings=tuple(args.set or ()),
        refresh=args.refresh,
    )


def seconds(text: str) -> float:
    """A time as a definition writes it (``60s``, ``1.5m``), or ``0``.  Raises UsageError."""
    if text == "0":
        return 0.0
    from runner.definition.formats import FormatFault, duration

    try:
        return duration(text)
    except FormatFault as fault:
        words = str(fault) if text and text in str(fault) else f"`{text}`: {fault}"
        better = f"did you mean {fault.suggestion}?" if fault.suggestion else "write 60s, 5m or 1.5h"
        raise UsageError(words, hint=better) from None


def _name(text: str | None) -> str | None:
    """A name that can be one of a folder and of a command line as it is.  Raises UsageError."""
    if text is None:
        return None
    from runner.supervisor.registry import MOST_OF_A_NAME, safe_name

    if safe_name(text) == text:
        return text
    raise UsageError(
        f"`{text}` cannot be a machine's name: letters, digits, `.`, `_` and `-`, at most {MOST_OF_A_NAME}",
        hint=f"did you mean --name {safe_name(text)}?",
    )


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 exist: otherwise the next file opened would be taken for one of them."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)
