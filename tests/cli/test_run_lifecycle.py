"""ps, stop, attach, logs, pause, resume and -d, against a scripted guest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.vmrun_on_pty import (
    PATIENCE,
    OnTerminal,
    command,
    environment,
    is_alive,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


ATTACH = (sys.executable, "-m", "runner.cli", "attach", "box")


def vmrun(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *words],
        check=False,
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        **options,
    )


def machines(folder: Path) -> list[dict[str, object]]:
    done = vmrun(folder, "ps", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["machines"]


def start(folder: Path, scenario: str, *words: str) -> int:
    """A detached machine; returns its supervisor's pid."""
    done = subprocess.run(
        command(scenario, *words, "-d"),
        check=False,
        env=environment(folder),
        cwd=folder,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split(b"(process ")[1].split(b")")[0])


def test_a_detached_machine_is_listed_and_stops_by_its_power_button(tmp_path: Path, box: str) -> None:
    pid = start(tmp_path, "polite", box)
    (machine,) = machines(tmp_path)
    assert machine["name"] == "box"
    assert machine["state"] == "running"
    assert machine["pid"] == pid
    assert machine["definition"] == box
    assert vmrun(tmp_path, "stop", "box").returncode == 0
    assert machines(tmp_path) == []
    wait_until(lambda: not is_alive(pid))
    assert b"powering down" in vmrun(tmp_path, "logs", "box").stdout


def test_stop_ends_a_guest_that_ignores_its_power_button(tmp_path: Path, box: str) -> None:
    pid = start(tmp_path, "stubborn", box)
    assert vmrun(tmp_path, "stop", "box", "--grace", "200ms").returncode == 0
    wait_until(lambda: not is_alive(pid))
    assert not os.listdir(tmp_path / "run" / "vmrun")


def test_pause_and_resume_change_the_state(tmp_path: Path, box: str) -> None:
    start(tmp_path, "polite", box)
    try:
        assert vmrun(tmp_path, "pause", "box").returncode == 0
        wait_until(lambda: machines(tmp_path)[0]["state"] == "paused")
        assert vmrun(tmp_path, "resume", "box").returncode == 0
        wait_until(lambda: machines(tmp_path)[0]["state"] == "running")
    finally:
        vmrun(tmp_path, "stop", "box", "--now")


def test_logs_show_the_last_output_of_a_running_machine(tmp_path: Path, box: str) -> None:
    start(tmp_path, "idle", box)
    try:
        wait_until(lambda: vmrun(tmp_path, "logs", "box").stdout == b"ready\r\n")
    finally:
        vmrun(tmp_path, "stop", "box", "--now")


def test_logs_follow_until_the_end(tmp_path: Path, box: str) -> None:
    start(tmp_path, "polite", box)
    following = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "logs", "-f", "box"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert following.stdout is not None
    assert following.stdout.readline() == b"ready\r\n"
    vmrun(tmp_path, "stop", "box")
    assert following.stdout.read() == b"powering down\r\n"
    assert following.wait(PATIENCE) == 0


def test_attach_carries_bytes_both_ways_and_ctrl_a_d_leaves(tmp_path: Path, box: str) -> None:
    pid = start(tmp_path, "echo", box)
    with OnTerminal(tmp_path, *ATTACH) as attached:
        attached.wait_for(b"ready")
        attached.wait_raw()
        attached.type(b"hi")
        attached.wait_for(b"[hi]")
        attached.type(b"\x01d")
        assert attached.wait() == 0
        assert attached.is_sane()
    assert is_alive(pid)
    with OnTerminal(tmp_path, *ATTACH) as attached:
        attached.wait_for(b"[hi]")  # the last output is shown to who comes later
        attached.type(b"q")
        attached.wait_for(b"bye")
        assert attached.wait() == 0
        assert attached.is_sane()
    wait_until(lambda: not is_alive(pid))


def test_a_second_run_of_a_name_gets_a_number_unless_it_was_asked_for(tmp_path: Path, box: str) -> None:
    first = start(tmp_path, "idle", box)
    start(tmp_path, "idle", box)
    try:
        assert [machine["name"] for machine in machines(tmp_path)] == ["box", "box-2"]
        refused = subprocess.run(
            command("idle", box, "--name", "box"),
            check=False,
            env=environment(tmp_path),
            capture_output=True,
            timeout=PATIENCE,
        )
        assert refused.returncode == 69
        assert f"runs already (process {first})".encode() in refused.stderr
    finally:
        vmrun(tmp_path, "stop", "box", "--now")
        vmrun(tmp_path, "stop", "box-2", "--now")


def test_what_a_killed_run_has_left_is_found_stale_and_replaced(tmp_path: Path, box: str) -> None:
    pid = start(tmp_path, "idle", box)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    assert (tmp_path / "run/vmrun/box/control.sock").exists()
    assert machines(tmp_path) == []
    start(tmp_path, "idle", box)
    assert [machine["name"] for machine in machines(tmp_path)] == ["box"]
    vmrun(tmp_path, "stop", "box", "--now")


def test_a_name_that_nobody_has_is_a_usage_error_that_lists_those_that_run(tmp_path: Path, box: str) -> None:
    done = vmrun(tmp_path, "stop", "nobody")
    assert done.returncode == 64
    assert b"no machine named `nobody` runs" in done.stderr


def test_a_detached_run_that_cannot_start_gives_its_status_to_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        command("idle", str(tmp_path / "none.toml"), "-d"),
        check=False,
        env=environment(tmp_path),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 64
