"""Entropy for the guest: the host kernel's own generator."""

from __future__ import annotations

import os

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim


class KernelEntropy:
    """getrandom(2) (``EntropySource``)."""

    def read(self, count: int) -> bytes:
        """``count`` random bytes; the pool is long initialised when a guest runs."""
        return os.getrandom(count)


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> KernelEntropy:
    """Nothing to open."""
    return KernelEntropy()
