"""The last words of a console, kept in every mode, also when nobody reads it."""

from __future__ import annotations

KEEP = 64 * 1024


class Tail:
    """The last ``keep`` bytes; appending is cheap also at ten megabytes a second."""

    def __init__(self, keep: int = KEEP) -> None:
        self.total = 0
        self._keep = keep
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        """Append; the oldest bytes go, in steps so that they are moved seldom."""
        self.total += len(data)
        self._bytes += data
        if len(self._bytes) > 2 * self._keep:
            del self._bytes[: -self._keep]

    def last(self) -> bytes:
        """At most ``keep`` bytes."""
        return bytes(self._bytes[-self._keep :])
