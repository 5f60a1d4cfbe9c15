"""What Python says to the way out that consoles and the serial port share (host/native/outlet.c)."""

from __future__ import annotations

from runner.typed import Any

PATIENCE_MS = 10  # a driver waits so long for a reader that does not keep up (and Linux' spins meanwhile)
FLUSH_MS = 1000  # at the guest's end, for a supervisor that is alive and has much to do


def untaken(out: Any) -> int:
    """Bytes of a ``struct vmrun_outlet`` that nobody took: dropped ones, and those that wait."""
    return int(out.dropped + out.count)
