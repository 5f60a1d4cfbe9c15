"""Interrupts of a passed-through function: INTx, MSI and MSI-X, of which one is on at a time.

The capabilities are ours: the host's own MSI and MSI-X are set up by VFIO, and the guest only says
which of its vectors are to reach it and by what message (reference/vfio.md, engine 7 and 8).
PCI 3.0 §6.8.1 (MSI), §6.8.2 (MSI-X).
"""

from __future__ import annotations

from runner.bus.msix import Msix
from runner.bus.passed_config import PassedConfig
from runner.bus.passed_ports import HostFunction, OwedMessages
from runner.devices.ports import IrqLine
from runner.errors import HostError
from runner.typed import Callable, Final, NamedTuple
from runner.wire import pci

MSI_ENABLE: Final = 1
MSI_MULTIPLE: Final = 0x70  # how many of the vectors the guest allows
MSI_64, MSI_MASKS, MSI_EXTENDED_DATA = 1 << 7, 1 << 8, 3 << 9
MSIX_SIZE: Final = 12


class Ways:
    """INTx is on while neither kind of message is (PCI 3.0 §6.8.3.3).

    ``report`` gets what the host could not do: then the function has no interrupts, and the guest
    goes on.
    """

    def __init__(
        self,
        host: HostFunction,
        line: IrqLine | None,
        sink: OwedMessages | None,
        report: Callable[[str], None],
    ) -> None:
        self._host, self._line, self._sink, self._report = host, line, sink, report
        self._wired = False
        self._on: dict[str, int] = {}  # kind: vectors

    def settle(self) -> None:
        """Wire on or off, as the messages say.  Raises HostError."""
        wanted = self._line is not None and not self._on
        if wanted != self._wired:
            self._wired = wanted
            self._host.use_wire(self._line if wanted else None)

    def messages(self, kind: str, count: int) -> None:
        """``count`` vectors of "msi" or "msix" from now on: the wire goes before they come, and
        comes back after they have gone.
        """
        if count:
            self._on[kind] = count
        elif self._on.pop(kind, 0) == 0:
            return
        try:
            if count:
                self.settle()
            if self._sink is not None:
                self._host.use_messages(kind, self._sink, count)
            if not count:
                self._forget()
                self.settle()
        except HostError as error:
            self._report(str(error))

    def _forget(self) -> None:
        """What was owed by vectors that are off is owed no more."""
        if self._sink is not None and not self._on:
            self._sink.forget()

    def off(self) -> None:
        """No interrupt of any kind, until the next :meth:`settle`."""
        for kind in list(self._on):
            del self._on[kind]
            if self._sink is not None:
                self._host.use_messages(kind, self._sink, 0)
        self._forget()
        if self._wired:
            self._wired = False
            self._host.use_wire(None)


class Part(NamedTuple):
    """A stretch of a BAR: the MSI-X table or its pending bits."""

    bar: int
    offset: int
    size: int

    def meets(self, bar: int, offset: int, size: int) -> bool:
        """Whether an access touches it."""
        return bar == self.bar and offset < self.offset + self.size and self.offset < offset + size


