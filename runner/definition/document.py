"""One text of a definition: what it says, and what of it could not be read."""

from __future__ import annotations

from runner.definition.findings import Finding
from runner.typed import Any, Iterator, NamedTuple

MOST_BYTES = 20  # that are not UTF-8; with more of them the file is not text


class Document(NamedTuple):
    """A text after TOML's grammar.

    ``text`` is what positions refer to; ``readable`` is the same without its broken statements,
    line for line; ``findings`` tells those.  ``whole`` says that nothing of it is unread.
    """

    path: str  # as messages name it, and what its relative paths are relative to
    text: str
    value: dict[str, Any]
    readable: str
    findings: tuple[Finding, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether what is not in ``value`` is not in the text either."""
        return not self.findings


def from_bytes(data: bytes, path: str) -> Document:
    """A file's content; what is not UTF-8 is a finding like any other."""
    try:
        return from_text(data.decode("utf-8"), path)
    except UnicodeDecodeError:
        return _not_utf8(data, path)


def from_text(text: str, path: str) -> Document:
    """A text; syntax errors become findings, and the rest of the text is read."""
    return _marked(text[1:], path) if text.startswith("\ufeff") else _read(text, path)


def _read(text: str, path: str) -> Document:
    import tomllib

    try:
        return Document(path, text, tomllib.loads(text), text)
    except (ValueError, RecursionError):
        pass
    from runner.definition.source import Source
    from runner.definition.syntax import salvage

    salvaged = salvage(Source(text), path)
    return Document(path, text, salvaged.document, salvaged.rest.text, salvaged.findings)


def _marked(text: str, path: str) -> Document:
    """A text after its byte order mark, which editors count in no column."""
    rest = _read(text, path)
    finding = Finding(
        path, 1, 1, 2, "error", "syntax", "the file begins with a byte order mark",
        "UTF-8 text without one", "U+FEFF", "", "save the file as UTF-8 without it",
        text.split("\n", 1)[0].removesuffix("\r"),
    )  # fmt: skip
    return rest._replace(findings=(finding, *rest.findings))


def _not_utf8(data: bytes, path: str) -> Document:
    """Each byte that is not UTF-8 is told, and of the other lines what can be."""
    text = data.decode("utf-8", "replace")
    faults: list[Finding] = []
    for fault in _faults(data, text, path):
        if faults and (faults[-1].line, faults[-1].end) == (fault.line, fault.column):
            faults[-1] = faults[-1]._replace(end=fault.end)  # one sign of another encoding
            continue
        faults.append(fault)
        if len(faults) > MOST_BYTES or "UTF-16" in fault.hint:
            return Document(path, text, {}, "", (faults[0],))
    rest = from_text(text, path)
    lines = {fault.line for fault in faults}
    others = [one for one in rest.findings if one.line not in lines]
    return rest._replace(findings=(*faults, *others))


def _faults(data: bytes, text: str, path: str) -> Iterator[Finding]:
    from runner.definition.source import Source

    source = Source(text)
    start = characters = 0
    while True:
        try:
            data[start:].decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[start : start + error.start].decode("utf-8")
            characters += len(before.replace("\r\n", "\n"))
            spot = source.spot(characters, characters + 1)
            utf16 = start == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff")
            hint = "save the file as UTF-8" + (": this looks like UTF-16" if utf16 else "")
            yield Finding(
                path, spot.line, spot.column, spot.end, "error", "encoding", "this byte is not UTF-8",
                "UTF-8 text", f"the byte {data[start + error.start]:#04x}", "", hint, source.line(spot.line),
            )  # fmt: skip
            start, characters = start + error.end, characters + 1
        else:
            return
