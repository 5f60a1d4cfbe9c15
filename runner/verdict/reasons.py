"""Why a run ended: the table from reason to exit status (docs/reference/exit-status.md)."""

from __future__ import annotations

from runner.typed import NamedTuple


class Reason(NamedTuple):
    """``status`` None: the guest's own status, or 0 when it gave none."""

    name: str
    status: int | None
    words: str


REASONS: tuple[Reason, ...] = (
    Reason("exit", None, "the guest handed over its exit status"),
    Reason("power-off", None, "the guest switched itself off"),
    Reason("reset", None, "the guest asked for a reset"),
    Reason("stopped", 0, "stopped as asked (vmrun stop, or Ctrl-A x)"),
    Reason("panic", 134, "the guest kernel panicked"),
    Reason("triple-fault", 139, "the guest triple-faulted"),
    Reason("watchdog", 124, "the guest stopped feeding its watchdog, which bit"),
    Reason("deadline", 124, "the deadline passed while the guest was still working"),
    Reason("hang", 124, "the deadline passed and the guest had been silent"),
    Reason("expectation", 125, "an expectation of the definition was not met"),
    Reason("emulation-failure", 70, "KVM could not emulate an instruction of the guest"),
    Reason("internal-error", 70, "KVM reported an internal error"),
    Reason("engine-died", 70, "the VM process ended without a word"),
    Reason("entry-failed", 70, "the CPU refused to enter the guest"),
    Reason("host-io", 74, "reading or writing something of the host failed"),
    Reason("device-lost", 74, "a device that was lent to the guest has failed, or the host wants it back"),
    Reason("output-closed", 141, "nobody reads standard output any more"),  # 128 + SIGPIPE
    Reason("signal", 128, "ended by signal n: status 128 + n"),
    Reason("not-started", 70, "the run failed before the guest was started: the error's own status"),
)


def exit_status(reason: str, guest_status: int | None) -> int:
    """The status of ``vmrun`` for a reason; signals (128+n) are the caller's."""
    for row in REASONS:
        if row.name == reason:
            if row.status is not None:
                return row.status
            return guest_status or 0
    return 70
