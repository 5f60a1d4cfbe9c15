"""One thread for each vCPU: C runs the guest, this decides what C brings back."""

from __future__ import annotations

import os

from runner.bus.dispatch import Dispatch
from runner.definition.model import Json
from runner.devices.ports import Effect
from runner.errors import way_of
from runner.host.kvm import (
    EMULATION,
    ERRNO,
    FAIL_ENTRY,
    HLT,
    INTERNAL_ERROR,
    KICKED,
    MMIO,
    PIO,
    SHUTDOWN,
    SYSTEM_EVENT,
    SYSTEM_RESET,
    SYSTEM_SHUTDOWN,
    Vcpu,
)
from runner.light import Event, RLock
from runner.typed import Any, Callable, Mapping, NamedTuple


class Ended(NamedTuple):
    """Why the guest ended: ``reason`` is one of :mod:`runner.verdict.reasons`."""

    reason: str
    status: int | None = None
    detail: str = ""
    facts: Mapping[str, Json] = {}  # noqa: RUF012


class VcpuRunner:
    """Runs one vCPU until the machine ends."""

    def __init__(
        self,
        vcpu: Vcpu,
        number: int,
        ports: Dispatch,
        mmio: Dispatch,
        lock: RLock,
        on_effect: Callable[[Effect], None],
        on_end: Callable[[Ended, int], None],
        affinity: tuple[int, ...] = (),
    ) -> None:
        self.vcpu, self.number = vcpu, number
        self._ports, self._mmio, self._lock = ports, mmio, lock
        self._on_effect, self._on_end = on_effect, on_end
        self._affinity = affinity
        self.ending = False
        self.may_run = Event()
        self.may_run.set()
        self.stopped = Event()

    def run(self) -> None:
        """The thread's body."""
        try:
            if self._affinity:
                os.sched_setaffinity(0, self._affinity)  # 0: this thread, not the process
            self._loop()
        except Exception as error:
            detail = f"vCPU {self.number}: {type(error).__name__}: {error}"
            self._on_end(Ended("internal-error", None, detail, {"traceback": way_of(error)}), self.number)
        finally:
            self.stopped.set()

    def _loop(self) -> None:
        run, state = self.vcpu.run, self.vcpu.state
        while not self.ending:
            stop = run()
            if stop == PIO:
                self._access(self._ports, state)
            elif stop == MMIO:
                self._access(self._mmio, state)
            elif stop == KICKED:
                self._rest()
            else:
                self._on_end(self._verdict(stop, state), self.number)
                return

    def _access(self, space: Dispatch, state: Any) -> None:
        with self._lock:
            if not state.write:
                state.value = space.read(state.address, state.size)
                return
            effect = space.write(state.address, state.size, state.value)
        if effect is not None:
            self._on_effect(effect)

    def _rest(self) -> None:
        """Kicked: to end, or to stand still while the machine is paused."""
        if not self.may_run.is_set() and not self.ending:
            self.stopped.set()
            self.may_run.wait()
            self.stopped.clear()

    def _verdict(self, stop: int, state: Any) -> Ended:
        where = f"vCPU {self.number}"
        detail = tuple(state.detail)
        if stop == SHUTDOWN:
            return Ended(
                "triple-fault", None, f"{where} shut down after a fault in the fault handlers (triple fault)"
            )
        if stop == HLT:
            return Ended("power-off", None, f"{where} halted with nobody to wake it")
        if stop == FAIL_ENTRY:
            return Ended("entry-failed", None, f"{where}: hardware entry failure reason {detail[0]:#x}")
        if stop == SYSTEM_EVENT:
            reason = {SYSTEM_SHUTDOWN: "power-off", SYSTEM_RESET: "reset"}.get(detail[0], "panic")
            return Ended(reason, None, f"{where}: KVM system event {detail[0]}")
        if stop == INTERNAL_ERROR and detail[0] == EMULATION:
            return Ended("emulation-failure", None, f"{where}: KVM could not emulate an instruction")
        if stop == INTERNAL_ERROR:
            return Ended("internal-error", None, f"{where}: KVM internal error, suberror {detail[0]}")
        if stop == ERRNO:
            return Ended("internal-error", None, f"{where}: KVM_RUN failed: {os.strerror(detail[0])}")
        return Ended("internal-error", None, f"{where}: unknown exit reason {state.reason}")

    def stop(self) -> None:
        """Make the thread end; from any thread."""
        self.ending = True
        self.may_run.set()
        self.vcpu.kick()

    def pause(self) -> None:
        """Leave the guest and wait."""
        self.may_run.clear()
        self.vcpu.kick()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self.vcpu.kvmclock_pause()
        self.may_run.set()
