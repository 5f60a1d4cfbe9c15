"""A running QEMU, seen from the supervisor: what it tells becomes events, what is asked becomes QMP."""

from __future__ import annotations

import os
import select
from socket import socket
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime_ns, monotonic, time

from runner.definition.model import Json
from runner.engine.protocol import WANTED_BACK, Event
from runner.engine.qemu.passed import lost
from runner.engine.qemu.qmp import Answered, Qmp, Told, command
from runner.engine.qemu.registers import cpu_states
from runner.errors import HostError
from runner.light import signal, suppress
from runner.typed import Mapping, NamedTuple

CHUNK = 65536
PIPE_READS = 4
FIRMWARE_SECONDS, FIRMWARE_RESETS = 1.0, 5
"""SeaBIOS, started again in a machine that has run, resets it a few more times within moments."""
LAST_LINES = 8

REASONS = {
    "guest-shutdown": ("power-off", ""),
    "guest-panic": ("panic", "the guest reported a panic (pvpanic)"),
    "guest-reset": ("reset", ""),
    "host-error": ("host-io", "QEMU reported a host error"),
}
"""QEMU's cause of a SHUTDOWN event (qapi/run-state.json) as one of runner.verdict.reasons."""

QUIET = ("has no peer",)
"""Ends of QEMU's warnings of what the definition says itself: a network card without a cable."""

REGISTERS = {"command-line": "info registers -a"}

ASKED = {
    "power-button": (command("system_powerdown"),),
    "pause": (command("stop"),),
    "resume": (command("cont"),),
    "quit": (command("quit"),),
    "reset": (  # ends the run unless it is us who ask for it
        command("set-action", {"reboot": "reset"}),
        command("system_reset"),
        command("set-action", {"reboot": "shutdown"}),
    ),
    "snapshot-state": (command("human-monitor-command", REGISTERS, tag="registers"),),
}


class Channels(NamedTuple):
    """Our ends of what QEMU speaks through: QMP, the exit port, the log of CPU resets, its stderr."""

    control: socket
    exit_port: socket
    reset_log: int
    errors: int


