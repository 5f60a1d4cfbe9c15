"""A passed-through function as the guest has it: configuration space, BARs, interrupts, resets.

The three parts that decide are :mod:`runner.bus.passed_config`, :mod:`runner.bus.passed_interrupts`
and, for where BARs may go, :mod:`runner.bus.pci_bar`; this joins them to one host function.
"""

from __future__ import annotations

from runner.bus.passed_config import (
    ADVANCED_FEATURES_SIZE,
    CAP_ADVANCED_FEATURES,
    CAP_POWER,
    EXPRESS_SIZE,
    POWER_SIZE,
    PassedConfig,
)
from runner.bus.passed_interrupts import MSIX_SIZE, PassedMsi, PassedMsix, Ways, msi_size
from runner.bus.passed_ports import HostFunction, OwedMessages, PassthroughAttachment
from runner.bus.pci import Function
from runner.devices.ports import (
    Effect,
    IrqLine,
    RegisterDevice,
)
from runner.errors import HostError
from runner.graph.model import PciClaim
from runner.typed import Final, Mapping
from runner.wire import pci

POWER_CONTROL, POWER_STATE = 4, 3  # PMCSR's offset in its capability; D0 is 0 (PM 1.2 §3.2.4)
MSI_SMALLEST: Final = 10
DEVICE_FLR: Final = 1 << 28  # Device Capabilities: function level reset (PCI Express 3.0 §7.8.3)
START_FLR: Final = 0x80  # high byte of Device Control: initiate it (§7.8.4)


