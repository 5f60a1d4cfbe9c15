"""virtio over PCI, modern only (virtio 1.2 §4.1).

BAR 0 (16 KiB) holds one structure a page: common configuration, ISR status, device
configuration, notification (four bytes a queue, so that each queue has its own doorbell).
BAR 2 holds the MSI-X table and PBA.  The configuration-space window of §4.1.4.9 reaches
BAR 0 only.
"""

from __future__ import annotations

from struct import pack

from runner.bus.msix import Msix, MsixBar, bar_layout
from runner.bus.pci import Function, IntxPin
from runner.bus.virtio_device import VirtioDevice
from runner.bus.virtio_transport import VirtioTransport
from runner.devices.ports import Effect, LoggingAttachment, RegisterDevice
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.typed import Callable, Final
from runner.wire import pci, virtio

REGISTERS_BAR: Final = 0
MSIX_BAR: Final = 2
PAGE: Final = 0x1000
REGISTERS_SIZE: Final = 4 * PAGE
COMMON, ISR, DEVICE, NOTIFY = (PAGE * number for number in range(4))
NOTIFY_MULTIPLIER: Final = 4

_WIDTHS: Final = {
    virtio.COMMON_DEVICE_FEATURE_SELECT: 4,
    virtio.COMMON_DEVICE_FEATURE: 4,
    virtio.COMMON_DRIVER_FEATURE_SELECT: 4,
    virtio.COMMON_DRIVER_FEATURE: 4,
    virtio.COMMON_CONFIG_VECTOR: 2,
    virtio.COMMON_NUM_QUEUES: 2,
    virtio.COMMON_STATUS: 1,
    virtio.COMMON_GENERATION: 1,
    virtio.COMMON_QUEUE_SELECT: 2,
    virtio.COMMON_QUEUE_SIZE: 2,
    virtio.COMMON_QUEUE_VECTOR: 2,
    virtio.COMMON_QUEUE_ENABLE: 2,
    virtio.COMMON_QUEUE_NOTIFY_OFF: 2,
    virtio.COMMON_QUEUE_DESC: 4,
    virtio.COMMON_QUEUE_DESC + 4: 4,
    virtio.COMMON_QUEUE_DRIVER: 4,
    virtio.COMMON_QUEUE_DRIVER + 4: 4,
    virtio.COMMON_QUEUE_DEVICE: 4,
    virtio.COMMON_QUEUE_DEVICE + 4: 4,
}
_ADDRESSES: Final = {
    virtio.COMMON_QUEUE_DESC: "descriptors",
    virtio.COMMON_QUEUE_DRIVER: "driver",
    virtio.COMMON_QUEUE_DEVICE: "device",
}


def claim(device_id: int, class_code: int, queues: int, backends: tuple[BackendClaim, ...] = ()) -> Claim:
    """What every virtio function claims: two BARs, a vector a queue and one for the configuration."""
    vectors = queues + 1
    return Claim(
        pci=PciClaim(
            vendor=virtio.PCI_VENDOR,
            device=virtio.PCI_DEVICE_BASE + device_id,
            class_code=class_code,
            subsystem_vendor=virtio.PCI_VENDOR,
            subsystem_device=0x40 + device_id,
            revision=virtio.PCI_REVISION,
            bars=(
                BarClaim(REGISTERS_BAR, REGISTERS_SIZE, "mem32"),
                BarClaim(MSIX_BAR, bar_layout(vectors)[0], "mem32"),
            ),
            msix_vectors=vectors,
            intx_pin=1,
        ),
        backends=backends,
    )