class QemuProcess:
    """:class:`runner.engine.protocol.GuestProcess` over QMP, the exit port and two pipes.

    ``affinity`` has, per vCPU, the host CPUs it may run on; the guest's first instruction
    waits until the threads are placed.
    """

    def __init__(
        self, pid: int, channels: Channels, affinity: tuple[tuple[int, ...], ...] = (), memory: int = 0
    ) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._control, self._exit_port, self._reset_log, self._errors = channels
        self._affinity, self._memory = affinity, memory
        self._qmp = Qmp()
        self._queue: list[Event] = []
        self._ended = self._closed = self._started = self._quitting = False
        self._triple_fault = False
        self._reset_at, self._resets_left = 0.0, 0
        self._log_tail = b""
        self._error_text = bytearray()
        self._error_line = b""
        self._epoll = select.epoll()
        for fd in (*self._fds(), self.pidfd):
            os.set_blocking(fd, False)
            self._epoll.register(fd, select.EPOLLIN)
        self._send(command("qmp_capabilities"))
        self._send(command("query-cpus-fast") if affinity else command("cont"))

    def _fds(self) -> tuple[int, int, int, int]:
        return self._control.fileno(), self._exit_port.fileno(), self._reset_log, self._errors

    @property
    def events_fd(self) -> int:
        """An epoll descriptor over all that QEMU can tell through."""
        return self._epoll.fileno()

    def events(self) -> list[Event]:
        """What has been told since the last call; never blocks."""
        if not self._closed:
            for fd, _ in self._epoll.poll(0):
                self._read(fd)
        told, self._queue = self._queue, []
        return told

    def await_start(self, seconds: float) -> str | None:
        """None at the guest's first instruction; else what QEMU said when it gave up before it."""
        poll = select.poll()
        poll.register(self._epoll.fileno(), select.POLLIN)
        until = monotonic() + seconds
        while not self._started and not self._ended:
            if not poll.poll(max(0.0, until - monotonic()) * 1000):
                raise HostError(f"QEMU has not started the guest within {seconds:.0f} s")
            for fd, _ in self._epoll.poll(0):
                self._read(fd)
        if self._started:
            return None
        return next(str(event.data["detail"]) for event in self._queue if event.kind == "end")

    def complaints(self) -> str:
        """What QEMU has said on standard error so far, of much the end."""
        return self._error_text.decode(errors="replace")

    def ask(self, action: str) -> None:
        """One of :data:`ASKED`; without effect when QEMU is gone."""
        if action == "quit":
            self._quitting = True
        if action == "reset":
            self._reset_at, self._resets_left = time(), FIRMWARE_RESETS
        name, _, size = action.partition(" ")
        if name == "balloon":  # QEMU counts what is left to the guest
            self._send(command("balloon", {"value": self._memory - int(size)}))
        else:
            for words in ASKED[action]:
                self._send(words)

    def close(self) -> None:
        """Kill and reap QEMU if it lives; idempotent."""
        if self._closed:
            return
        self._closed = True
        with suppress(ProcessLookupError):  # it may have ended by itself and wait to be reaped
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._epoll.close()
        self._control.close()
        self._exit_port.close()
        for fd in (self._reset_log, self._errors, self.pidfd):
            os.close(fd)

    def _send(self, words: bytes) -> None:
        with suppress(OSError):  # QEMU is gone, which the pidfd tells
            self._control.send(words)

    def _read(self, fd: int) -> None:
        if fd == self._control.fileno():
            self._read_control()
        elif fd == self._exit_port.fileno():
            self._read_exit_port()
        elif fd == self._reset_log:
            self._read_reset_log()
        elif fd == self._errors:
            self._read_errors()
        else:
            self._process_ended()

    def _take(self, fd: int) -> bytes:
        """What can be read now; a descriptor at its end is watched no more."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            data = b""
        if not data:
            with suppress(FileNotFoundError):  # read to its end before
                self._epoll.unregister(fd)
        return data

    def _read_control(self) -> None:
        """A guest may have taken QEMU over: whatever it says there, the supervisor goes on."""
        try:
            for message in self._qmp.feed(self._take(self._control.fileno())):
                if isinstance(message, Told):
                    self._told(message)
                else:
                    self._answered(message)
        except Exception as error:
            with suppress(FileNotFoundError):  # read to its end just now
                self._epoll.unregister(self._control.fileno())
            self._end("engine-died", None, f"QEMU does not speak QMP any more: {error}")

    def _told(self, event: Told) -> None:
        match event.name:
            case "RESUME":
                self._resumed(event.at)
            case "STOP":
                self._send(command("query-status"))
            case "SHUTDOWN":
                self._shut_down(str(event.data.get("reason", "")), event.at)
            case "RESET":
                self._send(command("cont"))  # it was stopped if the firmware had asked
            case "GUEST_PANICKED":
                self._end("panic", None, "the guest reported a panic (pvpanic)")
            case "GUEST_CRASHLOADED":
                self._log("warning", "the guest has crashed and loads its crash kernel")
            case "BALLOON_CHANGE":
                self._tell("balloon", {"bytes": self._memory - int(event.data.get("actual", self._memory))})
            case "WATCHDOG":
                self._watchdog(str(event.data.get("action", "")))
            case "DEVICE_DELETED":  # below a root port it is the guest that lets it go
                device = str(event.data.get("device", "a device"))
                self._end("device-lost", None, WANTED_BACK.format(address=f"`{device}`"))
            case "BLOCK_IO_ERROR":
                device, reason = event.data.get("device", "?"), event.data.get("reason", "no reason given")
                request = event.data.get("operation", "request")
                self._log("warning", f"disk `{device}`: {request} failed: {reason}")

    def _watchdog(self, action: str) -> None:
        if action == "none":
            self._log("warning", "the watchdog bit, and its action is none")
        else:
            self._end("watchdog", None, "")

    def _resumed(self, at: float) -> None:
        if not self._started:
            self._started = True
            offset = clock_gettime_ns(CLOCK_MONOTONIC) - clock_gettime_ns(CLOCK_REALTIME)
            self._tell("phase", {"name": "first-instruction", "at_ns": int(at * 1e9) + offset})
        self._tell("state", {"state": "running"})

    def _shut_down(self, cause: str, at: float) -> None:
        self._read_exit_port()  # a status that came just before is the better reason
        if cause == "guest-reset":
            self._read_reset_log()
            if self._resets_left and at < self._reset_at + FIRMWARE_SECONDS:
                self._resets_left -= 1
                self._triple_fault = False
                for words in ASKED["reset"]:
                    self._send(words)
                return
            if self._triple_fault:
                self._end("triple-fault", None, "")
                return
        if cause in REASONS:
            reason, detail = REASONS[cause]
            self._end(reason, None, detail)

    def _answered(self, answer: Answered) -> None:
        if answer.error and answer.tag == "cont" and not self._started:
            self._end("engine-died", None, answer.error)
        elif answer.error:
            self._log("warning", f"QEMU refused `{answer.tag}`: {answer.error}")
        elif answer.tag == "query-cpus-fast":
            self._place(answer.value)
            self._send(command("cont"))
        elif answer.tag == "query-status":
            self._stopped(str(answer.value.get("status", "")))
        elif answer.tag == "registers":
            self._tell("log", {"level": "info", "event": "cpus", "cpus": list(cpu_states(str(answer.value)))})

    def _place(self, cpus: list[Mapping[str, int]]) -> None:
        for cpu in cpus:
            number = cpu["cpu-index"]
            if number < len(self._affinity):
                try:
                    os.sched_setaffinity(cpu["thread-id"], self._affinity[number])
                except OSError as error:
                    place = ", ".join(map(str, self._affinity[number]))
                    self._log("warning", f"vCPU {number} cannot run on host CPU {place}: {error.strerror}")

    def _stopped(self, status: str) -> None:
        match status:
            case "paused":
                self._tell("state", {"state": "paused"})
            case "internal-error":
                self._read_errors()
                text = self._error_text.decode(errors="replace")
                failed = "emulation failure" in text
                self._end("emulation-failure" if failed else "internal-error", None, self._last_lines())
            case "io-error":
                self._end("host-io", None, "a disk failed")

    def _read_exit_port(self) -> None:
        data = self._take(self._exit_port.fileno())
        if data:
            self._end("exit", data[0], "")

    def _read_reset_log(self) -> None:
        """Watch for the one line that matters, which may be cut by a read, and keep nothing.

        A guest can make QEMU write without end; a pipe's fill is read at a time, no more.
        """
        for _ in range(PIPE_READS):
            data = self._take(self._reset_log)
            if not data:
                break
            seen = self._log_tail + data
            self._triple_fault |= b"Triple fault" in seen
            self._log_tail = seen[-16:]

    def _read_errors(self) -> None:
        """Whole lines are told as they come: QEMU writes one in several pieces."""
        data = self._take(self._errors)
        self._error_text += data
        del self._error_text[:-CHUNK]
        *lines, self._error_line = (self._error_line + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if detail := lost(text):
                self._end("device-lost", None, detail)
            elif text and not text.endswith(QUIET):
                self._log("warning", text)

    def _process_ended(self) -> None:
        self._epoll.unregister(self.pidfd)
        self._read_exit_port()
        self._read_control()
        self._read_errors()
        if self._quitting:
            self._end("stopped", None, "")
        else:
            self._end("engine-died", None, self._last_lines())

    def _last_lines(self) -> str:
        lines = self._error_text.decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-LAST_LINES:]) or "QEMU said nothing"

    def _end(self, reason: str, status: int | None, detail: str) -> None:
        """The first reason is the reason; QEMU is sent home, its disks flushed."""
        if self._ended:
            return
        self._ended = True
        self._tell("end", {"reason": reason, "status": status, "detail": detail})
        self._send(command("quit"))

    def _log(self, level: str, event: str) -> None:
        self._tell("log", {"level": level, "event": event, "from": "qemu"})

    def _tell(self, kind: str, data: Mapping[str, Json]) -> None:
        self._queue.append(Event(kind, data))
