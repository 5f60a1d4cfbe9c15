"""The guest's own memory as a backend: what the balloon gives back to the host."""

from __future__ import annotations

from time import monotonic_ns

from runner.devices.ports import GuestAddress
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim
    from runner.host.memory import Ram

PAGE = 4096
TELL_NS = 50_000_000  # a driver says its size after each megabyte, and may say it without end


class GivenBack:
    """madvise(2) on whole pages (``MemoryAdvisor``)."""

    def __init__(self, ram: Ram, machine: Machine) -> None:
        self._ram, self._machine = ram, machine
        self._size, self._telling = 0, False

    def discard(self, address: GuestAddress, length: int) -> None:
        """Let the host have the pages wholly inside the range; a memfd's are punched out of it.

        A kernel that refuses (huge pages of hugetlbfs are only given back whole) keeps them.
        """
        start = -(-address // PAGE) * PAGE
        end = (address + length) // PAGE * PAGE
        of_its_own = self._ram.region_of(address, length).fd >= 0  # persistent memory: the user's file
        if end > start and not of_its_own:
            self._ram.discard(start, end - start)

    def given_back(self, size: int) -> None:
        """The supervisor hears of it, a few times a second."""
        self._size = size
        if not self._telling:
            self._telling = True
            self._machine.loop.call_at(monotonic_ns() + TELL_NS, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self._machine.tell("balloon", {"bytes": self._size})


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> GivenBack:
    """Nothing to open."""
    return GivenBack(machine.ram, machine)
