"""A guest's console output as lines of plain text, safe to print and to store.

A guest may send anything: escape sequences, half characters, control bytes.
"""

from __future__ import annotations


def plain_lines(output: bytes) -> list[str]:
    """Lines without escape sequences and control characters, without blanks at their ends.

    Sequences are those of ECMA-48 (CSI, §5.4; OSC and other strings, §5.6) and the
    two-byte ones.  A carriage return inside a line stands for what overwrote it.
    """
    import re

    text = output.decode("utf-8", "replace")
    text = re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])", "", text)
    lines = []
    for line in text.split("\n"):
        shown = line.rstrip("\r \t").rpartition("\r")[2]
        lines.append(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]", "", shown).rstrip())
    return lines


def last_lines(output: bytes, count: int) -> tuple[str, ...]:
    """The last ``count`` lines that say something, each cut at 300 characters."""
    said = [line[:300] for line in plain_lines(output) if line]
    return tuple(said[-count:])
