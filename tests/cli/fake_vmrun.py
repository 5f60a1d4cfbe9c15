"""``vmrun`` with a scripted child process for a guest: the supervisor's test double.

    python -m tests.cli.fake_vmrun SCENARIO [vmrun's arguments]

Everything but the engine, the survey of the host and the fetching of artifacts is the real
thing.  A scenario is a function below: it plays the VM process, with the guest's end of
the serial line and the control socket in its hands.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time

from runner.engine.protocol import Event, Resources
from runner.graph.model import BootFiles, Graph
from runner.hostfacts import HostFacts, KvmFacts, PciFacts
from runner.supervisor import launch

PANIC = (
    b"[    1.0] VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    b"[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    b"[    1.2] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-40-cloud-amd64\r\n"
    b"[    1.3] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n"
)


class Guest:
    """What a scenario holds."""

    def __init__(self, serial: int, control: socket.socket) -> None:
        self.serial = serial
        self.control = control

    def say(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.serial, data) :]

    def tell(self, kind: str, **data: object) -> None:
        self.control.sendall(json.dumps({"kind": kind, "data": data}).encode() + b"\n")

    def asked(self, seconds: float | None = None) -> list[str]:
        if not select.select([self.control], [], [], seconds)[0]:
            return []
        return self.control.recv(4096).decode().split()

    def end(self, reason: str, status: int | None = None, detail: str = "") -> None:
        self.tell("end", reason=reason, status=status, detail=detail)

    def idle_until_quit(self) -> None:
        while "quit" not in self.asked():
            pass


def hello(guest: Guest) -> None:
    """Says hello and hands over status 0."""
    guest.tell("phase", name="first-instruction", at_ns=time.monotonic_ns())
    guest.say(b"hello from the guest\r\n")
    guest.end("exit", 0)


def status7(guest: Guest) -> None:
    guest.end("exit", 7)


def lossy(guest: Guest) -> None:
    """Has lost something of what it said on the way to the supervisor."""
    guest.tell("end", reason="exit", status=0, detail="", dropped=1234)


def idle(guest: Guest) -> None:
    """Boots, waits, and ends when asked to quit."""
    guest.say(b"ready\r\n")
    guest.idle_until_quit()


def stubborn(guest: Guest) -> None:
    """Reacts to nothing."""
    guest.say(b"ready\r\n")
    while True:
        time.sleep(60)


def echo(guest: Guest) -> None:
    """Sends back what is typed, in brackets; `q` powers off."""
    guest.say(b"ready\r\n")
    while True:
        ready = select.select([guest.serial, guest.control], [], [])[0]
        if guest.control in ready and "quit" in guest.asked():
            return
        if guest.serial in ready:
            data = os.read(guest.serial, 4096)
            if not data or b"q" in data:
                guest.say(b"bye\r\n")
                guest.end("power-off")
                return
            guest.say(b"[" + data + b"]")


def count(guest: Guest) -> None:
    """Takes a line slowly, and says how long it was."""
    length = 0
    while True:
        data = os.read(guest.serial, 10_000)
        length += len(data)
        if data.endswith(b"\n"):
            guest.say(b"%d bytes\r\n" % (length - 1))
            guest.end("exit", 0)
            return


def window(guest: Guest) -> None:
    """Shows what it is told of the terminal's size."""
    while True:
        asked = guest.asked()
        if "quit" in asked:
            return
        guest.say(b"<" + " ".join(asked).encode() + b">")


def polite(guest: Guest) -> None:
    """Powers off when its power button is pressed."""
    guest.say(b"ready\r\n")
    while True:
        asked = guest.asked()
        if "power-button" in asked:
            guest.say(b"powering down\r\n")
            guest.end("power-off")
            return
        for state in ("pause", "resume"):
            if state in asked:
                guest.tell("state", state="paused" if state == "pause" else "running")
        if "quit" in asked:
            return


FLOOD_TURN, FLOOD_TURNS = (b"0123456789abcdef" * 4 + b"\r\n") * 64, 2368
LAST_WORDS = b"last words\r\n"
FLOOD = len(FLOOD_TURN) * FLOOD_TURNS + len(LAST_WORDS)


def flood(guest: Guest) -> None:
    """Ten megabytes, and then the last words."""
    for _ in range(FLOOD_TURNS):
        guest.say(FLOOD_TURN)
    guest.say(LAST_WORDS)
    guest.end("exit", 0)


def fountain(guest: Guest) -> None:
    """Never stops writing."""
    while True:
        guest.say(b"y" * 4095 + b"\n")


def panic(guest: Guest) -> None:
    """Panics and spins, as Linux does without panic=."""
    guest.say(PANIC)
    spin(guest)


