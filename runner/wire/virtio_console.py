"""virtio-console's layouts (virtio 1.2 §5.3)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

F_SIZE: Final = 1 << 0
F_MULTIPORT: Final = 1 << 1
F_EMERG_WRITE: Final = 1 << 2

CONFIG: Final = Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr
EMERG_WRITE_OFFSET: Final = 8

CONTROL: Final = Struct("<IHH")  # port, event, value
RESIZE: Final = Struct("<HH")  # cols, rows; older Linux takes them the other way round

DEVICE_READY: Final = 0
DEVICE_ADD: Final = 1
PORT_READY: Final = 3
CONSOLE_PORT: Final = 4
RESIZE_EVENT: Final = 5
PORT_OPEN: Final = 6
PORT_NAME: Final = 7

CONTROL_RX: Final = 2
CONTROL_TX: Final = 3


def receive_queue(port: int) -> int:
    """Queue from the device to the driver (§5.3.2)."""
    return 0 if port == 0 else 2 + 2 * port


def transmit_queue(port: int) -> int:
    """Queue from the driver to the device."""
    return receive_queue(port) + 1


def port_of(queue: int) -> int | None:
    """The port of a data queue; None for the control queues."""
    if queue < 2:
        return 0
    return None if queue < 4 else queue // 2 - 1
