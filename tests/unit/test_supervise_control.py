"""The registry of running machines and the control socket, hostile words included."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import HostError, HostPermissionError
from runner.host import unix_socket
from runner.host.signals import Signals
from runner.supervisor import registry
from runner.supervisor.balloon import Balloon
from runner.supervisor.console import Console
from runner.supervisor.control import CLIENTS, LONGEST_LINE, ControlServer
from runner.supervisor.supervise import Supervisor


class Guest:
    """A guest process that only remembers what it is asked."""

    pid, pidfd, events_fd = 4711, -1, -1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, action: str) -> None:
        self.asked.append(action)


class Socket:
    """A control server with a client at the other end."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(Signals(), lambda level, words, **fields: None)
        self.guest = Guest()
        ours, self.serial = unix_socket.pair()
        self.console = Console("serial", ours)
        self.console.open(self.supervisor.loop)
        self.supervisor.watch(self.guest, [self.console], [])  # type: ignore[arg-type]
        self.path = str(folder / "control.sock")
        self.server = ControlServer(self.path, self.supervisor)
        self.fds: list[int] = []

    def connect(self) -> int:
        fd = unix_socket.connect(self.path)
        os.set_blocking(fd, False)
        self.fds.append(fd)
        self.turn()
        return fd

    def turn(self, count: int = 4) -> None:
        for _ in range(count):
            self.supervisor.loop.after(0, lambda: None)
            self.supervisor.loop.turn()

    def say(self, fd: int, data: bytes) -> bytes | None:
        """What comes back; None after a hang-up."""
        try:
            os.write(fd, data)
        except BrokenPipeError:
            return None
        self.turn()
        try:
            return os.read(fd, 1 << 20) or None
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            return None

    def ask(self, fd: int, **request: object) -> dict[str, object]:
        answer = self.say(fd, json.dumps(request).encode() + b"\n")
        assert answer
        return json.loads(answer.partition(b"\n")[0])


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Socket]:
    made = Socket(tmp_path)
    yield made
    made.server.close()
    made.console.close()
    for fd in (*made.fds, made.serial):
        os.close(fd)


def test_status_tells_state_and_consoles(control: Socket) -> None:
    status = control.ask(control.connect(), do="status")
    assert (status["ok"], status["state"], status["vm_pid"]) == (True, "running", 4711)
    assert status["consoles"] == ["serial"]


def test_stop_presses_the_power_button_and_pause_holds_the_cpus(control: Socket) -> None:
    fd = control.connect()
    control.ask(fd, do="pause")
    control.ask(fd, do="resume")
    control.ask(fd, do="stop", grace=5)
    assert control.guest.asked == ["pause", "resume", "power-button"]
    assert control.supervisor.state == "stopping"


@pytest.mark.parametrize("grace", [-1, "soon", 1e9, None, [], float("nan")])
def test_a_grace_that_is_no_time_is_refused(control: Socket, grace: object) -> None:
    assert control.ask(control.connect(), do="stop", grace=grace)["ok"] is False
    assert control.guest.asked == []


def test_attach_carries_bytes_both_ways_after_the_last_output(control: Socket) -> None:
    os.write(control.serial, b"before ")
    control.turn()
    fd = control.connect()
    answer = control.say(fd, b'{"do": "attach"}\ntyped early ')
    assert answer is not None
    head, _, stream = answer.partition(b"\n")
    assert json.loads(head) == {"ok": True, "console": "serial", "bytes": 7}
    assert stream == b"before "
    assert control.say(fd, b"and late") == b""
    assert os.read(control.serial, 100) == b"typed early and late"
    os.write(control.serial, b"after")
    control.turn()
    assert os.read(fd, 100) == b"after"


def test_logs_are_one_way(control: Socket) -> None:
    fd = control.connect()
    control.ask(fd, do="logs", follow=True)
    control.say(fd, b"typed\n")
    os.set_blocking(control.serial, False)
    with pytest.raises(BlockingIOError):
        os.read(control.serial, 100)


def test_a_console_that_is_not_there_is_refused_with_those_that_are(control: Socket) -> None:
    answer = control.ask(control.connect(), do="attach", console="other")
    assert answer == {"ok": False, "error": "no such console; there are: serial"}


