"""From a file, or its text, to a checked definition: the only way into the rest of vmrun.

A valid file costs tomllib and one walk along the schema.  Positions, suggestions and the
explanation of syntax errors are imported only when there is something to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.definition.findings import Complaint, Finding, has_errors
from runner.definition.model import Definition
from runner.errors import DefinitionError

if TYPE_CHECKING:
    from runner.definition.conform import HostPath
    from runner.definition.formats import Base
    from runner.definition.settings import Setting
    from runner.definition.syntax import Salvaged


class Inspection(NamedTuple):
    """All that is known of a definition; ``definition`` is None when there are errors.

    ``host_paths`` are the paths the file names (place, format, resolved), for checks that
    look at this host; ``text`` is what the positions refer to, and ``value`` the document as
    far as it passed the schema.
    """

    definition: Definition | None
    findings: tuple[Finding, ...]
    host_paths: tuple[HostPath, ...]
    text: str
    value: Mapping[str, Any] = {}
    readable: str = ""  # the text without its broken statements, line for line


def load(path: str, settings: tuple[str, ...] = ()) -> Definition:
    """The definition in a file, with ``--set`` words in it.

    Raises DefinitionError with every finding, HostIoError if unreadable.
    """
    return _or_raise(inspect(path, settings))


def loads(text: str, path: str = "definition.toml") -> Definition:
    """The definition in a text; ``path`` is what relative paths and messages refer to."""
    return _or_raise(inspect_text(text, path))


def inspect(path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a file; faults are returned, not raised.  Raises HostIoError when it cannot be read."""
    return inspect_bytes(read_file(path), path, settings)


def read_file(path: str) -> bytes:
    """The file's bytes.  Raises HostIoError."""
    from runner.errors import HostIoError, UsageError

    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {str(error.strerror).lower()}", hint=_nearby(path)) from None
    except (OSError, ValueError) as error:
        raise HostIoError(f"{path}: cannot be read: {error}") from None


def _nearby(path: str) -> str:
    import os

    from runner.definition.words import closest

    folder, name = os.path.split(path)
    try:
        near = closest(name, [entry for entry in os.listdir(folder or ".") if entry.endswith(".toml")])
    except OSError:
        return ""
    return f"did you mean {os.path.join(folder, near)}?" if near else ""


def inspect_bytes(data: bytes, path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a file's content; what is not UTF-8 is a finding like any other."""
    try:
        return inspect_text(data.decode("utf-8"), path, settings)
    except UnicodeDecodeError as error:
        return _not_utf8(data, error, path)


def inspect_text(text: str, path: str, settings: tuple[str, ...] = ()) -> Inspection:
    """Check a text; ``path`` is what relative paths and messages refer to.

    ``settings`` are ``KEY=VALUE`` words that go before what the text says.
    """
    import tomllib

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        return _inspect_broken(text, path, settings)
    return _inspect_document(document, text, path, settings)


def _inspect_broken(text: str, path: str, settings: tuple[str, ...]) -> Inspection:
    """A text that is not TOML: what can be read of it is checked too."""
    from runner.definition.source import Source
    from runner.definition.syntax import salvage

    salvaged = salvage(Source(text), path)
    return _inspect_document(salvaged.document, text, path, settings, salvaged)


def _inspect_document(
    document: dict[str, Any], text: str, path: str, words: tuple[str, ...], salvaged: Salvaged | None = None
) -> Inspection:
    from runner.definition.build import build
    from runner.definition.checks import check
    from runner.definition.conform import conform
    from runner.definition.schema import whole_schema

    settings: tuple[Setting, ...] = ()
    if words:
        from runner.definition.settings import apply, parse

        settings = tuple(parse(word) for word in words)
        document = apply(document, settings)
    conformed = conform(whole_schema(), document, base_of(path))
    complaints = [*conformed.complaints, *check(conformed)]
    readable = text
    findings: tuple[Finding, ...] = ()
    if salvaged is not None:  # what a broken line would have said is not missing
        readable, findings = salvaged.rest.text, salvaged.findings
        complaints = [complaint for complaint in complaints if complaint.code not in ABSENCES]
    if complaints:
        findings = (*findings, *locate(tuple(complaints), path, text, readable, settings))
    definition = None if has_errors(findings) else build(conformed, "\n".join((text, *words)), path)
    return Inspection(definition, _sorted(findings), conformed.host_paths, text, conformed.value, readable)


ABSENCES = ("missing-key", "no-console")
"""Codes that say something is not there; with a part of the text unread, nobody knows."""


def base_of(path: str) -> Base:
    """What the paths of a definition are relative to."""
    import os

    from runner.definition.formats import Base

    return Base(os.path.dirname(os.path.abspath(path)), os.path.expanduser("~"))


def locate(
    complaints: tuple[Complaint, ...], path: str, text: str, readable: str, settings: tuple[Setting, ...] = ()
) -> tuple[Finding, ...]:
    """Complaints with their positions in the file, or in the setting that said it.

    ``text`` is the file's, whose lines are shown; ``readable`` is the same without its broken
    statements, line for line, and is where the positions are looked up.
    """
    from runner.definition.positions import Positions
    from runner.definition.source import Source

    if settings:
        from runner.definition.settings import locate as located_in
    shown = Source(text)
    positions = Positions(Source(readable))
    found = []
    for one in complaints:
        if settings and (set_by := located_in(one, settings)):
            found.append(set_by)
            continue
        spot = positions.spot(one)
        found.append(
            Finding(
                path, spot.line, spot.column, spot.end, one.severity, one.code, one.message, one.expected,
                one.found, one.suggestion, one.hint, shown.line(spot.line),
            )
        )  # fmt: skip
    return tuple(found)


def _sorted(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    from runner.definition.findings import order

    return tuple(sorted(findings, key=order))


def _not_utf8(data: bytes, error: UnicodeDecodeError, path: str) -> Inspection:
    from runner.definition.source import Source

    text = data.decode("utf-8", "replace")
    source = Source(text)
    offset = len(data[: error.start].decode("utf-8").replace("\r\n", "\n"))
    spot = source.spot(offset, offset + 1)
    finding = Finding(
        path, spot.line, spot.column, spot.end, "error", "encoding", "this byte is not UTF-8", "UTF-8 text",
        f"the byte {data[error.start]:#04x}", "", "save the file as UTF-8", source.line(spot.line),
    )  # fmt: skip
    return Inspection(None, (finding,), (), text)


def _or_raise(found: Inspection) -> Definition:
    if found.definition is not None:
        return found.definition
    count = sum(finding.severity == "error" for finding in found.findings)
    noun = "error" if count == 1 else "errors"
    raise DefinitionError(f"{found.findings[0].file}: {count} {noun}", found.findings)
