"""Broken strings and values, explained to their author."""

from __future__ import annotations

import re

from runner.definition.describe import quoted
from runner.definition.odd_characters import QUOTATION, imitation, plain, without_quotation
from runner.definition.odd_characters import name as odd_name
from runner.definition.statements import Scan
from runner.definition.syntax_place import WORD, Explained, Place, broken_inline, innermost, key_before, short


def open_string(place: Place) -> Explained:
    """A string that its line, or the file, does not close."""
    text = place.source.text
    if (
        place.message.startswith(("Illegal", "Found invalid"))
        and place.at < len(text)
        and text[place.at] != "\n"
    ):
        return _illegal(place)
    start = _string_start(text, place.start, place.at)
    quote = text[start : start + 3] if text[start : start + 3] in ('"""', "'''") else text[start : start + 1]
    where = "this line" if len(quote) == 1 else "the file"
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
    commented = _in_comment(place.source.text[place.start : place.at])
    return Explained(
        place.spot(),
        f"{name} cannot stand here",
        "printable characters and tabs",
        name,
        hint="delete it; no comment can have one"
        if commented
        else f'inside "…" it is written \\u{ord(char or " "):04X}',
    )


def _in_comment(text: str) -> bool:
    """Whether the statement ``text`` has come to a comment."""
    *before, line = text.split("\n")
    scan = Scan()
    for one in before:
        scan.feed(one)
    rest = re.sub(r"""\"(?:\\.|[^"\\])*"|'[^']*'""", "", line)  # strings that are closed
    first = re.search(r"""[#"']""", rest)
    return not scan.quote and first is not None and first[0] == "#"


def backslash(place: Place) -> Explained:
    """A backslash that begins no escape."""
    start = place.source.text.rfind("\\", place.start, place.at + 1)
    start = start if start >= 0 else place.at
    sequence = place.source.text[start : start + 2]
    if number := NUMBERED.match(place.source.text, start):
        return _bad_number(place, start, number[0])
    return Explained(
        place.spot(start, 2),
        f"`{sequence.strip()}` is no escape",
        r"one of \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX",
        f"`{sequence.strip()}`",
        hint="double the backslash, or put the text in single quotes, which know no escapes",
    )


NUMBERED = re.compile(r"\\(?:u[0-9A-Fa-f]\w{0,3}|U[0-9A-Fa-f]\w{0,7})")


def _bad_number(place: Place, start: int, sequence: str) -> Explained:
    """The number of a character with a digit that is none, or too few, or of no character."""
    letter, digits = sequence[1], sequence[2:]
    most = 4 if letter == "u" else 8
    whole = len(digits) == most and all(char in "0123456789abcdefABCDEF" for char in digits)
    hint = (
        "double the backslash where none was meant, or put the text in single quotes, which know no escapes"
    )
    if whole:
        half = 0xD800 <= int(digits, 16) < 0xE000
        hint = "a character beyond \\uFFFF is written \\U and eight digits" if half else ""
    return Explained(
        place.spot(start, len(sequence)),
        f"`{sequence}` is the number of no character"
        if whole
        else f"`\\{letter}` needs {most} hexadecimal digits behind it",
        "a number up to 10FFFF, and not from D800 to DFFF" if whole else f"{most} of 0 to 9 and A to F",
        f"`{digits}`",
        hint=hint,
    )


# -- values -------------------------------------------------------------------------------


def value(place: Place) -> Explained:
    """No value, or a word that is none."""
    rest = place.rest.strip()
    if rest.startswith(">") and place.source.text[place.at - 1 : place.at] == "=":
        return Explained(
            place.spot(),
            "one `>` too many",
            "a value",
            "`>`",
            hint="TOML writes `key = value`, with `=` alone",
        )
    if place.word and not place.word.startswith("="):
        return bare_word(place, place.at)
    if rest.startswith("="):
        return Explained(
            place.spot(), "one `=` too many", "a value", "`=`", hint="one `=` stands between key and value"
        )
    if not rest and place.source.text[place.start : place.at].rstrip().endswith((",", "[")):
        return _unclosed(place, "[", "]", "array")
    if rest and not rest.startswith("#"):
        after_sign = place.source.text[place.start : place.at].rstrip().endswith("=")
        missing = f"{key_before(place)} has no value" if after_sign else "a value is missing here"
        return Explained(place.spot(), missing, "a value", f"`{rest[0]}`")
    return Explained(place.spot(), f"{key_before(place)} has no value", "a value", "nothing")


def bare_word(place: Place, start: int) -> Explained:
    """Text without quotes where only numbers, booleans, dates and quoted text can stand."""
    text = _loose_text(place, start)
    suggestion, hint = quoted(text), "text is written in quotes"
    if text[:1] in QUOTATION:
        suggestion = quoted(without_quotation(text))
        hint = f"`{text[0]}` is {odd_name(text[0])}; TOML's quotation marks are `\"` and `'`"
    elif imitation(text):
        better = plain(text)
        suggestion, hint = better if better.isdecimal() else quoted(better), imitation(text)
    elif said := _better_word(place, start, text):
        suggestion, hint = said
    elif re.fullmatch(r"0\d+", text):
        suggestion, hint = text.lstrip("0") or "0", "a number does not begin with 0"
    elif number := _nearly_a_number(text):
        suggestion, hint = number
    elif re.fullmatch(r"\d{4}-\d\d-\d\d.*", text):
        hint = "it looks like a date, but is none"
    return Explained(
        place.spot(start, len(text)),
        f"`{short(text)}` is not a TOML value",
        "text in quotes, a number, true or false, an array or a table",
        f"`{short(text)}`",
        suggestion,
        hint,
    )


