"""Broken keys and headers, and those that are there twice, explained to their author."""

from __future__ import annotations

import re

from runner.definition.odd_characters import imitation, plain
from runner.definition.source import Source
from runner.definition.statements import Statement
from runner.definition.syntax_place import Explained, Place, broken_inline, key_before, key_spot, short
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.definition.positions import Positions


def no_equals(place: Place) -> Explained:
    """Something else than ``=`` after a key."""
    rest = place.rest.strip()
    key = key_before(place)
    if not rest:
        return Explained(
            key_spot(place), f"{key} has no value", f"{key.strip('`')} = …", "the end of the line"
        )
    at = place.at + len(place.rest) - len(place.rest.lstrip())
    if rest[0].isalpha() and place.source.text[at - 1] not in " \t":
        return _foreign_key(place)
    if key == "`-`":
        return Explained(
            key_spot(place), "`-` begins no list", "a key", f"`{short(rest)}`",
            hint="a list is name = [ …, … ]; this looks like YAML",
        )  # fmt: skip
    if key == "`export`":
        return Explained(
            key_spot(place), "`export` begins no statement", "a key", f"`{short(rest)}`",
            hint="this looks like a shell's; TOML writes `key = value`, without `export`",
        )  # fmt: skip
    sign = next((one for one in SIGNS if rest.startswith(one)), "")
    hint = SIGNS.get(sign, "a key with blanks or other signs is put in quotes")
    found = sign or rest
    length = len(sign) or max(len(place.word), 1)
    said = f"`{sign}` is no sign of TOML's" if length > 1 and sign else f"`=` is missing after {key}"
    return Explained(place.spot(at, length), said, "`=`", f"`{short(found)}`", hint=hint)


SIGNS = {
    "+=": "nothing can be added to a value: write the whole of it, after `=`",
    ":=": "TOML writes `key = value`",
    "->": "TOML writes `key = value`",
    ":": "TOML writes `key = value`; this looks like YAML or JSON",
    "{": "a table is [name], or name = { … }",
}


def _foreign_key(place: Place) -> Explained:
    """A key with letters that TOML wants in quotes; the caret is under all of it."""
    text, start = place.source.text, place.at
    while start > place.start and (text[start - 1].isalnum() or text[start - 1] in "_-"):
        start -= 1
    match = re.match(r"[^\s=.\]]+", text[start : place.stop])
    name = match[0] if match else text[start : start + 1]
    looks_like = imitation(name)
    return Explained(
        place.spot(start, len(name)), f"`{short(name)}` has letters that a key cannot have",
        "a name of letters A–Z, digits, `_` and `-`", f"`{short(name)}`",
        plain(name) if looks_like else f'"{name}"', looks_like or "a key with other letters is put in quotes",
    )  # fmt: skip


def bad_key(place: Place) -> Explained:
    """Something where a key, or the next part of one, should begin."""
    text = place.source.text
    before = text[place.start : place.at].rstrip()
    char = text[place.at : place.at + 1]
    if char in ("\n", "") and before.endswith(("{", ",")):
        return broken_inline(place)
    if char == "}" and before.endswith(","):
        comma = place.start + len(before) - 1
        return Explained(place.spot(comma), "no comma before the `}` of an inline table", "`}`", "`,`")
    if char == "]":
        empty = before.endswith("[")
        start = place.start + len(before) - 1
        return Explained(
            place.spot(start if not empty else place.start, 2),
            "a header without a name" if empty else "a name is missing after the dot",
            "a name",
            f"`{char}`",
        )
    shown = place.word or char.strip()
    return Explained(
        place.spot(length=max(len(shown), 1)),
        "a key is missing here" if not shown else f"`{short(shown)}` cannot begin a key",
        "a name of letters, digits, `_` and `-`, or one in quotes",
        f"`{short(shown)}`" if shown else "the end of the line",
    )


def bad_statement(place: Place) -> Explained:
    """A line that is neither key nor header nor comment."""
    rest = place.rest.strip()
    if rest.startswith("="):
        return Explained(place.spot(), "the key before `=` is missing", "a key", "`=`")
    if rest[:1].isalpha():
        return _foreign_key(place)
    hint = ""
    if rest.startswith(("//", ";", "/*", "--")):
        hint = "a comment begins with `#`"
    elif rest[:1] in "]})":
        hint = f"nothing is open that `{rest[:1]}` could close"
    elif rest.startswith("<"):
        hint = "this looks like XML; TOML writes `key = value`, one a line"
    elif rest.startswith("{"):
        hint = "this looks like JSON; TOML writes `key = value`, one a line"
    word = place.word or rest[:1]
    return Explained(
        place.spot(length=max(len(word), 1)),
        f"`{short(word)}` cannot begin a line",
        "a key, a [header] or a # comment",
        f"`{short(word)}`",
        hint=hint,
    )


def open_header(place: Place) -> Explained:
    """A header without its closing brackets."""
    closing = "]]" if "array" in place.message else "]"
    rest = place.rest.strip()
    name = place.source.text[place.start : place.at].strip().lstrip("[").strip()
    return Explained(
        place.spot(length=max(len(rest), 1)) if rest else key_spot(place),
        f"the header of `{name}` is not closed",
        f"`{closing}`",
        f"`{short(rest)}`" if rest else "the end of the line",
        hint="a name with blanks or other signs is put in quotes"
        if rest and not rest.startswith("]")
        else "",
    )


def duplicate_inline(place: Place) -> Explained:
    """A key that an inline table has twice."""
    text = "\n" * (place.source.place(place.start)[0] - 1) + place.source.text[place.start : place.stop]
    from runner.definition.positions import Positions

    source = Source(text)
    return explain_repeat(source, Statement(*_rows(place), False), Positions(source))


def _rows(place: Place) -> tuple[int, int]:
    return place.source.place(place.start)[0], place.source.place(place.stop)[0]


def explain_repeat(source: Source, piece: Statement, positions: Positions) -> Explained:
    """A key or table that is there already: where, in a text whose statements are all readable."""
    from runner.definition.describe import key_name

    start, stop = source.offset(piece.first, 1), source.offset(piece.last, 1) + len(source.line(piece.last))
    for repeat in positions.repeats:
        if start <= repeat.here.start < stop:
            line = source.place(repeat.first.start)[0]
            what = "table" if piece.header else "key"
            return Explained(
                source.spot(*repeat.here),
                f"{key_name(repeat.path)} is there already, in line {line}",
                f"each {what} once",
                "a second one",
                hint=_other_name(piece, repeat.path),
                code="duplicate",
            )
    at = start + len(source.line(piece.first)) - len(source.line(piece.first).lstrip(" \t["))
    match = re.match(r"[^\s=\]]+", source.text[at:stop])
    name = match[0] if match else source.line(piece.first)
    return Explained(
        source.spot(at, at + len(name)),
        f"`{name}` adds to something that is complete already",
        "a key or table that is not defined yet",
        f"`{name}`",
        hint="a value, an inline table or an array cannot be extended further down",
        code="duplicate",
    )


def _other_name(piece: Statement, path: tuple[str | int, ...]) -> str:
    from runner.definition.schema import whole_schema

    named = (
        piece.header and len(path) == 2 and "propertyNames" in whole_schema()["properties"].get(path[0], {})
    )
    return f"give the second one another name: [{path[0]}.OTHER]" if named else ""
