"""What a foreign command line says, on its way to a definition."""

from __future__ import annotations

from runner.definition.model import Json
from runner.typed import NamedTuple

Table = dict[str, Json]


ORDER = ("name", "kernel", "initramfs", "cmdline", "cpus", "memory", "serial", "console", "engine")
"""How people write a definition; other keys follow as they come."""


class Imported(NamedTuple):
    """A document as tomllib would give it, and one sentence for each thing that was not taken over."""

    document: Table
    notes: tuple[str, ...]


class Taking:
    """A document that grows, with its notes; nothing is left out without a word."""

    def __init__(self) -> None:
        self.document: Table = {}
        self.notes: list[str] = []

    def put(self, key: str, value: Json) -> None:
        """A key of the machine itself."""
        self.document[key] = value

    def section(self, section: str, name: str, entry: Table) -> None:
        """A table of a section, under its name or the next one that is free."""
        tables = self.document.setdefault(section, {})
        assert isinstance(tables, dict)
        free, number = name, 1
        while free in tables:
            number += 1
            free = f"{name}{number}"
        tables[free] = entry

    def leave(self, words: str, why: str = "vmrun has nothing of the kind") -> None:
        """What was not taken over, as it was written, and why."""
        self.notes.append(f"not taken over: {words}: {why}")

    def remark(self, sentence: str) -> None:
        """What was taken over, and wants to be looked at."""
        self.notes.append(sentence)

    def done(self) -> Imported:
        """The document with what came first at its top."""
        first = [key for key in ORDER if key in self.document]
        rest = [key for key in self.document if key not in ORDER]
        return Imported({key: self.document[key] for key in (*first, *rest)}, tuple(self.notes))


def name_of(text: str, otherwise: str) -> str:
    """A foreign id as a name of ours: a letter, then letters, digits, ``_`` and ``-``, at most 32."""
    spelled = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in text)
    return spelled[:32] if spelled[:1].isalpha() else otherwise


def switch(text: str) -> bool:
    """``on``, ``true`` and their like."""
    return text.lower() in ("on", "true", "yes", "1", "")
