"""What a machine's balloon is asked to hold, and what the guest says that it holds."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.definition.model import Json


class Balloon:
    """Of a machine with ``memory`` bytes; ``ask`` sends a request to the VM process."""

    def __init__(self, memory: int, ask: Callable[[str], None]) -> None:
        self._memory = memory
        self._ask = ask
        self.target = 0  # bytes that the guest is asked to give back
        self.actual = 0  # bytes that it has given back

    def inflate(self, size: object) -> str:
        """Ask the guest for ``size`` bytes, all in all; "" or why it cannot be asked."""
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < self._memory:
            return f"a balloon's size is a number of bytes below the memory's {self._memory}"
        self.target = size
        self._ask(f"balloon {size}")
        return ""

    def heard(self, data: object) -> None:
        """The guest has given back so many bytes, all in all."""
        if isinstance(data, int):
            self.actual = data

    def status(self) -> dict[str, Json]:
        """Target and actual size in bytes."""
        return {"target": self.target, "actual": self.actual}
