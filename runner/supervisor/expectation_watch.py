"""Texts that a guest is expected to write: seen as they pass, however they are cut."""

from __future__ import annotations


class ExpectationWatch:
    """Looks for ``texts`` on the consoles; ``seen`` are those that have been written so far."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.seen: list[str] = []
        self._wanted = {text: text.encode() for text in texts}
        self._keep = max((len(wanted) for wanted in self._wanted.values()), default=1) - 1
        self._ends: dict[str, bytes] = {}

    def add(self, console: str, data: bytes) -> bool:
        """Output of one console; True when it has just shown the last of what is expected."""
        if not self._wanted:
            return False
        text = self._ends.get(console, b"") + data
        for name in [name for name, wanted in self._wanted.items() if wanted in text]:
            self.seen.append(name)
            del self._wanted[name]
        self._ends[console] = text[-self._keep :] if self._keep else b""
        return not self._wanted