class PassedFunction:
    """``function`` is what the engine plugs into its bus; ``sizes``: bytes behind each host BAR."""

    ranges: tuple[RegisterDevice, ...] = ()

    def __init__(
        self,
        name: str,
        claim: PciClaim,
        sizes: Mapping[int, int],
        host: HostFunction,
        line: IrqLine | None,
        at: PassthroughAttachment,
    ) -> None:
        self._name, self._host, self._at, self._sizes = name, host, at, sizes
        self._asleep = self._reset_by_guest = False
        self._placed: dict[int, int] = {}
        host.reset()
        if not host.has_wire():
            claim, line = claim._replace(intx_pin=0), None  # the guest is not shown a pin that never signals
        self.config = PassedConfig(host, integrated=not claim.bus)
        self.config.before_passed, self.config.after_passed = self._before_passed, self._after_passed
        vectors = max(claim.msix_vectors, claim.msi_vectors)
        sink = at.msi() if vectors else None
        self.ways = Ways(host, line, sink, lambda what: at.log("error", f"`{name}`: {what}"))
        self.function = Function(
            name,
            claim,
            {bar.bar: PassedBar(self, bar.bar) for bar in claim.bars},
            on_reset=self._on_reset,
            config=self.config,
        )
        self.msix = self._take_msix(claim, sink)
        self.msi = self._take_msi(claim, sink)
        for identifier, taken in ((pci.CAP_MSIX, self.msix), (pci.CAP_MSI, self.msi)):
            if taken is None:
                self.config.hide(identifier)
        self.config.start_over()
        at.follow_bars(self._bar_moved)
        self.ways.settle()

    def _take_msix(self, claim: PciClaim, sink: OwedMessages | None) -> PassedMsix | None:
        at = self.config.find(pci.CAP_MSIX, MSIX_SIZE)
        if at is None or sink is None or not claim.msix_vectors:
            return None
        return PassedMsix(self.config, at, self.ways, sink, claim.msix_vectors)

    def _take_msi(self, claim: PciClaim, sink: OwedMessages | None) -> PassedMsi | None:
        at = self.config.find(pci.CAP_MSI, MSI_SMALLEST)
        if at is None or sink is None or not claim.msi_vectors:
            return None
        if not self.config.fits(at, msi_size(self._host.read_config(at + 2, 2))):
            return None
        return PassedMsi(self.config, at, self.ways, sink, claim.msi_vectors)

    # ---- resets

    def _on_reset(self) -> None:
        """Our registers are as after power-on; the rest follows, and the host's function unless it
        was the guest that reset it.
        """
        for messages in (self.msix, self.msi):
            if messages is not None:
                messages.reset()
        self.ways.off()
        if not self._reset_by_guest:
            self._host.reset()
        self._asleep = False
        self.config.start_over()
        try:
            self.ways.settle()
        except HostError as error:
            self._at.log("error", f"`{self._name}`: {error}")

    def _function_reset(self) -> None:
        """The guest has reset the function (PCI Express 3.0 §6.6.2): our registers go the same way."""
        self._reset_by_guest = True
        try:
            self.function.reset()
        finally:
            self._reset_by_guest = False

    # ---- writes that reach the host: power state and resets

    def _before_passed(self, offset: int, new: bytes) -> None:
        """The memory of a function that sleeps cannot be mapped, so its BARs are trapped before."""
        state = self._power_state(offset, new)
        if state and not self._asleep:
            self._asleep = True
            for bar in self._placed:
                self._host.place_bar(bar, None)

    def _after_passed(self, offset: int, new: bytes) -> None:
        if self._asleep and self._power_state(offset, new) == 0:
            self._asleep = False
            for bar, start in self._placed.items():
                self._map_again(bar, start)
        if self.starts_reset(offset, new):
            self._function_reset()

    def _map_again(self, bar: int, start: int) -> None:
        try:
            self._host.place_bar(bar, start)
        except (OSError, HostError) as error:  # it is slower then, since every access is trapped
            self._at.log("warning", f"`{self._name}`: BAR {bar} is no longer mapped: {error}")

    def _power_state(self, offset: int, new: bytes) -> int | None:
        """What a write puts into PMCSR's power state; None when it does not touch it."""
        at = self.config.find(CAP_POWER, POWER_SIZE)
        if at is None or not offset <= at + POWER_CONTROL < offset + len(new):
            return None
        return new[at + POWER_CONTROL - offset] & POWER_STATE

    def starts_reset(self, offset: int, new: bytes) -> bool:
        """Whether a write starts a function level reset, by either of its two registers."""
        express = self.config.find(pci.CAP_EXPRESS, EXPRESS_SIZE)
        if express is not None and offset <= express + 9 < offset + len(new):
            wanted = new[express + 9 - offset] & START_FLR
            return bool(wanted and self._host.read_config(express + 4, 4) & DEVICE_FLR)
        advanced = self.config.find(CAP_ADVANCED_FEATURES, ADVANCED_FEATURES_SIZE)
        if advanced is not None and offset <= advanced + 4 < offset + len(new):
            return bool(new[advanced + 4 - offset] & 1 and self._host.read_config(advanced + 3, 1) & 2)
        return False

    # ---- BARs: what is not mapped comes here

    def _bar_moved(self, bar: int, start: int | None) -> None:
        """The engine has moved a BAR.  Raises OSError or HostError, and then nothing has changed."""
        if not self._asleep:
            self._host.place_bar(bar, start)
        if start is None:
            self._placed.pop(bar, None)
        else:
            self._placed[bar] = start

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """The MSI-X parts are ours; everything else is the host's."""
        if self.msix is not None:
            value = self.msix.read(bar, offset, size)
            if value is not None:
                return value
        if offset + size > self._sizes[bar]:
            return (1 << 8 * size) - 1  # the page that a small BAR was rounded up to
        return self._host.read_bar(bar, offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """As :meth:`read_bar`."""
        if self.msix is not None and self.msix.write(bar, offset, size, value):
            return
        if offset + size <= self._sizes[bar]:
            self._host.write_bar(bar, offset, size, value)


class PassedBar:
    """Accesses to one BAR that the host's memory does not answer itself (``RegisterDevice``)."""

    def __init__(self, function: PassedFunction, bar: int) -> None:
        self._function, self._bar = function, bar

    def read(self, offset: int, size: int) -> int:
        """Offset in the BAR."""
        return self._function.read_bar(self._bar, offset, size)

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Offset in the BAR."""
        self._function.write_bar(self._bar, offset, size, value)
        return None
