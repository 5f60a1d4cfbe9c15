"""The supervisor's side of a QEMU that may say anything: a program that sleeps stands in for it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time

import pytest

from runner.engine.qemu.process import Channels, QemuProcess
from runner.errors import HostError


class FakeQemu:
    """Our ends of what QEMU would hold."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(["sleep", "60"])
        control, self.control = socket.socketpair()
        exit_port, self.exit_port = socket.socketpair()
        log_read, self.log = os.pipe()
        errors_read, self.errors = os.pipe()
        channels = Channels(control, exit_port, log_read, errors_read)
        self.process = QemuProcess(self.child.pid, channels, memory=1 << 20)

    def tell(self, event: str, **data: object) -> None:
        message = {"event": event, "data": data, "timestamp": {"seconds": int(time.time())}}
        self.control.sendall(json.dumps(message).encode() + b"\r\n")

    def asked(self) -> list[str]:
        """Commands that have come."""
        self.control.settimeout(60)
        lines = self.control.recv(65536).splitlines()
        return [json.loads(line)["execute"] for line in lines]

    def ends(self) -> list[dict[str, object]]:
        return [dict(event.data) for event in self.process.events() if event.kind == "end"]


@pytest.fixture
def qemu():
    fake = FakeQemu()
    yield fake
    fake.process.close()
    fake.control.close()
    fake.exit_port.close()
    for fd in (fake.log, fake.errors):
        os.close(fd)


def test_the_guest_starts_when_the_connection_is_made(qemu):
    assert qemu.asked() == ["qmp_capabilities", "cont"]


def test_the_wait_for_the_first_instruction_keeps_what_is_told_meanwhile(qemu):
    os.write(qemu.errors, b"warning: one thing\n")
    qemu.tell("RESUME")
    assert qemu.process.await_start(5) is None
    assert [event.kind for event in qemu.process.events()] == ["log", "phase", "state"]


def test_a_qemu_that_will_not_let_the_guest_go_has_not_started(qemu):
    qemu.control.sendall(b'{"error": {"class": "GenericError", "desc": "locked"}, "id": "cont"}\n')
    assert qemu.process.await_start(5) == "locked"


def test_a_qemu_that_says_nothing_at_all_is_given_up(qemu):
    with pytest.raises(HostError, match="has not started the guest within 0 s"):
        qemu.process.await_start(0.1)


def test_a_status_that_came_just_before_the_power_off_is_the_reason(qemu):
    qemu.exit_port.send(b"\x07")
    qemu.tell("SHUTDOWN", reason="guest-shutdown")
    assert qemu.ends() == [{"reason": "exit", "status": 7, "detail": ""}]


def test_only_the_first_end_is_told_and_qemu_is_sent_home(qemu):
    qemu.asked()
    qemu.tell("GUEST_PANICKED", action="pause")
    qemu.tell("SHUTDOWN", reason="guest-reset")
    assert [end["reason"] for end in qemu.ends()] == ["panic"]
    assert qemu.asked() == ["quit"]


def test_a_triple_fault_is_known_by_the_log_even_when_a_read_cuts_the_line(qemu):
    os.write(qemu.log, b"CPU Reset (CPU 0)\nTriple ")
    qemu.process.events()
    os.write(qemu.log, b"fault\n")
    qemu.tell("SHUTDOWN", reason="guest-reset")
    assert [end["reason"] for end in qemu.ends()] == ["triple-fault"]


def test_a_log_without_end_holds_nobody_up(qemu):
    """A guest can send itself INITs for ever, and each is logged."""
    writer = subprocess.Popen(["cat", "/dev/zero"], stdout=qemu.log)
    try:
        began = time.monotonic()
        for _ in range(20):
            qemu.process.events()
        assert time.monotonic() - began < 5
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize(
    "words",
    [
        b"<html>\n", b"[]\n", b'{"event": "SHUTDOWN", "data": 3}\n', b'{"error": 1}\n',
        b'{"event": "RESUME", "timestamp": []}\n', b'{"return": 5, "id": "query-cpus-fast"}\n',
        b"[" * 50_000 + b"\n",
    ],
)  # fmt: skip
def test_what_is_no_qmp_ends_the_run_and_not_the_supervisor(qemu, words):
    """A guest that has taken QEMU over may write there."""
    qemu.control.sendall(words)
    (end,) = qemu.ends()
    assert end["reason"] == "engine-died"
    assert "QMP" in str(end["detail"])
    assert qemu.ends() == []


