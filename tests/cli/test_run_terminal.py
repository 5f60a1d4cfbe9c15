"""The terminal: raw while the guest runs, the guest's own, and sane after every ending."""

from __future__ import annotations

import os
import signal
import termios
from pathlib import Path

import pytest

from tests.cli.vmrun_on_pty import (
    PATIENCE,
    OnTerminal,
    children,
    command,
    definition,
    guest_of,
    is_alive,
    wait_until,
)

CTRL_A, CTRL_C, CTRL_Z = b"\x01", b"\x03", b"\x1a"


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_terminal_is_raw_while_the_guest_runs_and_sane_when_it_powers_off(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("echo", box)) as vmrun:
        vmrun.wait_for(b"ready")
        vmrun.wait_raw()
        vmrun.type(b"q")
        assert vmrun.wait() == 0
        assert vmrun.is_sane()


def test_what_is_typed_reaches_the_guest_as_it_is(tmp_path: Path, box: str) -> None:
    """Also Ctrl-C, Ctrl-Z and a carriage return, which mean something to a cooked terminal."""
    with OnTerminal(tmp_path, *command("echo", box)) as vmrun:
        vmrun.wait_for(b"ready")
        vmrun.wait_raw()
        for key in (b"a", CTRL_C, CTRL_Z, b"\r"):
            vmrun.type(key)
            vmrun.wait_for(b"[" + key + b"]")
        vmrun.type(CTRL_A + b"a")
        vmrun.wait_for(b"[" + CTRL_A + b"]")
        vmrun.type(b"q")
        assert vmrun.wait() == 0


def test_ctrl_a_x_ends_the_guest_with_status_0_and_ctrl_a_h_helps(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_for(b"ready")
        vmrun.wait_raw()
        vmrun.type(CTRL_A + b"h")
        vmrun.wait_for(b"Ctrl-A x  end the guest now\r\n")
        vmrun.type(CTRL_A + b"x")
        assert vmrun.wait() == 0
        assert vmrun.is_sane()


def test_ctrl_a_p_presses_the_power_button(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("polite", box)) as vmrun:
        vmrun.wait_for(b"ready")
        vmrun.wait_raw()
        vmrun.type(CTRL_A + b"p")
        assert vmrun.wait() == 0
        vmrun.wait_for(b"powering down")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1]
)
def test_a_signal_ends_the_guest_and_leaves_a_sane_terminal(tmp_path: Path, box: str, number: int) -> None:
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_raw()
        guest = guest_of(vmrun.process.pid)
        vmrun.process.send_signal(number)
        assert vmrun.wait() == 128 + number
        assert vmrun.is_sane()
        assert not is_alive(guest)


def test_a_vm_process_that_is_killed_leaves_a_sane_terminal(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_raw()
        os.kill(guest_of(vmrun.process.pid), signal.SIGKILL)
        assert vmrun.wait() == 70
        assert vmrun.is_sane()
        assert b"killed by SIGKILL" in vmrun.output


def test_a_supervisor_that_is_killed_leaves_a_sane_terminal_and_no_process(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_raw()
        started = children(vmrun.process.pid)
        vmrun.process.kill()
        assert vmrun.wait() == -signal.SIGKILL
        assert vmrun.is_sane()
        wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_a_guard_leaves_a_terminal_alone_that_somebody_else_has_set_up(tmp_path: Path, box: str) -> None:
    """A shell that was quicker than the guard keeps its line editor's settings."""
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_raw()
        started = children(vmrun.process.pid)
        shells = termios.tcgetattr(vmrun.slave)
        shells[3] |= termios.ISIG
        termios.tcsetattr(vmrun.slave, termios.TCSANOW, shells)
        vmrun.process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in started))
        assert termios.tcgetattr(vmrun.slave)[3] == shells[3]


def test_a_closed_terminal_ends_the_guest_as_a_hangup(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("idle", box)) as vmrun:
        vmrun.wait_raw()
        guest = guest_of(vmrun.process.pid)
        os.close(vmrun.slave)
        os.close(vmrun.master)
        assert vmrun.process.wait(PATIENCE) == 128 + signal.SIGHUP
        assert not is_alive(guest)


def test_a_second_ctrl_c_does_not_wait_for_a_guest_that_does_not_quit(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("stubborn", box)) as vmrun:
        vmrun.wait_raw()
        vmrun.process.send_signal(signal.SIGINT)
        vmrun.process.send_signal(signal.SIGTERM)
        assert vmrun.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert vmrun.is_sane()


def test_a_stubborn_guest_is_killed_within_five_seconds(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("stubborn", box)) as vmrun:
        vmrun.wait_raw()
        vmrun.process.send_signal(signal.SIGTERM)
        assert vmrun.process.wait(5) == 128 + signal.SIGTERM
        assert vmrun.is_sane()


def test_ctrl_c_while_an_artifact_is_fetched_ends_the_command(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("slow_fetch", box)) as vmrun:
        vmrun.wait_for(b"fetching")
        vmrun.type(CTRL_C)
        assert vmrun.wait() == 128 + signal.SIGINT
        assert vmrun.is_sane()
        assert b"Traceback" not in vmrun.output


def test_a_stopped_and_continued_job_gives_the_terminal_back_meanwhile(tmp_path: Path, box: str) -> None:
    with OnTerminal(tmp_path, *command("echo", box)) as vmrun:
        vmrun.wait_raw()
        vmrun.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: _state(vmrun.process.pid) == "T")
        assert vmrun.is_sane()
        vmrun.process.send_signal(signal.SIGCONT)
        vmrun.wait_raw()
        vmrun.type(b"q")
        assert vmrun.wait() == 0
        assert vmrun.is_sane()


def test_a_background_job_runs_and_leaves_the_terminal_alone(tmp_path: Path, box: str) -> None:
    """``vmrun x &`` in a shell: it is neither stopped by SIGTTOU nor does it make the terminal raw."""
    script = f"set -m; {' '.join(command('polite', box))} & wait $!"
    with OnTerminal(tmp_path, "bash", "-c", script) as shell:
        shell.wait_for(b"ready")
        assert not shell.is_raw()
        supervisor = children(shell.process.pid)[0]
        os.kill(supervisor, signal.SIGTERM)
        assert shell.wait() == 128 + signal.SIGTERM
        assert shell.is_sane()


def test_a_virtio_console_hears_of_the_terminals_size(
    tmp_path: Path,
) -> None:
    box = definition(tmp_path, 'serial = "off"\nconsole = "tty"\n')
    with OnTerminal(tmp_path, *command("window", box)) as vmrun:
        termios.tcsetwinsize(vmrun.slave, (40, 120))
        vmrun.wait_for(b"<window console 120 40>")
        termios.tcsetwinsize(vmrun.slave, (50, 132))

        vmrun.wait_for(b"window console 132 50")
        vmrun.type(CTRL_A + b"x")
        assert vmrun.wait() == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
