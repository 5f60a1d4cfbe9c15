"""Broken strings and values, explained to their author."""

from __future__ import annotations

import re

from runner.definition.describe import quoted
from runner.definition.syntax_place import WORD, Explained, Place, broken_inline, innermost, key_before, short


def open_string(place: Place) -> Explained:
    """A string that its line, or the file, does not close."""
    text = place.source.text
    if "Illegal character" in place.message and place.at < len(text) and text[place.at] != "\n":
        return _illegal(place)
    start = _string_start(text, place.start, place.at)
    quote = text[start : start + 3] if text[start : start + 3] in ('"""', "'''") else text[start : start + 1]
    where = "this line" if len(quote) == 1 else "the end of the file"
    return Explained(
        place.spot(start, max(place.at - start, 1)),
        f"a string that is not closed before {where} ends",
        f"{quote} at the end",
        "the end of the line" if len(quote) == 1 else "the end of the file",
    )


def _string_start(text: str, start: int, at: int) -> int:
    """Where the string that is open at ``at`` began."""
    open_at, quote, position = start, "", start
    while position < at:
        char = text[position]
        if quote:
            if text.startswith(quote, position):
                position += len(quote) - 1
                quote = ""
            elif char == "\\" and quote[0] == '"':
                position += 1
        elif char in "\"'":
            open_at = position
            quote = char * 3 if text.startswith(char * 3, position) else char
            position += len(quote) - 1
        position += 1
    return open_at if quote else min(at, len(text) - 1) if text else 0


def _illegal(place: Place) -> Explained:
    char = place.source.text[place.at : place.at + 1]
    name = {"\r": "a carriage return (0x0d)", "\0": "a NUL character"}.get(
        char, f"a control character ({ord(char or ' '):#04x})"
    )
    return Explained(
        place.spot(),
        f"{name} cannot stand here",
        "printable characters and tabs",
        name,
        hint=f'inside "…" it is written \\u{ord(char or " "):04X}',
    )


def backslash(place: Place) -> Explained:
    """A backslash that begins no escape."""
    start = place.source.text.rfind("\\", place.start, place.at + 1)
    start = start if start >= 0 else place.at
    sequence = place.source.text[start : start + 2]
    return Explained(
        place.spot(start, 2),
        f"`{sequence.strip()}` is no escape",
        r"one of \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX",
        f"`{sequence.strip()}`",
        hint="double the backslash, or put the text in single quotes, which know no escapes",
    )


# -- values -------------------------------------------------------------------------------


def value(place: Place) -> Explained:
    """No value, or a word that is none."""
    word = place.word
    key = key_before(place)
    if not word:
        nothing = place.rest.strip() == "" or place.rest.strip().startswith("#")
        found = "nothing" if nothing else f"`{place.rest.strip()[0]}`"
        return Explained(
            place.spot(), f"{key} has no value" if nothing else "a value is missing here", "a value", found
        )
    return _bare_word(place, place.at, word)


def _bare_word(place: Place, start: int, word: str) -> Explained:
    """A word without quotes where only numbers, booleans, dates and quoted text can stand."""
    lowered = {"true": "true", "false": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}
    plain = word.lower().rstrip(";")
    suggestion, hint = quoted(word), "text is written in quotes"
    if plain in lowered:
        suggestion, hint = lowered[plain], "booleans are `true` and `false`, in small letters"
    elif plain in ("none", "null", "nil", "~"):
        suggestion, hint = "", "TOML has no null: leave the key out"
    elif re.fullmatch(r"0\d+", word):
        suggestion, hint = word.lstrip("0") or "0", "a number does not begin with 0"
    elif word.endswith(";"):
        suggestion, hint = word.rstrip(";"), "a statement ends with its line, without `;`"
    elif " " in place.rest.strip() and not re.search(r"[,\]}#=\"]", place.rest):
        word = place.source.text[
            start : place.source.offset(place.source.place(start)[0], 1)
            + len(place.source.line(place.source.place(start)[0]))
        ].rstrip()
        suggestion = quoted(word)
    return Explained(
        place.spot(start, len(word)),
        f"`{word}` is not a TOML value",
        "text in quotes, a number, true or false, an array or a table",
        f"`{word}`",
        suggestion,
        hint,
    )


def after_statement(place: Place) -> Explained:
    """Something after a complete value or header, on the same line."""
    text = place.source.text
    if place.at > 0 and text[place.at - 1] not in " \t" and place.word and text[place.at - 1] not in "\"'])}":
        start = place.at
        while start > place.start and text[start - 1] not in " \t=,[{":
            start -= 1
        whole = WORD.match(text[start : place.stop].split("\n", 1)[0])
        if whole and text[place.start : start].rstrip().endswith("="):
            return _bare_word(place, start, whole[0])
    rest = place.rest.strip()
    if rest.startswith(("//", ";")):
        return Explained(
            place.spot(length=len(rest)),
            f"`{rest[:2].strip()}` does not begin a comment",
            "the end of the line",
            f"`{short(rest)}`",
            hint="a comment begins with `#`",
        )
    hint = "each key stands on a line of its own" if "=" in rest else ""
    return Explained(
        place.spot(length=len(place.rest.rstrip())),
        "the line goes on after its value",
        "the end of the line",
        f"`{short(rest)}`",
        hint=hint,
    )


def open_array(place: Place) -> Explained:
    """An array without its end, or without a comma."""
    return _unclosed(place, "[", "]", "array")


def open_table(place: Place) -> Explained:
    """An inline table without its end, or without a comma."""
    return _unclosed(place, "{", "}", "inline table")


def _unclosed(place: Place, opening: str, closing: str, what: str) -> Explained:
    """An array or inline table without its end, or without a comma."""
    text = place.source.text
    if place.rest.strip() and place.at < place.stop:
        return Explained(
            place.spot(length=len(place.word) or 1),
            f"a comma is missing in this {what}, or its `{closing}`",
            f"`,` or `{closing}`",
            f"`{short(place.word or place.rest.strip())}`",
        )
    start = innermost(text, place.start, place.at, opening)
    if (
        opening == "{"
        and place.at < len(text)
        and text[place.at : place.at + 1] == "\n"
        and closing in text[place.at : place.stop]
    ):
        return broken_inline(place)
    return Explained(
        place.spot(start),
        f"an {what} that is never closed",
        f"`{closing}` after its last entry",
        "the end of the statement",
    )


def bad_date(place: Place) -> Explained:
    """Digits in the form of a date that no calendar has."""
    return Explained(
        place.spot(length=max(len(place.word), 1)),
        f"`{short(place.word)}` is not a date that exists",
        "a date, or text in quotes",
        f"`{short(place.word)}`",
        quoted(place.word),
    )


def deep(place: Place) -> Explained:
    """Brackets in brackets beyond what a reader follows."""
    return Explained(
        place.spot(place.start), "nested too deeply to be read", "a few levels of brackets", "hundreds"
    )


def huge(place: Place) -> Explained:
    """A number beyond what Python reads."""
    match = re.search(r"\d{1000,}", place.source.text[place.start : place.stop])
    start = place.start + (match.start() if match else 0)
    return Explained(
        place.spot(start, len(match[0]) if match else 1),
        "a number of thousands of digits",
        "a number",
        "too many digits",
    )
