"""The life of one virtio device, apart from the bus it sits on (virtio 1.2 §2.1, §3).

Status, features and queue registers live here; a bus front (:mod:`runner.bus.virtio_pci`)
translates its registers into these calls.  Queue registers are immutable from the moment
a queue is enabled until the next reset (device-bugs 7).
"""

from __future__ import annotations

from runner.bus import virtio_status
from runner.bus.virtio_device import VirtioDevice
from runner.bus.virtqueue import QueueSetup, RingError, SplitQueue
from runner.devices.ports import Doorbell, GuestMemory, GuestMemoryFault, OffloadedQueue
from runner.typed import Callable, Protocol
from runner.wire import virtio


class Interrupts(Protocol):
    """How the bus front tells the driver something."""

    def raise_queue(self, vector: int) -> None: ...

    def raise_config(self) -> None: ...


class QueueRegisters:
    """One queue as the driver sets it up."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.clear()

    def clear(self) -> None:
        """As after reset."""
        self.size = self.largest
        self.vector = virtio.NO_VECTOR
        self.enabled = False
        self.descriptors = self.driver = self.device = 0


class VirtioTransport:
    """Drives ``device``; ``later`` calls back on the device's thread as soon as it is free."""

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        interrupts: Interrupts,
        later: Callable[[Callable[[], None]], None],
        log: Callable[..., None],
    ) -> None:
        self.device = device
        self.status = 0
        self.generation = 0
        self.offered = device.features | device.ring_features
        self.accepted = 0
        self.registers = tuple(QueueRegisters(size) for size in device.queue_sizes)
        self.doorbells: tuple[Doorbell, ...] = ()
        self.log = log
        self._memory = memory
        self._interrupts = interrupts
        self._later = later
        self._live: dict[int, SplitQueue] = {}
        self._resetting = False
        device.attach(self)

    # ---- what the driver does

    def accept_features(self, select: int, value: int) -> None:
        """32 bits of the features that the driver wants."""
        if select in (0, 1) and virtio_status.negotiating(self.status):
            shift = 32 * select
            self.accepted = self.accepted & ~(0xFFFFFFFF << shift) | value << shift

    def write_status(self, value: int) -> None:
        """The driver writes the status field; zero resets."""
        if value == 0:
            self.reset()
            return
        if self._resetting:
            return
        before = self.status
        fits = bool(self.accepted & virtio.F_VERSION_1) and not self.accepted & ~self.offered
        self.status = virtio_status.advance(before, value, fits)
        if self.status & ~before & virtio.DRIVER_OK:
            self._start()

    def configurable(self, number: int) -> QueueRegisters | None:
        """The registers of a queue that may still be set up; None when it is too late or there is none."""
        if not 0 <= number < len(self.registers) or self._resetting:
            return None
        if self.status & virtio.DRIVER_OK or self.registers[number].enabled:
            return None
        return self.registers[number]

    def notify(self, number: int) -> None:
        """The driver rang for a queue."""
        if number in self._live and virtio_status.live(self.status):
            self.guard(lambda: self.device.notify(number))()

    def reset(self) -> None:
        """Back to the start; the status reads zero when the device has let go of guest memory."""
        if self._resetting:
            return
        for queue in self._live.values():
            queue.close()
        self._live = {}
        self._resetting = True
        if self.status & virtio.DRIVER_OK:
            self.device.reset(self._finish_reset)
        else:
            self._finish_reset()

    def _finish_reset(self) -> None:
        self._resetting = False
        self.status = 0
        self.accepted = 0
        for registers in self.registers:
            registers.clear()

    def _start(self) -> None:
        """DRIVER_OK: make the rings and hand them to the device."""

        def start() -> None:
            for number, registers in enumerate(self.registers):
                if registers.enabled:
                    self._live[number] = self._ring(number, registers)
            self.device.activate(self.accepted, dict(self._live))

        self.guard(start)()
        for number in tuple(self._live):
            self.notify(number)  # for what was offered before DRIVER_OK

    def _ring(self, number: int, registers: QueueRegisters) -> SplitQueue:
        setup = QueueSetup(number, registers.size, registers.descriptors, registers.driver, registers.device)

        def signal() -> None:
            self._interrupts.raise_queue(registers.vector)

        def again() -> None:
            self._later(lambda: self.notify(number))

        return SplitQueue(self._memory, setup, self.accepted, signal, again)

    # ---- what the device asks for (runner.bus.virtio_device.Transport)

    def config_changed(self) -> None:
        """A new generation of the configuration (§2.5.1), and the interrupt for it."""
        self.generation = (self.generation + 1) & 0xFF
        if self.status & virtio.DRIVER_OK:
            self._interrupts.raise_config()

    def fail(self, reason: str) -> None:
        """NEEDS_RESET, told by a configuration interrupt; the queues stand still until then.

        What is heard of after the reset was the driver's life before (§2.1.2: DRIVER_OK comes first).
        """
        if not self.status & virtio.DRIVER_OK or self.status & virtio.NEEDS_RESET or self._resetting:
            return
        self.log("warning", "virtio-needs-reset", reason=reason)
        self.status |= virtio.NEEDS_RESET
        for queue in self._live.values():
            queue.close()
        self._interrupts.raise_config()

    def guard(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work``, with a broken ring or an address outside RAM turned into :meth:`fail`."""

        def guarded() -> None:
            try:
                work()
            except (RingError, GuestMemoryFault) as error:
                self.fail(str(error))

        return guarded

    def hear(self, number: int) -> None:
        """Listen to a queue's doorbell on the device's thread."""
        self.doorbells[number].listen(lambda: self.notify(number))

    def offloaded(self, queue: SplitQueue) -> OffloadedQueue:
        """The queue with its doorbell and vector, for who serves it outside."""
        setup = queue.setup
        return OffloadedQueue(
            *setup,
            vector=self.registers[setup.number].vector,
            doorbell=self.doorbells[setup.number],
            signal=queue.signal,
        )
