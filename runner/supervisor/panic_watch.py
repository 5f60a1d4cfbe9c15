"""A kernel that has panicked and says nothing more: seen on the console, without pvpanic.

Only the kernel's closing line counts (``panic()`` in Linux' ``kernel/panic.c`` prints it
last when it stays where it is), nothing may follow it, and the virtual CPUs must be busy:
a panicked Linux spins in ``mdelay``, whereas a program that has just shown an old log
leaves them idle.
"""

from __future__ import annotations

CLOSING = b"---[ end Kernel panic - not syncing"
KEEP = 512  # of the last output: more than a closing line has


class PanicWatch:
    """Looks at console output as it passes."""

    def __init__(self) -> None:
        self._last = b""

    def add(self, data: bytes) -> bool:
        """Whether the output ends, as of now, in a closing line."""
        self._last = (self._last + data)[-KEEP:] if len(data) < KEEP else data[-KEEP:]
        if CLOSING not in self._last:
            return False
        line = self._last[self._last.rindex(CLOSING) :].rstrip()
        return b"\n" not in line and line.endswith(b"]---")
