"""CPUs as QEMU gives them."""

from __future__ import annotations

from runner.definition.model import Cpus
from runner.graph.x86 import CPU_FEATURES
from tests.kvm import tiny


def test_qemu_knows_every_feature_by_the_name_that_our_own_engine_has_for_it(boot):
    """What a definition asks of one engine it may ask of the other; QEMU ends for a word it has not."""
    run = boot(tiny.exit_with(1), cpus=Cpus(features=tuple(f"-{name}" for name in CPU_FEATURES)))
    assert run.end()["reason"] == "exit", run.events
