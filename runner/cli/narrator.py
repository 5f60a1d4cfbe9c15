"""What vmrun says while it works: short lines on standard error, or JSON with ``--log json``.

The human form is written here, since ``structlog`` costs a tenth of a second to import and
a normal run says three lines.  The JSON form, whose reader is a machine that waits anyway,
is structlog's.
"""

from __future__ import annotations

import os

from runner.light import suppress
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.definition.model import Json

STDERR = 2
LEVELS = {"debug": 0, "info": 1, "hint": 1, "notice": 2, "warning": 3, "error": 4}
"""``notice`` answers what the user asked for just now, so ``-q`` does not silence it."""
_COLOURS = {"warning": "33", "error": "31"}


def wants_colour(*, terminal: bool) -> bool:
    """Colours only on a terminal that has them, never with NO_COLOR (empty is unset: no-color.org)."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Narrator:
    """Callable as ``tell(level, words, **fields)``."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, form: str = "human") -> None:
        self.name = ""
        self._on_terminal = os.isatty(STDERR)
        self._least = LEVELS["notice"] if quiet else LEVELS["debug"] if verbose else LEVELS["info"]
        self._verbose = verbose
        self._structured: Any = _structured() if form == "json" else None
        self._colour = form == "human" and wants_colour(terminal=self._on_terminal)

    def __call__(self, level: str, words: str, **fields: Json) -> None:
        """Say it, unless the user asked for less."""
        if LEVELS.get(level, 1) < self._least:
            return
        if self._structured is not None:
            method = level if level in ("debug", "warning", "error") else "info"
            named = {"vm": self.name} if self.name else {}
            with suppress(OSError):  # as in `write`
                getattr(self._structured, method)(words, **named, **fields)
            return
        shown = "".join(f" {key}={value}" for key, value in fields.items()) if self._verbose else ""
        head = "vmrun" + (f": {level}" if level in _COLOURS else "")
        if self._colour and level in _COLOURS:
            head = f"\x1b[{_COLOURS[level]}m{head}\x1b[0m"
        self.write(f"{head}: {words}{shown}\n")

    def write(self, text: str) -> None:
        """Text as it is.  Standard error that is closed or full is no reason to stop a guest."""
        if self._on_terminal and _terminal_is_raw():
            text = text.replace("\n", "\r\n")
        data = text.encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(STDERR, data) :]
        except OSError:
            return


def _terminal_is_raw() -> bool:
    """Whether a terminal of ours is raw just now: a line must end in CR LF then."""
    from runner.host.terminal import Terminal

    return Terminal.raw_ones > 0


def _structured() -> Any:
    import sys

    import structlog

    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ],
    )
