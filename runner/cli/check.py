"""``vmrun check FILE…``: everything that is wrong with definitions; nothing is started or changed."""

from __future__ import annotations

import sys

from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.definition.findings import Complaint, Finding

    Report = tuple[str, tuple[Finding, ...]]

INVALID = 65


def add_arguments(parser: ArgumentParser) -> None:
    """The files, and how strict and for whom."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="definition (TOML)")
    parser.add_argument("--strict", action="store_true", help="a warning is an error")
    parser.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output check`)")
    parser.add_argument(
        "--no-host", action="store_true", help="do not look at the files and limits of this host"
    )
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a key, said here")


def run(args: Namespace) -> int:
    """Print the findings of each file; 65 when any of them is an error.

    A file that cannot be read is told after what the others have to say.
    """
    from runner.errors import VmrunError

    settings = tuple(args.set or ())
    reports: list[Report] = []
    unread: list[VmrunError] = []
    for path in args.files:
        try:
            reports.append((path, findings_of(path, settings, look_at_host=not args.no_host)))
        except VmrunError as error:
            unread.append(error)
    failed = any(_fails(findings, args.strict) for _, findings in reports)
    if args.json:
        sys.stdout.write(_as_json(reports, args.strict))
    else:
        _print(reports, args.strict, quiet=args.quiet)
    if unread:
        from runner.cli.failure import told

        statuses = [told(error) for error in unread]
        return statuses[0]
    return INVALID if failed else 0


def findings_of(path: str, settings: tuple[str, ...], *, look_at_host: bool) -> tuple[Finding, ...]:
    """All findings of one file, by position: what no engine can do and this host's files included."""
    from runner.definition.assembly import locate
    from runner.definition.load import inspect, shown
    from runner.definition.settings import parse
    from runner.graph import engines

    inspection = inspect(path, settings)
    complaints: tuple[Complaint, ...] = ()
    if inspection.definition is not None:
        complaints = engines.complaints(inspection.definition, inspection.definition.engine)
    if look_at_host:
        from runner.host.check_files import check_files

        complaints += check_files(inspection)
        if inspection.definition is not None:
            from runner.cli.check_plan import refused
            from runner.host.survey import survey

            passes = any(entry.kind == "vfio" for entry in inspection.definition.devices)
            complaints += refused(inspection.definition, survey(pci=passes))
    if not complaints:
        return inspection.findings
    said = tuple(parse(word) for word in settings)
    more = locate(complaints, inspection.assembly, said)
    return shown((*inspection.findings, *more), path)


def _fails(findings: tuple[Finding, ...], strict: bool) -> bool:
    return any(strict or finding.severity == "error" for finding in findings)


def _print(reports: list[Report], strict: bool, *, quiet: bool) -> None:
    from runner.cli.show_findings import show_all

    for path, findings in reports:
        if findings:
            sys.stdout.write(show_all(findings, sys.stdout) + "\n")
        if findings or not quiet:
            sys.stdout.write(f"{path}: {summary(findings, strict)}\n")


def summary(findings: tuple[Finding, ...], strict: bool) -> str:
    """``ok``, ``2 errors, 1 warning``."""
    from runner.definition.findings import MOST

    errors = sum(finding.severity == "error" for finding in findings)
    counts = ((errors, "error"), (len(findings) - errors, "warning"))
    if errors >= MOST:
        return f"{errors} errors and more: the first ones are shown"
    words = ", ".join(f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count)
    if strict and findings and not errors:
        words += " (--strict: a warning is an error)"
    return words or "ok"


def _as_json(reports: list[Report], strict: bool) -> str:
    from runner.cli.envelope import enveloped

    files = [_file_as_json(path, findings, strict) for path, findings in reports]
    return enveloped({"strict": strict, "files": files})


def _file_as_json(path: str, findings: tuple[Finding, ...], strict: bool) -> dict[str, Any]:
    errors = sum(finding.severity == "error" for finding in findings)
    return {
        "file": path,
        "valid": not _fails(findings, strict),
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": [finding._asdict() for finding in findings],
    }
