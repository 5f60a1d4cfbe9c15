"""What makes a vCPU stop, as C tells it, becomes the reason of the end and words for it."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from runner.bus.dispatch import Dispatch
from runner.engine.kvm.vcpu import Ended, VcpuRunner
from runner.host.native._native import lib
from runner.light import RLock

DELIVERY = 3
"""KVM_INTERNAL_ERROR_DELIVERY_EV of linux/kvm.h: no event could be delivered."""


class Vcpu:
    """One that stops as it is told."""

    def __init__(self, stop: int, *detail: int) -> None:
        self._stop = stop
        self.state = SimpleNamespace(
            detail=[*detail, *[0] * (4 - len(detail))], reason=99, address=0x10, size=1, write=0, value=0
        )

    def run(self) -> int:
        return self._stop


def ended(stop: int, *detail: int, ports: Dispatch | None = None) -> Ended:
    """How a machine ends whose second vCPU stops so."""
    ends: list[tuple[Ended, int]] = []
    space = ports or Dispatch("ports")
    told = lambda *end: ends.append(end)  # noqa: E731
    runner = VcpuRunner(Vcpu(stop, *detail), 1, space, space, RLock(), lambda _: None, told)  # type: ignore[arg-type]
    runner.run()
    assert runner.stopped.is_set()
    ((end, vcpu),) = ends
    assert vcpu == 1
    return end


@pytest.mark.parametrize(
    ("stop", "detail", "reason", "words"),
    [
        (lib.VMRUN_HLT, (), "power-off", "halted with nobody to wake it"),
        (lib.VMRUN_SHUTDOWN, (), "triple-fault", "a fault in the fault handlers"),
        (lib.VMRUN_FAIL_ENTRY, (0x80000021,), "entry-failed", "failure reason 0x80000021"),
        (lib.VMRUN_SYSTEM_EVENT, (lib.KVM_SYSTEM_EVENT_SHUTDOWN,), "power-off", "system event 1"),
        (lib.VMRUN_SYSTEM_EVENT, (lib.KVM_SYSTEM_EVENT_RESET,), "reset", "system event 2"),
        (lib.VMRUN_SYSTEM_EVENT, (3,), "panic", "system event 3"),
        (
            lib.VMRUN_INTERNAL_ERROR, (lib.KVM_INTERNAL_ERROR_EMULATION,), "emulation-failure",
            "could not emulate an instruction",
        ),
        (lib.VMRUN_INTERNAL_ERROR, (DELIVERY,), "internal-error", "KVM internal error, suberror 3"),
        (lib.VMRUN_ERRNO, (errno.EFAULT,), "internal-error", "KVM_RUN failed: Bad address"),
        (lib.VMRUN_OTHER, (), "internal-error", "unknown exit reason 99"),
    ],
)  # fmt: skip
def test_each_stop_has_its_reason_and_names_the_vcpu(stop, detail, reason, words):
    end = ended(stop, *detail)
    assert (end.reason, end.status) == (reason, None)
    assert end.detail.startswith("vCPU 1")
    assert words in end.detail


def test_a_device_that_fails_ends_the_machine_with_the_way_to_the_fault():
    """Our bug, not the guest's: the report has where it happened."""

    class Broken:
        def read(self, offset: int, size: int) -> int:
            raise ZeroDivisionError("a device of ours")

    ports = Dispatch("ports")
    ports.add(0x10, 1, Broken(), "broken")  # type: ignore[arg-type]
    end = ended(lib.VMRUN_PIO, ports=ports)
    assert (end.reason, end.detail) == ("internal-error", "vCPU 1: ZeroDivisionError: a device of ours")
    assert "read" in str(end.facts["traceback"])
