"""Wires and messages: how a device's interrupt reaches the in-kernel controllers."""

from __future__ import annotations

import os
import select

from runner.devices.ports import EventLoop
from runner.errors import HostError
from runner.host.kvm import MsiRoute, Vm
from runner.light import suppress
from runner.typed import Callable

FIRST_MESSAGE_GSI = 24  # after the IOAPIC's pins
MOST_ROUTES = 4096 - 64  # KVM_MAX_IRQ_ROUTES less the PC's own


class Wire:
    """A line of the PICs and the IOAPIC (``IrqLine``)."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm, self.gsi = vm, gsi

    def set(self, asserted: bool) -> None:
        """KVM_IRQ_LINE; the controllers see an edge where the level changes."""
        self._vm.irq_line(self.gsi, asserted)


class SharedLines:
    """Level-triggered lines that several functions drive: asserted while any of them asserts."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.asserting: dict[int, set[SharedWire]] = {}

    def wire(self, gsi: int) -> SharedWire:
        """One more end of the line."""
        return SharedWire(self, gsi)


class SharedWire(Wire):
    """One function's end of a shared line."""

    def __init__(self, lines: SharedLines, gsi: int) -> None:
        super().__init__(lines.vm, gsi)
        self._all = lines.asserting.setdefault(gsi, set())

    def set(self, asserted: bool) -> None:
        """The line follows when the first asserts and when the last one stops."""
        before = bool(self._all)
        if asserted:
            self._all.add(self)
        else:
            self._all.discard(self)
        if bool(self._all) != before:
            super().set(asserted)


class Messages:
    """Message routes of the whole machine: one GSI and one eventfd for each vector in use."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._routes: dict[int, MsiRoute] = {}
        self._next = FIRST_MESSAGE_GSI

    def allocate(self, count: int) -> list[int]:
        """``count`` GSIs of their own.  Raises HostError when KVM's table would be too small."""
        if self._next + count > MOST_ROUTES:
            raise HostError(f"{count} more interrupt vectors do not fit into KVM's routing table")
        first = self._next
        self._next += count
        return list(range(first, first + count))

    def route(self, gsi: int, address: int, data: int) -> None:
        """Point a GSI at a message; the table is set whole, only when it differs."""
        old, new = self._routes.get(gsi), MsiRoute(gsi, address, data)
        if old == new:
            return
        self._routes[gsi] = new
        try:
            self._vm.set_routes(self._routes.values())
        except HostError:
            del self._routes[gsi]
            if old is not None:
                self._routes[gsi] = old
            raise


class FunctionMessages:
    """The vectors of one PCI function (``MsiSink``).

    Each vector has an eventfd from its first use, for this process, vhost and VFIO alike.  While a
    vector is masked its irqfd is taken away: signals stay in the eventfd, and KVM delivers them
    when the irqfd comes back.
    """

    def __init__(self, vm: Vm, messages: Messages, count: int) -> None:
        self._vm, self._messages = vm, messages
        self._gsis = messages.allocate(count)
        self._eventfds = [-1] * count
        self._joined = [False] * count

    def configure(self, vector: int, address: int, data: int, masked: bool) -> None:
        """Set the route before the irqfd, so that no signal meets an old message (vfio.md, engine 7).

        A message that KVM has no route for (a guest may write any) reaches nobody: as if masked.
        """
        if not masked:
            try:
                self._messages.route(self._gsis[vector], address, data)
            except HostError:
                masked = True
        if masked == self._joined[vector]:
            self._vm.irqfd(self.eventfd(vector), self._gsis[vector], remove=masked)
            self._joined[vector] = not masked

    def eventfd(self, vector: int) -> int:
        """The descriptor whose signal is this vector's message."""
        if self._eventfds[vector] < 0:
            self._eventfds[vector] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._eventfds[vector]

    def fire(self, vector: int) -> None:
        """Signal; while masked it stays owed."""
        os.eventfd_write(self.eventfd(vector), 1)

    def pending(self, vector: int) -> bool:
        """Whether a signal waits in the eventfd: KVM takes it as soon as there is an irqfd."""
        fd = self._eventfds[vector]
        if fd < 0:
            return False
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def forget(self) -> None:
        """Nothing is owed any more."""
        for fd in self._eventfds:
            if fd >= 0:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)


class Bell:
    """An ioeventfd in a BAR: the kernel takes the guest's write and wakes a listener (``Doorbell``)."""

    def __init__(self, vm: Vm, loop: EventLoop, bar: int, offset: int, size: int, value: int | None) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.bar = bar
        self._vm, self._loop = vm, loop
        self._offset, self._size, self._value = offset, size, value
        self._at: int | None = None

    def listen(self, on_ring: Callable[[], None]) -> None:
        """Call back on the device thread after one or more rings."""

        def ring() -> None:
            with suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            on_ring()

        self._loop.add_reader(self.fd, ring)

    def deaf(self) -> None:
        """Nobody listens on the device thread any more: somebody else has the descriptor."""
        self._loop.remove_reader(self.fd)

    def move(self, start: int | None) -> None:
        """The BAR is decoded at ``start`` now; None: nowhere."""
        if self._at is not None:
            self._vm.ioeventfd(self.fd, self._at, self._size, value=self._value, remove=True)
            self._at = None
        if start is not None:
            at = start + self._offset
            self._vm.ioeventfd(self.fd, at, self._size, value=self._value)
            self._at = at
