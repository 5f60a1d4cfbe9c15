"""A definition out of several texts: which of them says what.

Most definitions are one text, and then this is a thin cover around it.
"""

from __future__ import annotations

from runner.definition.document import Document
from runner.definition.findings import Complaint, Finding, Path
from runner.typed import TYPE_CHECKING, Any, Mapping, NamedTuple

if TYPE_CHECKING:
    from runner.definition.formats import Base
    from runner.definition.settings import Setting
    from runner.definition.source import Source, Spot


class Assembly(NamedTuple):
    """The merged ``value`` of ``documents``, of which the first is the file itself.

    ``origin`` maps a place to the document that says it (what is not there, the file itself says);
    ``taken`` maps a place to the parameter whose value stands there.
    """

    value: dict[str, Any]
    documents: tuple[Document, ...]
    origin: Mapping[Path, int] = {}  # noqa: RUF012
    taken: Mapping[Path, Path] = {}  # noqa: RUF012
    findings: tuple[Finding, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether everything that its texts say could be read."""
        return not self.findings and all(one.whole for one in self.documents)

    def document(self, path: Path) -> Document:
        """The text that says a place, or the nearest place around it."""
        while path:
            if path in self.origin:
                return self.documents[self.origin[path]]
            path = path[:-1]
        return self.documents[0]

    def base(self, path: Path) -> Base:
        """What a relative path at this place is relative to: the file whose words it is."""
        return base_of(self.document(self.spoken_at(path)).path)

    def spoken_at(self, path: Path) -> Path:
        """The place of the words themselves: a parameter's where its value was taken."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.taken:
                return (*self.taken[path[:length]], *path[length:])
        return path


def base_of(path: str) -> Base:
    """What the paths of a file are relative to."""
    import os

    from runner.definition.formats import Base

    return Base(os.path.dirname(os.path.abspath(path)), os.path.expanduser("~"))


def locate(
    complaints: tuple[Complaint, ...], assembly: Assembly, settings: tuple[Setting, ...] = ()
) -> tuple[Finding, ...]:
    """Complaints with their positions in the text, or in the setting, that says it."""
    from runner.definition.positions import Positions
    from runner.definition.source import Source

    if settings:
        from runner.definition.settings import locate as located_in
    texts = tuple(document.value for document in assembly.documents)
    known: dict[str, tuple[Positions, Source]] = {}
    found = []
    for said in complaints:
        one = _at_its_words(said, assembly)
        if settings and (set_by := located_in(one, settings, texts)):
            found.append(set_by)
            continue
        document = assembly.document(one.path)
        if document.path not in known:
            known[document.path] = Positions(Source(document.readable)), Source(document.text)
        positions, shown = known[document.path]
        found.append(finding(one, document.path, positions.spot(one), shown))
    return tuple(found)


def _at_its_words(one: Complaint, assembly: Assembly) -> Complaint:
    """A complaint about a parameter's value belongs where that value is written."""
    path = assembly.spoken_at(one.path)
    if path == one.path:
        return one
    from runner.definition.describe import key_name

    hint = f"{key_name(one.path)} takes this parameter"
    return one._replace(path=path, where="value", hint=f"{one.hint}; {hint}" if one.hint else hint)


def finding(one: Complaint, path: str, spot: Spot, shown: Source) -> Finding:
    """A complaint at a spot of a document; ``shown`` is its text with all that is broken in it."""
    return Finding(
        path, spot.line, spot.column, spot.end, one.severity, one.code, one.message, one.expected, one.found,
        one.suggestion, one.hint, shown.line(spot.line),
    )  # fmt: skip
