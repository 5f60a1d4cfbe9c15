"""The guest's own memory as a backend: what the balloon gives back to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.devices.ports import GuestAddress

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim
    from runner.host.memory import Ram

PAGE = 4096


class GivenBack:
    """madvise(2) on whole pages (``MemoryAdvisor``)."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram

    def discard(self, address: GuestAddress, length: int) -> None:
        """Let the host have the pages wholly inside the range; a file's are punched out of it.

        A kernel that refuses (huge pages of hugetlbfs are only given back whole) keeps them.
        """
        from runner.host.native._native import lib

        start = -(-address // PAGE) * PAGE
        end = (address + length) // PAGE * PAGE
        self._ram.region_of(address, length)
        if end > start:
            advice = lib.MADV_REMOVE if self._ram.fd >= 0 else lib.MADV_DONTNEED
            lib.vmrun_advise(self._ram.pointer(start, end - start), end - start, advice)


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> GivenBack:
    """Nothing to open."""
    return GivenBack(machine.ram)
