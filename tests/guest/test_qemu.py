"""Engine ``qemu`` on the same stock kernels, with the KVM that is there."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


def test_qemu_runs_the_same_file_on_kvm_when_it_is_asked_to(run):
    """KVM's own clock tells that it is no emulation."""
    script = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; exit 42"
    outcome = run(script, engine="qemu", options=("--set", "accelerator=kvm"))
    assert outcome.status == 42, outcome.err
    assert "kvm-clock" in outcome.out
    assert "engine qemu (KVM)" in outcome.err
