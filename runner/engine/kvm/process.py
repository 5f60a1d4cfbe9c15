"""The VM process: takes its descriptors, confines itself, runs the guest, tells how it ended.

It speaks lines with the supervisor: events out, as JSON, and words of what is asked for in
(decision 0001).
"""

from __future__ import annotations

import gc
import os
import select
import time

from runner.errors import VmrunError, way_of
from runner.light import import_module, signal
from runner.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runner.engine.kvm.chips import Chips
    from runner.engine.kvm.handover import Job
    from runner.engine.kvm.loading import Loading
    from runner.graph.model import Graph
    from runner.host.memory import Ram

ASK_CHUNK = 4096
FIRST = (
    "mmap", "runner.wire.json_text", "runner.engine.kvm.handover", "runner.engine.kvm.loading",
)  # fmt: skip
"""Imported first: with these a kernel can be read into memory."""

WHILE_WAITING = (
    "runner.engine.kvm.machine", "runner.firmware.acpi",
    "runner.host.uart", "runner.devices.uart16550", "runner.devices.acpi_pm", "runner.devices.cmos_rtc",
    "runner.devices.i8042", "runner.devices.exit_port",
)  # fmt: skip
"""Imported while the job has not come, or while its kernel is being read: what every guest needs."""


def wait(control: int, parent: int) -> None:
    """Everything after the fork; never returns."""
    try:
        _isolate(control, parent)
        from runner.engine.kvm import chips

        made = chips.in_advance()
        for module in FIRST:
            import_module(module)
        begun: _Begun | None = None
        for module in WHILE_WAITING:
            if begun is None and _has_come(control):
                begun = _begin(control)
            import_module(module)
        imported = time.monotonic_ns()
        begun = begun or _begin(control)
        if begun is not None:
            _serve(begun, made, control, imported)
    except VmrunError as error:
        _tell(control, "failed", {"message": str(error), "hint": error.hint, "status": error.status})
    except BaseException as error:  # whatever it is, the supervisor must hear of it
        text = f"{type(error).__name__}: {error}"
        _tell(control, "failed", {"message": text, "status": 70, "traceback": way_of(error)})
    finally:
        os._exit(0)


class _Begun(NamedTuple):
    """A job, and its kernel on the way into memory."""

    job: Job
    loading: Loading
    at_ns: int


def _has_come(control: int) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    return bool(poll.poll(0))


def _begin(control: int) -> _Begun | None:
    """Wait for the job; None when there will be none."""
    from runner.engine.kvm.handover import receive_job
    from runner.engine.kvm.loading import Loading

    job = receive_job(control)
    at = time.monotonic_ns()
    return None if job is None else _Begun(job, Loading(job.graph, job.files), at)


def _serve(begun: _Begun, made: Chips | None, control: int, imported: int) -> None:
    """Build the machine around its memory, and run it to its end."""
    from runner.engine.kvm import chips
    from runner.engine.kvm.handover import receive_resources

    job, loading, received = begun
    serving = _Serving(job.graph, loading.ram, made or chips.make(job.kvm_fd), control)
    resources = receive_resources(control)
    if resources is not None:
        serving.machine.plug(resources)
        built = time.monotonic_ns()
        serving.machine.enter(loading.finish())
        serving.serve(
            (
                ("vm-imported", imported),
                ("vm-job-received", received),
                ("vm-kernel-read", loading.read_ns),
                ("vm-devices-built", built),
            )
        )


def _isolate(control: int, parent: int) -> None:
    """A session of its own (the terminal's signals are the supervisor's), and no other descriptor."""
    from runner.host.native._native import lib

    if lib.vmrun_die_with_parent(signal.SIGKILL, parent) < 0:
        os._exit(0)  # the supervisor is gone already
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    keep = sorted({0, 1, 2, control})
    lib.vmrun_close_all_but(keep, len(keep))