def test_a_client_that_goes_away_leaves_the_console_in_peace(control: Socket) -> None:
    fd = control.connect()
    control.say(fd, b'{"do": "attach"}\n')
    os.close(control.fds.pop())
    control.turn()
    os.write(control.serial, b"x")
    control.turn()
    assert control.server.clients == []
    assert control.console.endpoints == []


def test_a_line_without_end_is_hung_up_on(control: Socket) -> None:
    assert control.say(control.connect(), b"x" * (LONGEST_LINE + 1)) is None


def test_one_client_more_than_allowed_is_hung_up_on(control: Socket) -> None:
    for _ in range(CLIENTS):
        control.connect()
    assert control.say(control.connect(), b'{"do": "status"}\n') is None
    assert len(control.server.clients) == CLIENTS


def test_another_users_process_is_hung_up_on(control: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "peer", lambda fd: (1, os.geteuid() + 1))
    assert control.say(control.connect(), b'{"do": "kill"}\n') is None
    assert control.guest.asked == []


REQUESTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["do", "grace", "console", "follow"]), inner)
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | REQUESTS.map(lambda value: json.dumps(value).encode()))
def test_no_words_make_the_server_fail(control: Socket, words: bytes) -> None:
    fd = control.connect()
    control.say(fd, words + b"\n")
    os.close(control.fds.pop())
    control.turn()
    assert control.server.clients == []


def test_a_taken_name_gets_a_number_or_an_error_that_names_the_holder(tmp_path: Path) -> None:
    first = registry.register("box", exact=False, base=str(tmp_path))
    second = registry.register("box", exact=False, base=str(tmp_path))
    assert (first.name, second.name) == ("box", "box-2")
    with pytest.raises(HostError, match=f"process {os.getpid()}"):
        registry.register("box", exact=True, base=str(tmp_path))
    first.release()
    assert registry.register("box", exact=True, base=str(tmp_path)).name == "box"
    second.release()


def test_only_held_folders_are_live(tmp_path: Path) -> None:
    (tmp_path / "stale").mkdir()
    (tmp_path / "stale" / "lock").write_text("1")
    held = registry.register("held", exact=True, base=str(tmp_path))
    held.describe({"engine": "kvm"})
    (machine,) = registry.live(str(tmp_path))
    assert (machine.name, machine.about) == ("held", {"engine": "kvm"})
    held.release()
    assert registry.live(str(tmp_path)) == []
    assert not (tmp_path / "held").exists()


def test_a_runtime_folder_that_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = Path(registry.runtime_folder())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(HostPermissionError):
        registry.runtime_folder()


def test_a_planted_link_is_not_taken_for_the_runtime_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "vmrun").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(HostPermissionError):
        registry.runtime_folder()


def test_a_machine_without_a_balloon_says_so(control: Socket) -> None:
    answer = control.ask(control.connect(), do="balloon", size=4096)
    assert answer == {"ok": False, "error": "it has no balloon"}
    assert control.guest.asked == []


def test_a_balloon_is_inflated_within_the_memory_and_its_size_is_told(control: Socket) -> None:
    supervisor = control.supervisor
    supervisor.balloon = balloon = Balloon(1 << 20, supervisor.ask)
    client = control.connect()
    assert control.ask(client, do="balloon", size=65536) == {"ok": True, "target": 65536, "actual": 0}
    balloon.heard(4096)
    assert control.ask(client, do="balloon") == {"ok": True, "target": 65536, "actual": 4096}
    for nonsense in (-1, 1 << 20, "much", None, True, 1.5):
        assert control.ask(client, do="balloon", size=nonsense)["ok"] is False
    assert control.guest.asked == ["balloon 65536"]


@given(st.text(max_size=150))
def test_every_name_becomes_one_file_name(name: str) -> None:
    safe = registry.safe_name(name)
    assert 0 < len(safe) <= registry.MOST_OF_A_NAME
    assert "/" not in safe
    assert not safe.startswith((".", "-"))


def test_a_socket_path_longer_than_an_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    path = str(folder / "s")
    listener = unix_socket.listen(path)
    assert unix_socket.is_live(path)
    os.close(listener)
    assert not unix_socket.is_live(path)
