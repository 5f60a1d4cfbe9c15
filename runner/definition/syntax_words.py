"""TOML's grammar in plain words: what tomllib says of a statement, explained to its author.

tomllib tells where it stopped and in the words of its own grammar.  The author wants to know
which text is wrong and what to write; most of that can be read off the text at that place.
"""

from __future__ import annotations

from runner.definition import odd_characters
from runner.definition import syntax_keys as keys
from runner.definition import syntax_values as values
from runner.definition.source import Source
from runner.definition.statements import Statement
from runner.definition.syntax_place import Explained, Place

EXPLANATIONS = (
    ("Unterminated string", values.open_string),
    ("Illegal character", values.open_string),
    ("Expected \"'", values.open_string),
    ("Expected \"'", values.open_string),
    ("Expected '\"", values.open_string),
    ("Found invalid character", values.open_string),
    ("Unescaped", values.backslash),
    ("Invalid hex value", values.backslash),
    ("Escaped character", values.backslash),
    ("Invalid value", values.value),
    ("Invalid date", values.bad_date),
    ("Expected newline or end of document", values.after_statement),
    ("Unclosed array", values.open_array),
    ("Unclosed inline table", values.open_table),
    ("Expected '='", keys.no_equals),
    ("Invalid initial character for a key part", keys.bad_key),
    ("Invalid statement", keys.bad_statement),
    ("Expected ']", keys.open_header),
    ("Duplicate inline", keys.duplicate_inline),
    ("Cannot overwrite", keys.duplicate_inline),
    ("Cannot mutate", keys.duplicate_inline),
    ("Nested too deeply", values.deep),
    ("Exceeds the limit", values.huge),
)


def explain(source: Source, piece: Statement, message: str, line: int, column: int) -> Explained:
    """Words for tomllib's ``message`` about one statement; line and column count inside it."""
    start = source.offset(piece.first, 1)
    stop = source.offset(piece.last, 1) + len(source.line(piece.last))
    at = min(source.offset(piece.first + line - 1, column), stop)
    place = Place(source, at, start, stop, message)
    if not message.startswith(IN_A_STRING) and odd_characters.is_unseen(source.text[at : at + 1]):
        return unseen(place)
    for beginning, words in EXPLANATIONS:
        if message.startswith(beginning):
            return words(place)
    return Explained(place.spot(), f"not valid TOML: {message[:1].lower()}{message[1:]}")


IN_A_STRING = ("Illegal", "Found invalid", 'Expected "', "Expected '\"", "Unterminated")
"""Messages about what stands between quotation marks, where other rules hold."""


def unseen(place: Place) -> Explained:
    """A character that shows nothing, where only a blank or something visible can stand."""
    text, end = place.source.text, place.at + 1
    while end < place.stop and text[end] == text[place.at]:
        end += 1
    char = text[place.at]
    name = odd_characters.name(char)
    hint = "replace it with a plain blank" if char.isspace() else "delete it"
    if char == "\r":
        hint = "a line ends with LF or CRLF; save the file with one of them"
    return Explained(
        place.spot(length=end - place.at), f"{name} cannot stand here", "visible characters and plain blanks",
        name, hint=hint,
    )  # fmt: skip
