"""QEMU's register dump (``info registers -a``) as what a person wants to know of each CPU."""

from __future__ import annotations

from runner.definition.model import Json
from runner.typed import Iterator


def cpu_states(dump: str) -> Iterator[dict[str, Json]]:
    """Per CPU: number, instruction pointer, privilege level, page table and whether it halts."""
    for part in dump.split("CPU#")[1:]:
        number, _, text = part.partition("\n")
        words = dict(_words(text))
        yield {
            "cpu": int(number),
            "rip": "0x" + words.get("RIP", words.get("EIP", "0")),
            "cpl": int(words.get("CPL", "0")),
            "cr3": "0x" + words.get("CR3", "0"),
            "halted": words.get("HLT") == "1",
        }


def _words(text: str) -> Iterator[tuple[str, str]]:
    """``NAME=value`` pairs; the segment registers have blanks in theirs and are not asked for."""
    for word in text.split():
        name, equals, value = word.partition("=")
        if equals and value:
            yield name, value