def _tell(control: int, kind: str, data: dict[str, Any]) -> None:
    from runner.wire.json_text import encode

    text = encode({"kind": kind, "data": data}).encode() + b"\n"
    while text:
        try:
            text = text[os.write(control, text) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            os._exit(0)  # nobody listens any more


class _Serving:
    """One machine with its control socket."""

    def __init__(self, graph: Graph, ram: Ram, chips: Chips, control: int) -> None:
        from runner.engine.kvm.machine import Machine

        self._control = control
        self._asked = b""
        self._paused = False
        self.machine = Machine(graph, ram, chips)
        self.machine.tell = lambda kind, data: _tell(control, kind, data)

    def serve(self, phases: tuple[tuple[str, int], ...]) -> None:
        """Until the guest has ended.  ``phases``: what has been done by when (CLOCK_MONOTONIC ns)."""
        machine = self.machine
        os.set_blocking(self._control, False)
        machine.loop.add_reader(self._control, self._on_control)
        gc.freeze()  # what there is now stays, and its pages stay shared with the supervisor's
        gc.enable()
        _confine()
        _tell(self._control, "phase", {"name": "first-instruction", "at_ns": time.monotonic_ns()})
        machine.start()
        for name, at in phases:  # the guest does not wait for these
            _tell(self._control, "phase", {"name": name, "at_ns": at})
        machine.loop.run()
        machine.halt()
        ended = machine.ended
        if ended is None:
            return
        counters = [dict(vcpu.counters()._asdict()) for vcpu in machine.vcpus]
        facts = {**ended.facts, "counters": counters}
        told = {"reason": ended.reason, "status": ended.status, "detail": ended.detail, "facts": facts}
        _tell(self._control, "end", {**told, "dropped": machine.lost})

    def _on_control(self) -> None:
        data = os.read(self._control, ASK_CHUNK)
        if not data:
            os._exit(0)
        *lines, self._asked = (self._asked + data).split(b"\n")
        for line in lines:
            self._do(line.decode())

    def _do(self, action: str) -> None:
        machine = self.machine
        match action:
            case "quit":
                machine.loop.stop()
            case "power-button":
                machine.press_power_button()
            case "pause":
                self._unlocked(machine.pause)
                self._paused = True
                _tell(self._control, "state", {"state": "paused"})
            case "resume":
                machine.resume()
                self._paused = False
                _tell(self._control, "state", {"state": "running"})
            case "reset":
                from runner.devices.ports import Reset

                machine.on_effect(Reset("request"))
            case "snapshot-state":
                self._snapshot()
            case window if window.startswith("window "):
                name, columns, rows = window.split()[1:]
                machine.resize(name, int(columns), int(rows))
            case balloon if balloon.startswith("balloon "):
                machine.inflate(int(balloon.split()[1]))

    def _unlocked(self, action: Any) -> None:
        """A vCPU in an exit needs the lock that this callback holds; give it way."""
        self.machine.lock.release()
        try:
            action()
        finally:
            self.machine.lock.acquire()

    def _snapshot(self) -> None:
        """Where every CPU is now: they stop for a moment and go on, unless they were to stand still."""
        from runner.engine.kvm import registers

        if not self._paused:
            self._unlocked(self.machine.pause)
        cpus = [registers.snapshot(vcpu) for vcpu in self.machine.vcpus]
        counters = [vcpu.counters()._asdict() for vcpu in self.machine.vcpus]
        if not self._paused:
            self.machine.resume()
        _tell(
            self._control, "log", {"level": "info", "event": "cpu-state", "cpus": cpus, "counters": counters}
        )


def _confine() -> None:
    """What the guest could reach through a bug of ours: as little as can be (host/native/process.c)."""
    from runner.host.native._native import lib

    for what, result in (("privileges", lib.vmrun_drop_privileges()), ("seccomp", lib.vmrun_seccomp())):
        if result < 0:
            from runner.errors import HostError

            raise HostError(f"the VM process cannot confine itself: {what}: {os.strerror(-result)}")
