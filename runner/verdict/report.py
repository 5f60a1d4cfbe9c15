"""What is written about a run: JSON (``schemas/output/report.schema.json``) and JUnit XML.

A run that failed before its guest started has a report too: what is not known is null.
"""

from __future__ import annotations

import errno
import os

from runner import __version__
from runner.errors import HostError, HostIoError, HostPermissionError
from runner.light import suppress
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.definition.model import Json
    from runner.supervisor.record import Run

VERSION = 1


def as_json(run: Run) -> str:
    """The report's text."""
    import json

    return json.dumps(facts(run), indent=2, ensure_ascii=False) + "\n"


def facts(run: Run) -> dict[str, Json]:
    """The report as a value."""
    definition, ending = run.definition, run.ending
    return {
        "version": VERSION,
        "vmrun": __version__,
        "name": run.name or (definition.name if definition else None),
        "definition": {
            "path": definition.source.resolved if definition else os.path.abspath(run.request.path),
            "sha256": definition.digest if definition else None,
        },
        "engine": _engine(run),
        "artifacts": _artifacts(run),
        "notes": list(run.files.notes) if run.files else [],
        "host": list(run.taken),
        "times_ms": dict(run.times()),
        **_outcome(run),
        "console": {
            "bytes": ending.said if ending else 0,
            "dropped": ending.dropped if ending else 0,
            "last_lines": list(run.verdict.last_lines) if run.verdict else [],
        },
    }


def _engine(run: Run) -> Json:
    if run.graph is None:
        return None
    choice = run.graph.engine
    return {
        "name": choice.name or None,
        "accelerator": choice.accelerator or None,
        "reasons": [{"engine": engine, "why": why} for engine, why in choice.reasons],
    }


def _outcome(run: Run) -> dict[str, Json]:
    verdict = run.verdict
    if verdict is not None:
        return {
            "reason": verdict.reason,
            "status": verdict.status,
            "guest_status": verdict.guest_status,
            "words": verdict.words,
            "hint": verdict.hint,
            "detail": verdict.detail,
            "symptom": verdict.symptom or None,
            "cpus": list(verdict.cpus),
        }
    error = run.error
    return {
        "reason": "signal" if run.signal else "not-started",
        "status": run.status,
        "guest_status": None,
        "words": str(error) if error else "ended by a signal before the guest was started",
        "hint": error.hint if error else "",
        "detail": "",
        "symptom": None,
        "cpus": [],
    }


def _artifacts(run: Run) -> list[Json]:
    """What was booted, with its hash, so that two runs can be compared."""
    if run.files is None:
        return []
    files = (("kernel", run.files.kernel), ("initramfs", run.files.initramfs))
    return [{"role": role, "path": path, "sha256": _sha256(path)} for role, path in files if path]


def _sha256(path: str) -> str | None:
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # gone since: the report says that it is not known
        return None


def as_junit(run: Run) -> str:
    """One test suite with one test case, as CI systems read it."""
    from xml.sax.saxutils import escape, quoteattr

    outcome = _outcome(run)
    name = run.name or os.path.basename(run.request.path)
    seconds = run.times()[-1][1] / 1000 if run.marks else 0.0
    good = outcome["status"] == 0
    guests = run.verdict is not None and run.verdict.status not in (69, 70, 74, 77)
    kind = "failure" if guests else "error"
    lines = "\n".join(run.verdict.last_lines) if run.verdict else ""
    fault = ""
    if not good:
        said = f"type={quoteattr(str(outcome['reason']))} message={quoteattr(str(outcome['words']))}"
        fault = f"    <{kind} {said}>{escape(str(outcome['hint']))}</{kind}>\n"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="vmrun" tests="1" failures="{int(not good and guests)}" '
        f'errors="{int(not good and not guests)}" time="{seconds:.3f}">\n'
        f'  <testcase classname="vmrun" name={quoteattr(name)} time="{seconds:.3f}">\n'
        f"{fault}    <system-out>{escape(lines)}</system-out>\n"
        "  </testcase>\n</testsuite>\n"
    )


def write(path: str, text: str) -> None:
    """All of it or nothing: a reader never sees half a report.  A pipe or device is written to as it is.

    Raises HostIoError or HostPermissionError.
    """
    draft = f"{path}.{os.getpid()}.new"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            _put(path, text)
            return
        try:
            _put(draft, text)
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise _refused(path, error) from None


def _put(path: str, text: str) -> None:
    """A name of this host that is not UTF-8 is spelt with \\udcXX, which JSON reads as Python does."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def look_at(path: str) -> None:
    """Whether a report can be written there, as far as that is known before the run.

    Raises HostIoError or HostPermissionError.
    """
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise _refused(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not os.path.isdir(folder):
        raise _refused(path, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    special = os.path.exists(path) and not os.path.isfile(path)
    if not os.access(path if special else folder, os.W_OK):
        raise _refused(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _refused(path: str, error: OSError) -> HostError:
    kind = HostPermissionError if isinstance(error, PermissionError) else HostIoError
    return kind(f"cannot write {path}: {error.strerror}")
