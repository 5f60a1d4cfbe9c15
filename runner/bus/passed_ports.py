"""The ports of a passed-through function: what :mod:`runner.devices.ports` has not."""

from __future__ import annotations

from runner.devices.ports import IrqLine, LoggingAttachment, MsiSink
from runner.typed import Callable, Protocol


class HostFunction(Protocol):
    """A PCI function of the host that the guest gets (VFIO).  Nothing here raises for what a guest does."""

    def config(self) -> bytes:
        """Its configuration space as it is now: 256 or 4096 bytes."""

    def read_config(self, offset: int, size: int) -> int: ...

    def write_config(self, offset: int, size: int, value: int) -> None: ...

    def read_bar(self, bar: int, offset: int, size: int) -> int: ...

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None: ...

    def place_bar(self, bar: int, start: int | None) -> None:
        """The BAR is decoded at ``start`` now; None: nowhere.  Raises OSError, then nothing has changed."""

    def has_wire(self) -> bool:
        """Whether the host gives its INTx: a function may have a pin that leads nowhere."""

    def use_wire(self, line: IrqLine | None) -> None:
        """Level-triggered INTx to this line; None: off."""

    def use_messages(self, kind: str, sink: MsiSink, count: int) -> None:
        """``count`` vectors of "msi" or "msix" to the sink's messages; 0: off."""

    def reset(self) -> None:
        """Reset the function, as far as the host can."""


class OwedMessages(MsiSink, Protocol):
    """Messages whose vectors a host function signals itself: what it signals while masked is owed."""

    def pending(self, vector: int) -> bool:
        """Whether the vector has been signalled and its message not been sent."""

    def forget(self) -> None:
        """Nothing is owed any more."""


class PassthroughAttachment(LoggingAttachment, Protocol):
    """What a passed-through function is built with."""

    def msi(self) -> OwedMessages:
        """The messages of ``node.claim.pci``."""

    def follow_bars(self, moved: Callable[[int, int | None], None]) -> None:
        """Call ``moved(bar, start)`` when a BAR of this function has been moved."""