def test_its_last_lines_are_told_when_it_dies(qemu):
    os.write(qemu.errors, b"qemu: cannot ")
    os.write(qemu.errors, b"go on\nat all")
    qemu.child.kill()
    select.select([qemu.process.pidfd], [], [], 5)
    (end,) = qemu.ends()
    assert end == {"reason": "engine-died", "status": None, "detail": "qemu: cannot go on\nat all"}


def test_warnings_are_told_in_whole_lines(qemu):
    os.write(qemu.errors, b"warning: one")
    assert [event for event in qemu.process.events() if event.kind == "log"] == []
    os.write(qemu.errors, b" thing\nwarning: nic x has no peer\n")
    (log,) = [event.data for event in qemu.process.events() if event.kind == "log"]
    assert log["event"] == "warning: one thing"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (
            "qemu-system-x86_64: warning: vfio 0000:01:00.0: Bus 'pcie.0' does not support hotplugging",
            "the host wants 0000:01:00.0 back: it is unplugged, or taken from vfio-pci",
        ),
        (
            "qemu-system-x86_64: vfio_err_notifier_handler(0000:01:00.0) Unrecoverable error detected. "
            "Please collect any data possible and then kill the guest",
            "0000:01:00.0 has met an error that it does not recover from (dmesg says more)",
        ),
    ],
)
def test_a_device_that_the_host_wants_back_ends_the_run(qemu, line, detail):
    """QEMU itself would keep it, and whoever unbinds it would wait for ever."""
    qemu.asked()
    os.write(qemu.errors, f"{line}\n".encode())
    assert qemu.ends() == [{"reason": "device-lost", "status": None, "detail": detail}]
    assert qemu.asked() == ["quit"]


def test_a_device_that_the_guest_has_let_go_ends_the_run(qemu):
    """Below a root port QEMU asks the guest to, and then the device is gone."""
    qemu.tell("DEVICE_DELETED", device="devices.reader", path="/machine/peripheral/devices.reader")
    (end,) = qemu.ends()
    assert end["reason"] == "device-lost"
    assert str(end["detail"]).startswith("the host wants `devices.reader` back")


@pytest.mark.parametrize(
    "line",
    [
        "qemu-system-x86_64: warning: Bus 'pcie.0' does not support hotplugging",
        "qemu-system-x86_64: warning: vfio 0000:01:00.0: no reset",
        "Unrecoverable error detected (by somebody else)",
    ],
)
def test_another_warning_is_no_end(qemu, line):
    os.write(qemu.errors, f"{line}\n".encode())
    assert [(event.kind, event.data["event"]) for event in qemu.process.events()] == [("log", line)]


def test_an_internal_error_of_kvm_is_told_from_a_pause(qemu):
    os.write(qemu.errors, b"KVM internal error. Suberror: 1\nemulation failure\n")
    qemu.tell("STOP")
    qemu.process.events()
    assert "query-status" in qemu.asked()
    qemu.control.sendall(b'{"return": {"status": "internal-error"}, "id": "query-status"}\n')
    assert [end["reason"] for end in qemu.ends()] == ["emulation-failure"]


def test_a_refusal_of_qemu_is_told(qemu):
    qemu.control.sendall(b'{"error": {"class": "GenericError", "desc": "no"}, "id": "stop"}\n')
    (log,) = [event.data for event in qemu.process.events() if event.kind == "log"]
    assert log["event"] == "QEMU refused `stop`: no"


def test_the_balloons_size_is_what_it_holds_while_qemu_counts_what_is_left(qemu):
    qemu.process.ask("balloon 4096")
    last = qemu.control.recv(65536).splitlines()[-1]
    assert json.loads(last)["arguments"] == {"value": (1 << 20) - 4096}
    qemu.tell("BALLOON_CHANGE", actual=(1 << 20) - 4096)
    assert [event.data for event in qemu.process.events() if event.kind == "balloon"] == [{"bytes": 4096}]


def test_closing_twice_kills_once(qemu):
    qemu.process.close()
    qemu.process.close()
    assert qemu.process.events() == []
    assert not os.path.exists(f"/proc/{qemu.child.pid}")