def msix_parts(config: bytes, at: int) -> tuple[Part, Part, int]:
    """Table, pending bits and vectors of the MSI-X capability at ``at`` of a configuration space."""
    control, table, pba = (
        int.from_bytes(config[at + first : at + first + size], "little")
        for first, size in ((pci.MSIX_CONTROL, 2), (4, 4), (8, 4))
    )
    count = (control & 0x7FF) + 1
    return (
        Part(table & 7, table & ~7, count * pci.MSIX_ENTRY_SIZE),
        Part(pba & 7, pba & ~7, (count + 63) // 64 * 8),
        count,
    )


class PassedMsix:
    """The MSI-X capability at ``at`` and the trapped table; ``most``: vectors that the sink has."""

    def __init__(self, config: PassedConfig, at: int, ways: Ways, sink: OwedMessages, most: int) -> None:
        self._config, self._at, self._ways, self._sink = config, at, ways, sink
        snapshot = config.host.config()
        self.table, self.pba, count = msix_parts(snapshot, at)
        self.msix = Msix(min(count, most), sink)
        config.own(at, MSIX_SIZE)
        flags = pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK
        config.put(at + pci.MSIX_CONTROL, 2, self.msix.vectors - 1, writable=flags)
        config.put(at + 4, 8, int.from_bytes(snapshot[at + 4 : at + MSIX_SIZE], "little"))
        config.watch(at + pci.MSIX_CONTROL, 2, lambda _offset, _old: self._control())

    def _control(self) -> None:
        """Vectors are in place at VFIO before the table is told that they may fire (vfio.md, engine 7)."""
        value = self._config.get(self._at + pci.MSIX_CONTROL, 2)
        was, enable = self.msix.enabled, bool(value & pci.MSIX_ENABLE)
        if enable and not was:
            self._ways.messages("msix", self.msix.vectors)
        self.msix.control(value)
        if was and not enable:
            self._ways.messages("msix", 0)

    def reset(self) -> None:
        """All masked; the capability's registers are the configuration space's to reset."""
        self.msix.reset()

    def read(self, bar: int, offset: int, size: int) -> int | None:
        """An access to the table or the pending bits; None when it is neither.

        One that only touches them from outside reads as zero and writes nothing (device-bugs 10).
        """
        if self.table.meets(bar, offset, size):
            return self.msix.read_table(offset - self.table.offset, size)
        if self.pba.meets(bar, offset, size):
            return self._read_pba(offset - self.pba.offset, size)
        return None

    def write(self, bar: int, offset: int, size: int, value: int) -> bool:
        """Whether it was ours: the function's real table is never written by a guest."""
        if self.table.meets(bar, offset, size):
            self.msix.write_table(offset - self.table.offset, size, value)
            return True
        return self.pba.meets(bar, offset, size)

    def _read_pba(self, offset: int, size: int) -> int:
        """Masked vectors that the function has signalled (§6.8.2.10)."""
        if size not in (4, 8) or offset % size or offset < 0 or offset + size > self.pba.size:
            return 0
        vectors = range(8 * offset, min(8 * (offset + size), self.msix.vectors))
        owed = (v for v in vectors if self.msix.masked(v) and self._sink.pending(v))
        return sum(1 << v - 8 * offset for v in owed)


class PassedMsi:
    """The MSI capability at ``at``; ``most``: vectors that the sink has."""

    def __init__(self, config: PassedConfig, at: int, ways: Ways, sink: OwedMessages, most: int) -> None:
        self._config, self._at, self._ways, self._sink, self._most = config, at, ways, sink, most
        control = config.host.read_config(at + 2, 2)
        self._wide, self._masks = bool(control & MSI_64), bool(control & MSI_MASKS)
        self._live = 0  # vectors in use
        end = at + msi_size(control)
        config.own(at, end - at)
        known = control & ~(MSI_ENABLE | MSI_MULTIPLE | MSI_EXTENDED_DATA)
        config.put(at + 2, 2, known, writable=MSI_ENABLE | MSI_MULTIPLE)
        config.put(at + 4, 4, 0, writable=0xFFFFFFFC)
        self._data = at + 8
        if self._wide:
            config.put(at + 8, 4, 0, writable=0xFFFFFFFF)
            self._data = at + 12
        config.put(self._data, 2, 0, writable=0xFFFF)
        if self._masks:
            config.put(self._data + 4, 4, 0, writable=0xFFFFFFFF)
            config.put(self._data + 8, 4, 0)
            config.refresh(self._data + 8, 4, self._read_pending)
        last = self._data + (8 if self._masks else 2)
        config.watch(at + 2, last - at - 2, lambda _offset, _old: self._written())

    def reset(self) -> None:
        """No vector reaches anybody."""
        self._mask(range(self._live))
        self._live = 0

    def _written(self) -> None:
        """Messages are announced before the function can send them, and masked after it has stopped."""
        control = self._config.get(self._at + 2, 2)
        allowed = 1 << (control >> 4 & 7)
        offered = 1 << (control >> 1 & 7)
        count = min(allowed, offered, self._most) if control & MSI_ENABLE else 0
        was, self._live = self._live, count
        if count:
            self._announce(count)
        if count != was:
            self._ways.messages("msi", count)
            self._mask(range(count, was))

    def _announce(self, count: int) -> None:
        """Vector n's data is the base with its low bits replaced by n (§6.8.1.6)."""
        address = self._config.get(self._at + 4, 4)
        if self._wide:
            address |= self._config.get(self._at + 8, 4) << 32
        base = self._config.get(self._data, 2) & ~(count - 1)
        masks = self._config.get(self._data + 4, 4) if self._masks else 0
        for vector in range(count):
            self._sink.configure(vector, address, base | vector, bool(masks >> vector & 1))

    def _mask(self, vectors: range) -> None:
        for vector in vectors:
            self._sink.configure(vector, 0, 0, True)

    def _read_pending(self) -> None:
        """Masked vectors that the function has signalled (§6.8.1.8)."""
        masks = self._config.get(self._data + 4, 4)
        owed = [v for v in range(self._live) if masks >> v & 1 and self._sink.pending(v)]
        self._config.put(self._data + 8, 4, sum(1 << v for v in owed))


def msi_size(control: int) -> int:
    """Bytes of an MSI capability, from its message control: 10, 14, 20 or 24."""
    return 10 + 4 * bool(control & MSI_64) + 10 * bool(control & MSI_MASKS)