class VirtioPciFunction:
    """A virtio device as a PCI function; ``function`` is what the engine plugs into its bus."""

    ranges: tuple[RegisterDevice, ...] = ()

    def __init__(self, node: Node, at: LoggingAttachment, device: VirtioDevice) -> None:
        wanted = node.claim.pci
        assert wanted is not None, "a virtio function has a PCI claim"
        self.msix = Msix(wanted.msix_vectors, at.msi())
        self._isr = 0
        self._config_vector = virtio.NO_VECTOR
        self._device_select = self._driver_select = self._queue_select = 0

        def later(callback: Callable[[], None]) -> None:
            at.loop.call_at(at.clock.monotonic_ns(), callback)

        def log(level: str, event: str, **data: int | str) -> None:
            at.log(level, event, device=node.name, **data)

        self.transport = VirtioTransport(device, at.memory, self, later, log)
        pba = bar_layout(wanted.msix_vectors)[1]
        self.function = Function(
            node.name,
            wanted if node.claim.irqs else wanted._replace(intx_pin=0),
            {REGISTERS_BAR: self, MSIX_BAR: MsixBar(self.msix, pba)},
            on_reset=self._bus_reset,
        )
        self._intx = IntxPin(self.function.config, at.irq(0)) if node.claim.irqs else None
        self._add_capabilities(pba)
        self._hang_doorbells(at, wanted.bars[0].at or 0)

    def flush(self) -> None:
        """The machine has halted."""
        self.transport.device.flush()

    # ---- capabilities

    def _add_capabilities(self, pba: int) -> None:
        config = self.function.config
        self.msix.add_capability(config, MSIX_BAR, 0, pba)
        for kind, start, length in (
            (virtio.CFG_COMMON, COMMON, virtio.COMMON_SIZE),
            (virtio.CFG_ISR, ISR, 1),
            (virtio.CFG_DEVICE, DEVICE, PAGE),
        ):
            config.add_capability(pci.CAP_VENDOR, _capability(kind, start, length))
        queues = len(self.transport.registers)
        multiplier = pack("<I", NOTIFY_MULTIPLIER)
        body = _capability(virtio.CFG_NOTIFY, NOTIFY, queues * NOTIFY_MULTIPLIER, multiplier)
        config.add_capability(pci.CAP_VENDOR, body)
        window = _capability(virtio.CFG_PCI, 0, 0, bytes(4))
        writable = b"\0\0" + b"\xff" + b"\0\0\0" + b"\xff" * 12  # bar, offset, length, data
        self._window = config.add_capability(pci.CAP_VENDOR, window, writable)
        config.refresh(self._window + 16, 4, self._window_read)
        config.watch(self._window + 16, 4, self._window_written)

    def _window_target(self) -> tuple[int, int] | None:
        """Offset and length that the window points at; None when it may not (device-bugs 12)."""
        config = self.function.config
        bar, offset, length = (config.get(self._window + at, size) for at, size in ((4, 1), (8, 4), (12, 4)))
        if bar != REGISTERS_BAR or length not in (1, 2, 4):
            return None
        if offset % length or offset + length > REGISTERS_SIZE:
            return None
        return offset, length

    def _window_read(self) -> None:
        target = self._window_target()
        value = self.read(*target) if target else 0
        self.function.config.put(self._window + 16, 4, value)

    def _window_written(self, offset: int, old: bytes) -> None:
        target = self._window_target()
        if target:
            self.write(*target, self.function.config.get(self._window + 16, target[1]))

    # ---- doorbells

    def _hang_doorbells(self, at: LoggingAttachment, base: int) -> None:
        """One ioeventfd a queue, of any width, so that the kernel need not decode the write."""
        queues = range(len(self.transport.registers))
        self.transport.doorbells = tuple(
            at.doorbell(base + NOTIFY + NOTIFY_MULTIPLIER * number, 0, None) for number in queues
        )
        for number in queues:
            if number not in self.transport.device.offloaded_queues:
                self.transport.hear(number)

    # ---- interrupts (runner.bus.virtio_transport.Interrupts)

    def raise_queue(self, vector: int) -> None:
        """A queue's interrupt: its message, or INTx with the ISR's bit (§4.1.5.2)."""
        self._raise(vector, virtio.ISR_QUEUE)

    def raise_config(self) -> None:
        """The configuration's interrupt."""
        self._raise(self._config_vector, virtio.ISR_CONFIG)

    def _raise(self, vector: int, isr: int) -> None:
        if self.msix.enabled:
            self.msix.fire(vector)  # NO_VECTOR is out of its range: nothing
            return
        self._isr |= isr
        if self._intx is not None:
            self._intx.set(True)

    def _read_isr(self) -> int:
        value, self._isr = self._isr, 0
        if self._intx is not None:
            self._intx.set(False)
        return value

    def _bus_reset(self) -> None:
        self.msix.reset()
        self._config_vector = virtio.NO_VECTOR
        self._read_isr()
        self.transport.reset()

    # ---- BAR 0

    def read(self, offset: int, size: int) -> int:
        """The registers BAR."""
        page, offset = offset & ~(PAGE - 1), offset & PAGE - 1
        if page == COMMON:
            return self._read_common(offset) if _WIDTHS.get(offset) == size else 0
        if page == ISR:
            return self._read_isr() if offset == 0 else 0
        if page == DEVICE:
            return self.transport.device.read_config(offset, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """The registers BAR; a notification comes here when no doorbell caught it."""
        page, offset = offset & ~(PAGE - 1), offset & PAGE - 1
        if page == COMMON:
            if _WIDTHS.get(offset) == size:
                self._write_common(offset, value)
        elif page == DEVICE:
            self.transport.device.write_config(offset, size, value)
        elif page == NOTIFY:
            self.transport.notify(offset // NOTIFY_MULTIPLIER)
        return None

    def _read_common(self, offset: int) -> int:
        transport = self.transport
        match offset:
            case virtio.COMMON_DEVICE_FEATURE_SELECT:
                return self._device_select
            case virtio.COMMON_DEVICE_FEATURE:
                return _word(transport.offered, self._device_select)
            case virtio.COMMON_DRIVER_FEATURE_SELECT:
                return self._driver_select
            case virtio.COMMON_DRIVER_FEATURE:
                return _word(transport.accepted, self._driver_select)
            case virtio.COMMON_CONFIG_VECTOR:
                return self._config_vector
            case virtio.COMMON_NUM_QUEUES:
                return len(transport.registers)
            case virtio.COMMON_STATUS:
                return transport.status
            case virtio.COMMON_GENERATION:
                return transport.generation
            case virtio.COMMON_QUEUE_SELECT:
                return self._queue_select
        return self._read_queue(offset)

    def _read_queue(self, offset: int) -> int:
        """A register of the selected queue; a queue that is not there reads as zero (§4.1.4.3.1)."""
        if self._queue_select >= len(self.transport.registers):
            return 0
        queue = self.transport.registers[self._queue_select]
        match offset:
            case virtio.COMMON_QUEUE_SIZE:
                return queue.size
            case virtio.COMMON_QUEUE_VECTOR:
                return queue.vector
            case virtio.COMMON_QUEUE_ENABLE:
                return int(queue.enabled)
            case virtio.COMMON_QUEUE_NOTIFY_OFF:
                return self._queue_select
        address: int = getattr(queue, _ADDRESSES[offset & ~4])
        return _word(address, offset >> 2 & 1)

    def _write_common(self, offset: int, value: int) -> None:
        match offset:
            case virtio.COMMON_DEVICE_FEATURE_SELECT:
                self._device_select = value
            case virtio.COMMON_DRIVER_FEATURE_SELECT:
                self._driver_select = value
            case virtio.COMMON_DRIVER_FEATURE:
                self.transport.accept_features(self._driver_select, value)
            case virtio.COMMON_CONFIG_VECTOR:
                self._config_vector = self._vector(value)
            case virtio.COMMON_STATUS:
                self.transport.write_status(value)
                if value == 0:
                    self._config_vector = virtio.NO_VECTOR
                    self._read_isr()
            case virtio.COMMON_QUEUE_SELECT:
                self._queue_select = value
            case virtio.COMMON_QUEUE_VECTOR:
                if self._queue_select < len(self.transport.registers):
                    self.transport.registers[self._queue_select].vector = self._vector(value)
            case _:
                self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        """Set up the selected queue, as long as it may be (device-bugs 7, 10)."""
        queue = self.transport.configurable(self._queue_select)
        if queue is None:
            return
        if offset == virtio.COMMON_QUEUE_SIZE:
            if 0 < value <= queue.largest and not value & (value - 1):
                queue.size = value
        elif offset == virtio.COMMON_QUEUE_ENABLE:
            queue.enabled = value == 1
        elif offset & ~4 in _ADDRESSES:
            name = _ADDRESSES[offset & ~4]
            shift = 32 * (offset >> 2 & 1)
            old: int = getattr(queue, name)
            setattr(queue, name, old & ~(0xFFFFFFFF << shift) | value << shift)

    def _vector(self, value: int) -> int:
        """A vector the driver asks for; one that is not there reads back as none (§4.1.5.1.2)."""
        return value if value < self.msix.vectors else virtio.NO_VECTOR


def _word(value: int, select: int) -> int:
    """32 bits of a register of 64."""
    return value >> 32 * select & 0xFFFFFFFF if select < 2 else 0


def _capability(kind: int, offset: int, length: int, extra: bytes = b"") -> bytes:
    """struct virtio_pci_cap without id and next (§4.1.4)."""
    return pack("<BBBBBBII", 16 + len(extra), kind, REGISTERS_BAR, 0, 0, 0, offset, length) + extra
