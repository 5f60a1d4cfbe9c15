"""Characters that look like others, or like nothing: the faults that nobody sees in an editor.

A no-break space from a web page, a Cyrillic letter, a typographic quotation mark: the line looks
right and is not.  Here such a character gets its name, and the text its plain spelling.
"""

from __future__ import annotations

QUOTATION = "“”„‟«»″＂‘’‚‛′＇`´"
"""Signs that a word processor, or a habit, puts where TOML wants ``"`` or ``'``."""

LETTERS = str.maketrans(
    # Cyrillic and Greek letters that have the shape of a Latin one (Unicode TR 39, confusables)
    "аеіјорсухѕһԁԛԝ" "АВЕІЈКМНОРСТУХЅ" "αινορτυχ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" "‐‑‒–—−",
    "aeijopcyxshdqw" "ABEIJKMHOPCTYXS" "aivoptux" "ABEZHIKMNOPTYX" "------",
)  # fmt: skip


RAISED = ("<super>", "<sub>", "<fraction>")
"""Unicode's compatibility forms whose digits mean another number than the plain ones."""


def is_unseen(char: str) -> bool:
    """Whether a character shows nothing, or a blank that is none for TOML."""
    import unicodedata

    return char not in ("", " ", "\t", "\n") and unicodedata.category(char)[0] in "CZ"


def name(char: str) -> str:
    """A character for a sentence: its number and Unicode's name."""
    import unicodedata

    given = {"\r": "carriage return", "\0": "NUL", "\x0c": "form feed", "\x0b": "vertical tab"}.get(char)
    words = given or unicodedata.name(char, "control character").lower()
    return f"U+{ord(char):04X} ({words})"


def plain(text: str) -> str:
    """The text with the letters and digits of ASCII that it looks like; the same if there are none."""
    if text.isascii():
        return text
    import unicodedata

    seen = "".join(char for char in text if not is_unseen(char))
    if any(unicodedata.decomposition(char).startswith(RAISED) for char in seen):
        return seen  # 2² is not 22
    return unicodedata.normalize("NFKC", seen.translate(LETTERS))


def imitation(text: str) -> str:
    """A sentence about the first character of ``text`` that only looks like ASCII; "" without one."""
    if plain(text) == text or not plain(text).isascii():
        return ""
    odd = next(char for char in text if not char.isascii())
    if is_unseen(odd):
        return f"it contains {name(odd)}, which cannot be seen"
    return f"`{odd}` is {name(odd)}, and no `{plain(odd)}`"


def without_quotation(text: str) -> str:
    """The text between typographic quotation marks, or half of them."""
    return text.strip(QUOTATION + "\"'")
