"""The sockets that the machine offers to one device (``Attachment``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from runner.devices.ports import Effect
from runner.engine.kvm.interrupts import Bell, FunctionMessages, Wire
from runner.graph.model import Node

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine


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
        self._machine, self._node = machine, node
        self.memory = machine.ram
        self.clock = HostClock()
        self.loop = machine.loop
        self._messages: FunctionMessages | None = None
        self._bells: dict[tuple[int, int, int | None], Bell] = {}

    def irq(self, index: int) -> Wire:
        """The line that the graph gave to the claim's entry ``index``."""
        line = self._node.claim.irqs[index].line
        assert line is not None, "the planner gives every interrupt a line"
        return Wire(self._machine.vm, line)

    def msi(self) -> FunctionMessages:
        """The function's vectors; made once."""
        pci = self._node.claim.pci
        assert pci is not None, "only a PCI function has messages"
        if self._messages is None:
            count = max(pci.msix_vectors, pci.msi_vectors)
            self._messages = FunctionMessages(self._machine.vm, self._machine.messages, count)
        return self._messages

    def doorbell(self, address: int, size: int, value: int | None) -> Bell:
        """An ioeventfd; asking again for the same place takes the old one away first."""
        self.hang_up(address, size, value)
        loop = self._machine.loop
        bell = Bell(self._machine.vm, loop.add_reader, address, size, value)
        self._bells[address, size, value] = bell
        return bell

    def hang_up(self, address: int, size: int, value: int | None) -> None:
        """Undo a doorbell (its BAR moves, or the device is reset); unknown ones are no error."""
        bell = self._bells.pop((address, size, value), None)
        if bell is not None:
            bell.close(self._machine.loop.remove_reader)

    def backend(self, name: str) -> Any:
        """What the supervisor opened under this name."""
        return self._machine.backend(name)

    def request(self, effect: Effect) -> None:
        """An effect without a register write."""
        self._machine.on_effect(effect)
