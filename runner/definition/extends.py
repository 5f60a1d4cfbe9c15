"""``extends``: pieces that several definitions share, each in a file of its own.

A file's pieces come before it, in their order; what a later one says goes before what an earlier
one said.  Tables are joined key by key, everything else (arrays too) is replaced as a whole.
A piece that is reached twice counts once, at its first place.
"""

from __future__ import annotations

import os

from runner.definition.assembly import Assembly, finding
from runner.definition.document import Document, from_bytes
from runner.definition.findings import Complaint, Finding, Path
from runner.errors import HostError, UsageError
from runner.typed import Any

KEY = "extends"
MOST_FILES = 32


def assemble(main: Document) -> Assembly:
    """The file with its pieces below it; what is wrong with them is in ``findings``."""
    gathering = _Gathering(main)
    gathering.visit(main, 0, (main.path,))
    value: dict[str, Any] = {}
    origin: dict[Path, int] = {}
    for index in gathering.order:
        said = gathering.documents[index].value
        _join(value, {key: said[key] for key in said if key != KEY}, (), index, origin)
    return Assembly(value, tuple(gathering.documents), origin, {}, tuple(gathering.findings))


def _join(
    into: dict[str, Any], said: dict[str, Any], path: Path, index: int, origin: dict[Path, int]
) -> None:
    """What a later text says goes before; ``origin`` learns who says what."""
    for key, part in said.items():
        place = (*path, key)
        if isinstance(part, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _join(into[key], part, place, index, origin)
        else:
            into[key] = part
        origin[place] = index


class _Gathering:
    """The walk from a file to its pieces, and to theirs."""

    def __init__(self, main: Document) -> None:
        self.documents = [main]
        self.order: list[int] = []
        self.findings: list[Finding] = []
        self._seen = {os.path.realpath(main.path)}

    def visit(self, document: Document, index: int, way: tuple[str, ...]) -> None:
        """Its pieces first, then itself; ``way`` is how the walk has come here."""
        for place, text in self._named(document):
            self._follow(document, place, text, way)
        self.order.append(index)

    def _follow(self, document: Document, place: Path, text: str, way: tuple[str, ...]) -> None:
        path = os.path.join(os.path.dirname(document.path), os.path.expanduser(text))
        real = os.path.realpath(path)
        if real in map(os.path.realpath, way):
            round_trip = " → ".join([*way, path])
            self._say(document, place, "circle", "this goes round in a circle", "a file below", round_trip)
        elif real not in self._seen and len(self.documents) >= MOST_FILES:
            self._say(document, place, "length", "too many pieces", f"at most {MOST_FILES} files", "one more")
        elif real not in self._seen:
            self._seen.add(real)
            self._enter(document, place, path, way)

    def _enter(self, document: Document, place: Path, path: str, way: tuple[str, ...]) -> None:
        from runner.definition.file import read_file

        try:
            piece = from_bytes(read_file(path), path)
        except (UsageError, HostError) as error:
            words = str(error).removeprefix(f"{path}: ")
            wanted = "a definition, or a piece of one"
            self._say(document, place, "missing-file", words, wanted, path, error.hint)
            return
        self.documents.append(piece)
        self.visit(piece, len(self.documents) - 1, (*way, path))

    def _named(self, document: Document) -> list[tuple[Path, str]]:
        """Each piece's place and words; what is no path is told."""
        from runner.definition.describe import found

        said = document.value.get(KEY, [])
        entries: list[tuple[Path, Any]] = [((KEY,), said)]
        if isinstance(said, list):
            entries = [((KEY, number), one) for number, one in enumerate(said)]
        good = [(place, one) for place, one in entries if isinstance(one, str) and one]
        for place, one in entries:
            if (place, one) not in good:
                words = "path of a file" if len(place) > 1 else "path of a file or array of: path of a file"
                self._say(document, place, "type", "`extends` names no file", words, found(one))
        return good

    def _say(
        self, document: Document, place: Path, code: str, message: str, expected: str, found: str,
        hint: str = "",
    ) -> None:  # fmt: skip
        from runner.definition.positions import Positions
        from runner.definition.source import Source

        complaint = Complaint(place, "value", code, message, expected, found, hint=hint)
        spot = Positions(Source(document.readable)).spot(complaint)
        self.findings.append(finding(complaint, document.path, spot, Source(document.text)))
