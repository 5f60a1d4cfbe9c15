"""What a console, and whoever has something to say, need of the outside; imported by type checkers only.

Making a Protocol class costs a third of a millisecond, and a run's start counts those.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.supervisor.loop import Loop
from runner.typed import Callable, Protocol


class Endpoint(Protocol):
    """Where a console's bytes go to and come from on this host.  Nothing here blocks."""

    @property
    def dropped(self) -> int:
        """Bytes of output that this endpoint could not deliver."""

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """Begin; ``feed`` takes what the endpoint reads."""

    def write(self, data: bytes) -> None:
        """Guest output."""

    def want_input(self, wanted: bool) -> None:
        """Whether the guest takes input now; only then the endpoint reads."""

    def waiting(self) -> int:
        """Bytes of output that have not gone out yet."""

    def close(self) -> None:
        """Give everything back.  Idempotent."""


class Tell(Protocol):
    """How the supervisor says something to the user; only ``cli`` prints."""

    def __call__(self, level: str, words: str, **fields: Json) -> None:
        """``level`` is debug, info, hint, notice, warning or error."""