def old_log(guest: Guest) -> None:
    """Shows an old panic and then sleeps: a living guest."""
    guest.say(PANIC)
    time.sleep(4.2)
    guest.end("exit", 0)


def panic_reset(guest: Guest) -> None:
    """Panics with panic=-1."""
    guest.say(PANIC.replace(b"---[ end Kernel panic", b"Rebooting"))
    guest.end("reset", detail="i8042")


def spin(guest: Guest) -> None:
    """Computes for ever, and says where when asked."""
    while True:
        for _ in range(50_000):
            pass
        asked = guest.asked(0)
        if "snapshot-state" in asked:
            guest.tell("log", level="info", event="cpu-state", cpus=[{"rip": "0xffffffff81000000"}])
        if "quit" in asked:
            return


def working(guest: Guest) -> None:
    """Says something all the time."""
    while "quit" not in guest.asked(0.05):
        guest.say(b"still here\r\n")


def triple(guest: Guest) -> None:
    guest.end("triple-fault")


def unemulated(guest: Guest) -> None:
    guest.end("emulation-failure", detail="vCPU 0: KVM could not emulate an instruction")


def kvm_fails(guest: Guest) -> None:
    guest.end("internal-error", detail="vCPU 0: KVM_RUN failed: Bad address")


def unentered(guest: Guest) -> None:
    guest.end("entry-failed", detail="vCPU 0: hardware entry failure reason 0x80000021")


def dies(guest: Guest) -> None:
    """Ends without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


class FakeProcess:
    """A :class:`runner.engine.protocol.GuestProcess`."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.control = control
        self.partial = b""
        self.closed = False
        control.setblocking(False)

    @property
    def events_fd(self) -> int:
        return self.control.fileno()

    def events(self) -> list[Event]:
        try:
            data = b"" if self.closed else self.control.recv(65536)
        except (BlockingIOError, ConnectionError):
            data = b""
        *lines, self.partial = (self.partial + data).split(b"\n")
        return [Event(**json.loads(line)) for line in lines]

    def ask(self, action: str) -> None:
        self.control.send(action.encode() + b"\n")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            self.control.close()


class FakeEngine:
    """A :class:`runner.engine.protocol.Engine` whose guest is a scenario."""

    name = "kvm"
    scenario = "hello"

    def __init__(self, waiting: object = None) -> None:
        assert waiting is None

    def prepare(self, graph: Graph, files: BootFiles) -> None:
        """Nothing can be done beforehand."""

    def start(self, graph: Graph, files: BootFiles, resources: Resources) -> FakeProcess:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            from runner.host.native import _native

            _native.lib.vmrun_die_with_parent(signal.SIGKILL, parent)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
                signal.signal(number, signal.SIG_DFL)
            null = os.open("/dev/null", os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            serial = resources.fds.get("serial", resources.fds.get("console", null))
            keep = {0, 1, 2, serial, theirs.fileno()}
            for fd in map(int, os.listdir("/proc/self/fd")):
                if fd not in keep:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            try:
                globals()[self.scenario](Guest(serial, theirs))
            finally:
                os._exit(0)
        theirs.close()
        return FakeProcess(pid, ours)


def fake_survey(*, pci: bool = True, **_: object) -> HostFacts:
    """A host without an IOMMU that has one function."""
    return HostFacts(
        cpus=2,
        pci=(PciFacts("0000:01:00.0", "10ec", "525a", driver="rtsx_pci"),) if pci else (),
        memory_total=1 << 34,
        memory_available=1 << 34,
        kvm=KvmFacts(
            present=True, accessible=True, api_version=12, vendor_module="kvm_amd", usable=True, why="fake",
            max_vcpus=8,
        ),
    )  # fmt: skip


def slow_fetch(*_: object, **__: object) -> BootFiles:
    print("fetching", file=sys.stderr, flush=True)
    time.sleep(30)
    raise AssertionError("nobody interrupted it")


def fake_fetch(*_: object, **__: object) -> BootFiles:
    return BootFiles(kernel=__file__, kernel_given=__file__, initramfs=None, notes=("kernel: fake",))


def main() -> int:
    from runner.artifacts import prepare
    from runner.cli import main as vmrun
    from runner.host import survey

    FakeEngine.scenario = sys.argv[1]
    survey.survey = fake_survey  # type: ignore[assignment]
    prepare.fetch = slow_fetch if sys.argv[1] == "slow_fetch" else fake_fetch  # type: ignore[assignment]
    launch._anticipate = lambda run, keep: None
    launch.ENGINES["kvm"] = (__name__, "FakeEngine")
    return vmrun(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
