"""From a file, or its text, to a checked definition: the only way into the rest of vmrun.

A valid file costs tomllib and one walk along the schema.  Positions, suggestions and the
explanation of syntax errors are imported only when there is something to say.
"""

from __future__ import annotations

from runner.definition.assembly import Assembly, locate
from runner.definition.document import Document, from_bytes, from_text
from runner.definition.findings import MOST, Complaint, Finding, has_errors
from runner.definition.model import Definition
from runner.errors import DefinitionError
from runner.typed import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple

if TYPE_CHECKING:
    from runner.definition.conform import Conformed, HostPath
    from runner.definition.settings import Setting


class Inspection(NamedTuple):
    """All that is known of a definition; ``definition`` is None when there are errors.

    ``host_paths`` are the paths it names (place, format, resolved), for checks that look at this
    host; ``assembly`` is what positions are looked up in, and ``value`` the document as far as it
    passed the schema.
    """

    definition: Definition | None
    findings: tuple[Finding, ...]
    host_paths: tuple[HostPath, ...]
    assembly: Assembly
    value: Mapping[str, Any] = {}  # noqa: RUF012


def load(path: str, settings: tuple[str, ...] = (), data: bytes | None = None) -> Definition:
    """The definition in a file, with ``--set`` words in it; ``data`` is what was read of it already.

    Raises DefinitionError with every finding, HostIoError if unreadable.
    """
    if data is not None:
        return _or_raise(inspect_bytes(data, path, settings))
    return _or_raise(inspect(path, settings))


def loads(text: str, path: str = "definition.toml") -> Definition:
    """The definition in a text; ``path`` is what relative paths and messages refer to."""
    return _or_raise(inspect_text(text, path))


def inspect(path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a file; faults are returned, not raised.  Raises HostIoError when it cannot be read."""
    from runner.definition.file import read_file

    return inspect_bytes(read_file(path), path, settings)


def inspect_bytes(data: bytes, path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a file's content; what is not UTF-8 is a finding like any other."""
    return _inspect(from_bytes(data, path), settings)


def inspect_text(text: str, path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a text; ``path`` is what relative paths and messages refer to.

    ``settings`` are ``KEY=VALUE`` words that go before what the text says.
    """
    return _inspect(from_text(text, path), settings)


def _inspect(main: Document, words: tuple[str, ...]) -> Inspection:
    from runner.definition.build import build
    from runner.definition.conform import conform
    from runner.definition.schema import whole_schema

    assembly, settings, complaints = _assembled(main, words)
    conformed = conform(whole_schema(), assembly.value, assembly.base, whole=assembly.whole)
    unfilled = {one.path for one in complaints if one.severity == "error"}  # told by that alone
    complaints += tuple(one for one in _cross_checked(conformed) if one.path not in unfilled)
    if not assembly.whole:  # what a broken line would have said is not missing
        complaints = tuple(one for one in complaints if one.code not in ABSENCES)
    findings = assembly.findings + tuple(one for document in assembly.documents for one in document.findings)
    if complaints:
        findings += locate(complaints, assembly, settings)
    definition = None if has_errors(findings) else build(conformed, assembly, words)
    return Inspection(definition, shown(findings, main.path), conformed.host_paths, assembly, conformed.value)


def _assembled(
    main: Document, words: tuple[str, ...]
) -> tuple[Assembly, tuple[Setting, ...], tuple[Complaint, ...]]:
    """The file with its pieces, settings and parameters."""
    assembly = Assembly(main.value, (main,))
    settings: tuple[Setting, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    if "extends" in main.value:
        from runner.definition.extends import assemble

        assembly = assemble(main)
    if words:
        from runner.definition.settings import parse, put

        settings = tuple(parse(word) for word in words)
        assembly = put(assembly, settings)
    if "params" in assembly.value:
        from runner.definition.params import fill

        assembly, complaints = fill(assembly)
    return assembly, settings, complaints


def _cross_checked(conformed: Conformed) -> tuple[Complaint, ...]:
    """What the schema and the comparison of keys say; after too much of the first, only that."""
    if len(conformed.complaints) >= MOST:
        return conformed.complaints[:MOST]
    from runner.definition.checks import check

    return (*conformed.complaints, *check(conformed))


ABSENCES = ("missing-key", "no-console", "sum", "topology", "count", "reference", "parameter")
"""Codes that rest on what is not there; with a part of the text unread, nobody knows."""


def shown(findings: tuple[Finding, ...], path: str) -> tuple[Finding, ...]:
    """By position, the file at ``path`` first; not more than somebody reads."""
    if not findings:
        return ()
    from runner.definition.findings import sorted_for

    return tuple(_once(sorted_for(path, findings)))[:MOST]


def _once(ordered: list[Finding]) -> Iterator[Finding]:
    """Without what follows from a byte that is not UTF-8: its line is told by that alone."""
    unreadable = {(one.file, one.line) for one in ordered if one.code == "encoding"}
    for one in ordered:
        if one.code == "encoding" or (one.file, one.line) not in unreadable:
            yield one


def _or_raise(found: Inspection) -> Definition:
    if found.definition is not None:
        return found.definition._replace(warnings=found.findings)
    count = sum(finding.severity == "error" for finding in found.findings)
    noun = "error" if count == 1 else "errors"
    raise DefinitionError(f"{found.findings[0].file}: {count} {noun}", found.findings)
