"""CPUs as QEMU gives them."""

from __future__ import annotations

import pytest

from runner.definition.model import Cpus
from runner.engine.qemu.start_fault import refuse_lesser_cpus
from runner.errors import DefinitionError
from runner.graph.x86 import CPU_FEATURES
from tests.kvm import tiny


def test_qemu_knows_every_feature_by_the_name_that_our_own_engine_has_for_it(boot):
    """What a definition asks of one engine it may ask of the other; QEMU ends for a word it has not."""
    run = boot(tiny.exit_with(1), cpus=Cpus(features=tuple(f"-{name}" for name in CPU_FEATURES)))
    assert run.end()["reason"] == "exit", run.events


@pytest.mark.parametrize(
    ("said", "word", "words"),
    [
        ("host doesn't support requested feature: CPUID.01H:ECX.sse4.1 [bit 19]", "+sse4_1", "host's KVM"),
        (
            "host doesn't support requested feature: CPUID.01H:ECX.tsc-deadline [bit 24]",
            "+tsc_deadline_timer",
            "host's",
        ),
        (
            "TCG doesn't support requested feature: CPUID.0DH:EAX.xsavec [bit 1]",
            "+xsavec",
            "QEMU's emulation",
        ),
        ("TCG doesn't support requested feature: MSR(10AH).taa-no [bit 8]", "+taa-no", "QEMU's emulation"),
    ],
)
def test_what_qemu_says_of_a_feature_is_understood_by_the_name_that_was_given(said, word, words):
    with pytest.raises(DefinitionError, match=f"{words}.* `{word[1:]}`"):
        refuse_lesser_cpus(f"qemu-system-x86_64: warning: {said}\n", Cpus(features=(word,)))


@pytest.mark.parametrize("word", ["-sse4_1", "+avx"])
def test_what_was_not_asked_for_may_be_absent(word):
    said = (
        "qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.sse4.1 [bit 19]\n"
    )
    refuse_lesser_cpus(said, Cpus(features=(word,)))
