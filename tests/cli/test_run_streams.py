"""Standard streams without a terminal: pipes, full pipes, closed pipes, files, and nothing at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.fake_vmrun import FLOOD
from tests.cli.vmrun_on_pty import (
    PATIENCE,
    children,
    command,
    definition,
    environment,
    guest_of,
    is_alive,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


def run(folder: Path, scenario: str, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    settings: dict[str, object] = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "timeout": PATIENCE,
        **options,
    }
    return subprocess.run(
        command(scenario, *words), env=environment(folder), cwd=folder, check=False, **settings
    )


def start(folder: Path, scenario: str, *words: str, **options: object) -> subprocess.Popen[bytes]:
    settings: dict[str, object] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command(scenario, *words), env=environment(folder), cwd=folder, **settings)


def line_with(vmrun: subprocess.Popen[bytes], words: bytes) -> bytes:
    """The first line of standard error that has ``words``."""
    assert vmrun.stderr is not None
    said = b""
    for line in vmrun.stderr:
        said += line
        if words in line:
            return line
    raise AssertionError(f"no {words!r} in {said!r}")


def told_as_dropped(said: bytes) -> int:
    told = re.search(rb"(\d+) bytes of console output were dropped", said)
    return int(told[1]) if told else 0


def test_the_guests_console_is_standard_output_and_ours_is_standard_error(tmp_path: Path, box: str) -> None:
    done = run(tmp_path, "hello", box)
    assert done.stdout == b"hello from the guest\r\n"
    assert b"engine kvm" in done.stderr
    assert done.returncode == 0


def test_the_guests_status_passes_through(tmp_path: Path, box: str) -> None:
    assert run(tmp_path, "status7", box).returncode == 7


def test_quiet_says_nothing_about_a_run_that_went_well(tmp_path: Path, box: str) -> None:
    assert run(tmp_path, "hello", box, "-q").stderr == b""


def test_a_pipe_on_standard_input_feeds_the_guest_and_its_end_is_fine(tmp_path: Path, box: str) -> None:
    done = run(tmp_path, "echo", box, stdin=None, input=b"q")
    assert done.stdout.endswith(b"bye\r\n")
    assert done.returncode == 0


def test_a_large_input_waits_until_the_guest_takes_it_and_none_is_lost(tmp_path: Path, box: str) -> None:
    """One megabyte through a socket pair that holds a fifth of it, to a guest that counts."""
    done = run(tmp_path, "count", box, stdin=None, input=b"x" * 1_000_000 + b"\n")
    assert b"1000000 bytes" in done.stdout


def test_ten_megabytes_pass_through_a_pipe_but_for_what_is_told(tmp_path: Path, box: str) -> None:
    """A reader may be too slow for a while; then it is said how many bytes it has not got."""
    done = run(tmp_path, "flood", box)
    assert done.returncode == 0
    assert done.stdout.endswith(b"last words\r\n")
    assert len(done.stdout) + told_as_dropped(done.stderr) == FLOOD


def test_a_full_pipe_stalls_neither_guest_nor_supervisor_and_the_loss_is_told(
    tmp_path: Path, box: str
) -> None:
    """Nobody reads: the guest still comes to its end, and all that is not in the pipe then counts as lost."""
    vmrun = start(tmp_path, "flood", box, stdout=subprocess.PIPE)
    guest = guest_of(vmrun.pid)
    wait_until(lambda: not is_alive(guest))
    assert vmrun.wait(PATIENCE) == 0
    assert vmrun.stdout is not None
    assert vmrun.stderr is not None
    lost = told_as_dropped(vmrun.stderr.read())
    assert lost
    assert len(vmrun.stdout.read()) + lost == FLOOD


def test_what_the_vm_process_has_lost_is_told_too(tmp_path: Path, box: str) -> None:
    """Output that never came to the supervisor is as lost as what a reader has not taken."""
    done = run(tmp_path, "lossy", box, "--report", "report.json")
    assert told_as_dropped(done.stderr) == 1234
    assert json.loads((tmp_path / "report.json").read_text())["console"]["dropped"] == 1234


def test_the_flags_of_a_shared_standard_output_stay_as_they_are(tmp_path: Path, box: str) -> None:
    """O_NONBLOCK would break the other processes of a pipeline that share the description."""
    reader, writer = os.pipe()
    vmrun = start(tmp_path, "idle", box, stdout=writer)
    assert os.read(reader, 100) == b"ready\r\n"
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    vmrun.terminate()
    assert vmrun.wait(PATIENCE) == 128 + signal.SIGTERM
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("scenario", ["fountain", "idle"])
def test_a_reader_that_goes_away_ends_the_run_like_any_program_in_a_pipe(
    tmp_path: Path, box: str, scenario: str
) -> None:
    """``vmrun x | head -1``: status 128 + SIGPIPE, also when the guest says nothing more."""
    vmrun = start(tmp_path, scenario, box, stdout=subprocess.PIPE)
    assert vmrun.stdout is not None
    vmrun.stdout.readline()
    guest = guest_of(vmrun.pid)
    vmrun.stdout.close()
    assert vmrun.wait(PATIENCE) == 141
    assert not is_alive(guest)


def test_closed_standard_streams_become_the_null_device(tmp_path: Path, box: str) -> None:
    """Otherwise the next file that is opened would be taken for one of them, and written to."""
    words = " ".join(command("idle", box))
    vmrun = subprocess.Popen(
        ["bash", "-c", f"exec {words} <&- >&- 2>&-"], env=environment(tmp_path), cwd=tmp_path
    )
    wait_until((tmp_path / "run/vmrun/box/run.json").exists)
    assert [os.readlink(f"/proc/{vmrun.pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    vmrun.terminate()
    assert vmrun.wait(PATIENCE) == 128 + signal.SIGTERM


def test_a_socket_for_standard_output_never_blocks(tmp_path: Path, box: str) -> None:
    import socket

    ours, theirs = socket.socketpair()
    vmrun = start(tmp_path, "flood", box, stdout=theirs)
    theirs.close()
    assert vmrun.wait(PATIENCE) == 0
    ours.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_fetching_ends_the_command_with_its_own_status(
    tmp_path: Path, box: str, number: int
) -> None:
    vmrun = start(tmp_path, "slow_fetch", box, "--report", "r.json", stdout=subprocess.DEVNULL)
    line_with(vmrun, b"fetching")
    vmrun.send_signal(number)
    assert vmrun.wait(5) == 128 + number
    assert vmrun.stderr is not None
    assert b"Traceback" not in vmrun.stderr.read()
    assert not os.listdir(tmp_path / "run" / "vmrun")
    assert '"reason": "signal"' in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize("moment", [0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.18, 0.22])
def test_a_signal_at_any_moment_ends_the_command_within_five_seconds(
    tmp_path: Path, box: str, moment: float
) -> None:
    """Also in the interpreter's own start, where Python's default for SIGTERM applies."""
    vmrun = start(tmp_path, "idle", box, stdout=subprocess.DEVNULL)
    time.sleep(moment)
    vmrun.terminate()
    assert vmrun.wait(5) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert vmrun.stderr is not None
    assert b"Traceback" not in vmrun.stderr.read()


def test_an_ignored_hangup_stays_ignored(tmp_path: Path, box: str) -> None:
    """As nohup wants it: the run ends by the signal that comes after it."""
    vmrun = start(
        tmp_path,
        "idle",
        box,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert vmrun.stdout is not None
    assert vmrun.stdout.readline() == b"ready\r\n"
    vmrun.send_signal(signal.SIGHUP)
    vmrun.terminate()
    assert vmrun.wait(PATIENCE) == 128 + signal.SIGTERM


def test_a_guest_does_not_outlive_a_killed_supervisor(tmp_path: Path, box: str) -> None:
    vmrun = start(tmp_path, "stubborn", box, stdout=subprocess.PIPE)
    assert vmrun.stdout is not None
    vmrun.stdout.readline()
    started = children(vmrun.pid)
    vmrun.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_a_serial_line_to_a_file_holds_all_of_it(tmp_path: Path) -> None:
    box = definition(tmp_path, 'serial = { file = "out.log" }\n')
    done = run(tmp_path, "flood", box)
    assert done.returncode == 0
    assert done.stdout == b""
    text = (tmp_path / "out.log").read_bytes()
    assert len(text) == FLOOD
    assert text.endswith(b"last words\r\n")


def test_a_serial_line_on_a_socket_serves_one_client_both_ways_and_leaves_no_file(tmp_path: Path) -> None:
    import socket

    box = definition(tmp_path, 'serial = { socket = "line.sock" }\n')
    vmrun = start(tmp_path, "echo", box, stdout=subprocess.DEVNULL)
    line_with(vmrun, b"serial is at ")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(tmp_path / "line.sock"))
        client.sendall(b"hello")
        heard = b""
        while b"[hello]" not in heard:
            heard += client.recv(100)
        client.sendall(b"q")
        assert vmrun.wait(PATIENCE) == 0
    assert not (tmp_path / "line.sock").exists()


def test_a_serial_line_on_a_pty_tells_its_path_and_works_there(tmp_path: Path) -> None:
    box = definition(tmp_path, 'serial = "pty"\n')
    vmrun = start(tmp_path, "echo", box, stdout=subprocess.DEVNULL)
    path = line_with(vmrun, b"/dev/pts/")
    fd = os.open(path.split(b" is at ")[1].split()[0], os.O_RDWR | os.O_NOCTTY)
    os.write(fd, b"hello")
    heard = b""
    while b"[hello]" not in heard:
        heard += os.read(fd, 100)
    os.write(fd, b"q")
    assert vmrun.wait(PATIENCE) == 0
    os.close(fd)


def test_a_null_serial_line_still_gives_the_verdict_its_last_words(tmp_path: Path) -> None:
    box = definition(tmp_path, 'serial = "null"\n')
    done = run(tmp_path, "panic_reset", box)
    assert done.returncode == 134
    assert done.stdout == b""
    assert b"| [    1.1] Kernel panic" in done.stderr
