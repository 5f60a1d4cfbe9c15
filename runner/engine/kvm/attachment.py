"""The sockets that the machine offers to one device (``Attachment``)."""

from __future__ import annotations

import time

from runner.devices.ports import Effect
from runner.engine.kvm.interrupts import Bell, FunctionMessages, Wire
from runner.graph.model import Node
from runner.typed import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.host.uart import NativeUart


class HostClock:
    """The host's own clocks (``Clock``)."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()


class DeviceAttachment:
    """Implements :class:`runner.devices.ports.Attachment` for one node of the graph."""

    def __init__(self, machine: Machine, node: Node) -> None:
        self._machine, self.node = machine, node
        self.memory = machine.ram
        self.clock = HostClock()
        self.loop = machine.loop
        self._messages: FunctionMessages | None = None
        self._bells: list[Bell] = []
        self._followers: list[Callable[[int, int | None], None]] = []

    def irq(self, index: int) -> Wire:
        """The line that the graph gave to the claim's entry ``index``."""
        claim = self.node.claim.irqs[index]
        assert claim.line is not None, "the planner gives every interrupt a line"
        if claim.trigger == "level":
            return self._machine.lines.wire(claim.line)
        return Wire(self._machine.vm, claim.line)

    def msi(self) -> FunctionMessages:
        """The function's vectors; made once."""
        pci = self.node.claim.pci
        assert pci is not None, "only a PCI function has messages"
        if self._messages is None:
            count = max(pci.msix_vectors, pci.msi_vectors)
            self._messages = FunctionMessages(self._machine.vm, self._machine.messages, count)
        return self._messages

    def doorbell(self, address: int, size: int, value: int | None) -> Bell:
        """An ioeventfd at an address inside a claimed BAR; it rings while that BAR is decoded."""
        pci = self.node.claim.pci
        assert pci is not None, "only a PCI function has doorbells"
        for bar in pci.bars:
            start = bar.at or 0
            if start <= address < start + bar.size:
                bell = Bell(self._machine.vm, self._machine.loop, bar.bar, address - start, size, value)
                self._bells.append(bell)
                return bell
        raise ValueError(f"{self.node.name}: {address:#x} lies in none of its BARs")

    def bar_moved(self, bar: int, start: int | None) -> None:
        """The BAR is decoded at ``start`` now (None: nowhere); its doorbells and mapped memory follow."""
        for bell in self._bells:
            if bell.bar == bar:
                bell.move(start)
        for moved in self._followers:
            moved(bar, start)

    def follow_bars(self, moved: Callable[[int, int | None], None]) -> None:
        """Call ``moved(bar, start)`` when a BAR of this function has been moved."""
        self._followers.append(moved)

    def log(self, level: str, event: str, **data: int | str) -> None:
        """A line for the supervisor's log, at most so many a second."""
        self._machine.log(level, event, **data)

    def backend(self, name: str) -> Any:
        """What the supervisor opened under this name."""
        claim = next(claim for claim in self.node.claim.backends if claim.name == name)
        backend = self._machine.backend(claim, queued=self.node.claim.pci is not None)
        if hasattr(backend, "join"):  # it works with this device's doorbells and vectors
            backend.join(self)
        return backend

    def serial_port(self, backend: str) -> NativeUart:
        """The node's UART, served by every vCPU's own thread."""
        from runner.host.uart import NativeUart

        machine, port = self._machine, self.node.claim.ports[0].at
        assert port is not None, "the planner gives every claim its ports"
        uart = NativeUart(self.backend(backend).fd, machine.loop)
        uart.join(machine.vm, self.irq(0).gsi, port, machine.vcpus, machine.ring_page)
        return uart

    def request(self, effect: Effect) -> None:
        """An effect without a register write."""
        self._machine.on_effect(effect)
