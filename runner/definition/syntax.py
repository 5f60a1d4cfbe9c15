"""What is left of a document that is not TOML: every broken statement told, the rest read.

tomllib stops at the first error.  Here the text is cut into statements, each statement is
read alone, and the broken ones are blanked (not removed, so that lines keep their numbers).
What remains is TOML, and the schema can be held against it.
"""

from __future__ import annotations

from runner.definition import syntax_words
from runner.definition.findings import MOST, Finding
from runner.definition.source import Source, Spot
from runner.definition.statements import Statement, statements
from runner.definition.syntax_keys import explain_repeat
from runner.definition.syntax_place import Explained
from runner.definition.toml_fault import toml_fault
from runner.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runner.definition.positions import Positions

PATIENCE = 10_000_000  # characters read again and again to find what contradicts what


class Salvaged(NamedTuple):
    """What could be read, with what the reader could not; ``rest`` is valid TOML."""

    document: dict[str, Any]
    rest: Source
    findings: tuple[Finding, ...]


def salvage(source: Source, file: str) -> Salvaged:
    """Report every broken statement of ``source`` and read the others."""
    return _Salvage(source, file).run()


class _Salvage:
    def __init__(self, source: Source, file: str) -> None:
        self.source = source
        self.file = file
        self.lines = list(source.lines)
        self.findings: list[Finding] = []

    def run(self) -> Salvaged:
        lost = False  # after a broken header its keys belong to nobody
        good: list[Statement] = []
        for piece in statements(self.source):
            if piece.header:
                lost = False
            broken = self._broken(piece)
            if len(self.findings) >= MOST:  # no TOML at all: not reported line by line
                return self._given_up()
            if broken or lost:
                self._blank(piece)
                lost = lost or piece.header
            else:
                good.append(piece)
        document = self._together(good)
        if document is None:
            return self._given_up()
        return Salvaged(document, Source("\n".join(self.lines)), tuple(self.findings))

    def _given_up(self) -> Salvaged:
        return Salvaged({}, Source("\n" * (len(self.lines) - 1)), tuple(self.findings))

    def _broken(self, piece: Statement) -> bool:
        fault = toml_fault("\n".join(self.source.lines[piece.first - 1 : piece.last]))
        if fault is None:
            return False
        told = syntax_words.explain(self.source, piece, fault.message, fault.line, fault.column)
        self._report(told.spot, told)
        return True

    def _together(self, good: list[Statement]) -> dict[str, Any] | None:
        """Read all good statements; those that contradict an earlier one are told and blanked.

        None when that is not done within reason.
        """
        whole = Source("\n".join(self.lines))
        positions: Positions | None = None
        for _ in range(2 + PATIENCE // (len(self.source.text) + 1)):
            text = "\n".join(self.lines)
            fault = toml_fault(text)
            if fault is None:
                import tomllib

                return tomllib.loads(text)
            if positions is None:  # once for all: a line that is blanked moves no other
                from runner.definition.positions import Positions

                positions = Positions(whole)
            guilty = next((p for p in good if p.first <= fault.line <= p.last), good[-1] if good else None)
            if guilty is None or len(self.findings) >= MOST:
                return None
            told = explain_repeat(whole, guilty, positions)
            self._report(told.spot, told)
            self._drop(guilty, good)
        return None

    def _drop(self, guilty: Statement, good: list[Statement]) -> None:
        """Blank a statement; with a header, all that follows it up to the next one."""
        index = good.index(guilty)
        end = index + 1
        if guilty.header:
            while end < len(good) and not good[end].header:
                end += 1
        for piece in good[index:end]:
            self._blank(piece)
        del good[index:end]

    def _blank(self, piece: Statement) -> None:
        for number in range(piece.first - 1, piece.last):
            self.lines[number] = ""

    def _report(self, spot: Spot, told: Explained) -> None:
        self.findings.append(
            Finding(
                self.file, spot.line, spot.column, spot.end, "error", told.code, told.message, told.expected,
                told.found, told.suggestion, told.hint, self.source.line(spot.line),
            )
        )  # fmt: skip