def _better_word(place: Place, start: int, text: str) -> tuple[str, str] | None:
    """A suggestion and a hint for a word that other formats have as a value: as the schema has it here."""
    word = text.lower()
    if word not in (*BOOLEANS, *NOTHINGS):
        return None
    from runner.definition.accepted import accepted
    from runner.definition.words import same_as

    before = place.source.text[place.start : start].strip()
    here = accepted(place.source, place.source.place(place.start)[0], before.removesuffix("="))
    ours = word if word in here.words else same_as(word, here.words)
    if ours and "boolean" not in here.types:
        return quoted(ours), "text is written in quotes"
    if word in NOTHINGS:
        return "", "TOML has no null: leave the key out"
    if not here.types or "boolean" in here.types:
        return BOOLEANS[word], "booleans are `true` and `false`, in small letters"
    return quoted(text) if "string" in here.types else "", "text is written in quotes"


def _nearly_a_number(text: str) -> tuple[str, str] | None:
    """A better spelling (or "") and TOML's rule, for a number that misses it."""
    for pattern, better, rule in NUMBERS:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, better, text), rule
    return None


NUMBERS = (
    (r"([+-]?\d+)\.", r"\1.0", "a digit stands on both sides of the point"),
    (r"([+-]?)\.(\d+)", r"\g<1>0.\2", "a digit stands on both sides of the point"),
    (r"([+-]?\d+(?:\.\d+)?)[eE][+-]?", "", "digits follow the `e` of an exponent"),
    (r"0[xX]\w*", "", "hexadecimal digits follow `0x`, in small letters the `x`"),
    (r"0[oO]\w*", "", "octal digits, 0 to 7, follow `0o`"),
    (r"0[bB]\w*", "", "binary digits, 0 and 1, follow `0b`"),
    (r"[+-]*([+-]\d+)", r"\1", "a number has one sign"),
    (r"(\d+)_+(\d+)", r"\1_\2", "each `_` in a number stands between two digits"),
    (r"_*(\d+)_*", r"\1", "each `_` in a number stands between two digits"),
)
"""Pattern, what it is meant to be (where that is plain), and the rule (TOML 1.0, Integer and Float)."""

NOTHINGS = ("none", "null", "nil", "~")
BOOLEANS = {"true": "true", "false": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}


def _loose_text(place: Place, start: int) -> str:
    """What was probably meant as one value: in brackets a word, elsewhere the rest of the line."""
    scan = Scan()
    for line in place.source.text[place.start : start].split("\n"):
        scan.feed(line)
    line = place.source.text[start : place.stop].split("\n", 1)[0]
    match = WORD.match(line)
    word = match[0] if match else line[:1]
    rest = re.split(r"\s#|;\s*$", line)[0].rstrip()
    return word if scan.brackets or any(sign in rest for sign in "\"'[]{}") else rest


def after_statement(place: Place) -> Explained:
    """Something after a complete value or header, on the same line."""
    rest = place.rest.strip()
    if rest.startswith(";"):
        return Explained(
            place.spot(length=len(rest)), "the line goes on after its value", "the end of the line",
            f"`{short(rest)}`", hint="a statement ends with its line, without `;`",
        )  # fmt: skip
    start = _word_start(place)
    if start is not None:
        return bare_word(place, start)
    if rest.startswith("//"):
        return Explained(
            place.spot(length=len(rest)), "`//` does not begin a comment", "the end of the line",
            f"`{short(rest)}`", hint="a comment begins with `#`",
        )  # fmt: skip
    length = len(place.rest.rstrip())
    return Explained(
        place.spot(length=length), "the line goes on after its value", "the end of the line",
        f"`{short(rest)}`", hint=_why_it_goes_on(place, rest),
    )  # fmt: skip


def _why_it_goes_on(place: Place, rest: str) -> str:
    """What the author did not see: a quotation mark that ended the string, or a second key."""
    quote = place.source.text[place.at - 1 : place.at]
    if quote in ("'", '"') and rest.endswith(quote):
        other = 'write \\" inside' if quote == '"' else 'put the text in "…"'
        return f"the string ends at its second {quote} already: {other}"
    if set(rest) <= {"]", "}"}:
        return f"nothing is open that `{rest[0]}` could close"
    return "each key stands on a line of its own" if "=" in rest else ""


def _word_start(place: Place) -> int | None:
    """Where the word began of which a number or date was only the beginning (``512`` of ``512M``)."""
    text, start = place.source.text, place.at
    while start > place.start and (text[start - 1].isalnum() or text[start - 1] in "+-_.:"):
        start -= 1
    is_value = text[place.start : start].rstrip().endswith(("=", ",", "["))
    goes_on = bool(place.word) and place.rest.startswith(place.word)
    return start if start < place.at and goes_on and is_value else None


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
        word = _word_start(place)
        if word is not None:
            return bare_word(place, word)
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
