"""Keyboard controller at ports 0x60 and 0x64: nothing is plugged in, and 0xfe resets.

It answers as a controller that never gets rid of its output (status bit 0 stays set, bit 1
stays clear), which is how a driver tells an absent one: Linux gives up after 16 reads
(``i8042_flush``) instead of waiting half a second for each command, and a reboot through
the keyboard controller finds the input buffer free at once.  The FADT says the same
(ACPI 6.4, table 5.10, flag 8042), so a kernel with ACPI never asks.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import Attachment, Effect, RegisterDevice, Reset
from runner.graph.model import Claim, Node, PortClaim
from runner.typed import Mapping

STATUS_OUTPUT_FULL = 0x01
WRITE_OUTPUT_PORT = 0xD1
PULSE_OUTPUT_PORT = 0xF0  # 0xf0-0xff: each clear bit of the low four pulses its line
LINE_RESET = 0x01


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """The data port and the command port; no interrupt, since nothing is plugged in."""
    return Claim(ports=(PortClaim(1, 0x60, "i8042 data"), PortClaim(1, 0x64, "i8042 command")))


def build(node: Node, at: Attachment) -> I8042:
    """A controller without keyboard and mouse."""
    return I8042()


def qemu(node: Node) -> tuple[str, ...]:
    """The machine types of QEMU bring their own."""
    return ()


class I8042:
    """``ranges``: the data port, the command port."""

    def __init__(self) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (_Data(self), _Command(self))
        self.writes_output_port = False


class _Data:
    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def read(self, offset: int, size: int) -> int:
        return 0 if size == 1 else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """The byte after command 0xd1 is the output port; its bit 0 low holds the CPU in reset."""
        resets = self._controller.writes_output_port and not value & LINE_RESET
        self._controller.writes_output_port = False
        return Reset("i8042") if resets else None


class _Command:
    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def read(self, offset: int, size: int) -> int:
        return STATUS_OUTPUT_FULL if size == 1 else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        value &= 0xFF
        self._controller.writes_output_port = value == WRITE_OUTPUT_PORT
        if value >= PULSE_OUTPUT_PORT and not value & LINE_RESET:
            return Reset("i8042")
        return None
