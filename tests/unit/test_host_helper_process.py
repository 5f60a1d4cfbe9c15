"""Helper programs: started, heard, confined, ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import HostError
from runner.host import helper_process
from runner.host.helper_process import Helper, confine, find, lib, start

PATIENCE = 60.0


@pytest.fixture
def shell() -> Iterator[object]:
    """``shell(script, …)`` starts a helper that is a shell script."""
    running: list[Helper] = []

    def run(script: str, **options: object) -> Helper:
        running.append(start("disks.a", ["/bin/sh", "-c", script], (), **options))  # type: ignore[arg-type]
        return running[-1]

    yield run
    for helper in running:
        helper.close()


def heard(helper: Helper, lines: int) -> list[str]:
    """So many lines of what it says, or what came within a minute."""
    told: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while len(told) < lines and time.monotonic() < deadline:
        told += helper.read()
        time.sleep(0.01)
    return told


def test_a_program_that_is_missing_is_named_with_its_package():
    with pytest.raises(HostError, match="`no-such-daemon` is not installed") as raised:
        find("no-such-daemon", "some-package")
    assert raised.value.hint == "apt-get install --no-install-recommends some-package"


def test_a_program_is_found_where_distributions_hide_it(tmp_path, monkeypatch):
    (tmp_path / "hidden").write_text("#!/bin/sh\n")
    (tmp_path / "hidden").chmod(0o755)
    monkeypatch.setattr(helper_process, "FOLDERS", (str(tmp_path),))
    assert find("hidden", "x") == f"{tmp_path}/hidden"


def test_what_it_says_comes_in_whole_lines(shell):
    helper = shell("echo one; printf tw; sleep 0.2; echo o >&2; sleep 5")
    assert heard(helper, 2) == ["one", "two"]


def test_its_end_is_explained_by_its_last_lines(shell):
    helper = shell("for n in 1 2 3 4 5; do echo line $n; done; exit 3")
    assert helper.has_ended(PATIENCE)
    assert helper.how_it_ended() == "sh exited with 3: line 3; line 4; line 5"


def test_a_signal_is_named(shell):
    helper = shell("kill -KILL $$")
    assert helper.has_ended(PATIENCE)
    assert helper.how_it_ended() == "sh was killed by SIGKILL without a word"


def test_a_helper_that_floods_is_neither_blocked_nor_believed(shell):
    """Nobody reads, and it goes on; then so many lines are told and no more."""
    helper = shell("i=0; while [ $i -lt 20000 ]; do echo some line; i=$((i+1)); done 2>/dev/null; exit 0")
    assert helper.has_ended(PATIENCE)
    told = helper.read() + helper.read()
    assert len(told) == helper_process.MOST_LINES + 1
    assert told[-1] == "and so on"


def test_a_line_without_an_end_is_bounded(shell):
    helper = shell("head -c 50000 /dev/zero | tr '\\0' x")
    assert helper.has_ended(PATIENCE)
    helper.read()
    assert len(helper._partial) == helper_process.KEPT


def test_one_that_does_not_want_to_end_is_killed(shell, monkeypatch):
    monkeypatch.setattr(helper_process, "PATIENCE", 0.2)
    helper = shell("trap '' TERM; echo ready; while :; do sleep 1; done")
    assert heard(helper, 1) == ["ready"]
    helper.close()
    assert not os.path.exists(f"/proc/{helper.pid}")
    helper.close()  # a second time is no error


def test_it_gets_the_descriptors_it_is_given_and_no_others(shell, tmp_path):
    with open(tmp_path / "kept", "w") as kept, open(tmp_path / "other", "w") as other:
        os.set_inheritable(other.fileno(), False)
        helper = start("x", ["/bin/ls", "-l", "/proc/self/fd"], [kept.fileno()])
        helper.has_ended(PATIENCE)
        said = "\n".join(helper.read())
        helper.close()
    assert str(tmp_path / "kept") in said
    assert str(tmp_path / "other") not in said


@pytest.mark.parametrize(("death", "trapped"), [(signal.SIGKILL, ""), (signal.SIGTERM, "exit 0")])
def test_it_dies_with_whoever_started_it(tmp_path, death, trapped):
    pidfile = tmp_path / "pid"
    supervisor = os.fork()
    if supervisor == 0:
        script = (
            f"trap '{trapped}' TERM; echo $$ > {pidfile}.new; mv {pidfile}.new {pidfile}; sleep 30 & wait"
        )
        start("x", ["/bin/sh", "-c", script], (), death=death)
        time.sleep(30)
        os._exit(0)
    while not pidfile.exists():
        time.sleep(0.01)
    helper = int(pidfile.read_text())
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    deadline = time.monotonic() + PATIENCE
    while _runs(helper) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(helper)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_preparation_that_fails_keeps_the_program_from_running(tmp_path):
    def refuse() -> None:
        raise OSError(38, "no")

    with pytest.raises(HostError, match="cannot be confined as it should be: Function not implemented"):
        start("x", ["/bin/sh", "-c", f"touch {tmp_path}/ran"], (), prepare=refuse)
    assert not (tmp_path / "ran").exists()


def _has_landlock() -> bool:
    """Asked in a child: the answer confines."""
    pid = os.fork()
    if pid == 0:
        os._exit(lib.vmrun_weaken(0) or lib.vmrun_open_only([], 0, [], 0))
    return os.waitpid(pid, 0)[1] == 0


def test_a_confined_program_opens_its_files_and_the_systems_and_nothing_else(tmp_path):
    """device-bugs 18: whatever an image makes the daemon do, no other file of the user's is within reach."""
    assert _has_landlock(), "this kernel has no Landlock, so what it does cannot be tested here"
    secret, image = tmp_path / "secret", tmp_path / "image"
    secret.write_text("secret\n")
    image.write_text("image\n")
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    script = (
        f"echo before; cat {secret}; echo x > {tmp_path}/new; echo x >> {secret}; cat /proc/self/fd/{fd}; "
        f"echo more >> /proc/self/fd/{fd}; rm {secret}; mv {image} {tmp_path}/moved; echo after"
    )
    helper = start("x", ["/bin/sh", "-c", script], [fd], prepare=lambda: confine("/bin/sh", [fd]))
    helper.has_ended(PATIENCE)
    said = helper.read()
    helper.close()
    assert said[0] == "before"
    assert "image" in said
    assert "secret" not in said
    assert said[-1] == "after"
    assert image.read_text() == "image\nmore\n"
    assert secret.read_text() == "secret\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image", "secret"]


def test_a_confined_program_has_no_privileges_to_gain():
    words = ["/bin/cat", "/proc/self/status"]
    helper = start("x", words, (), prepare=lambda: lib.vmrun_weaken(1 << 1) and None)
    helper.has_ended(PATIENCE)
    told = dict(line.split(":", 1) for line in helper_lines(helper) if ":" in line)
    assert told["NoNewPrivs"].strip() == "1"
    assert int(told["CapBnd"], 16) in (0, 1 << 1)
    assert int(told["CapEff"], 16) in (0, 1 << 1)


def helper_lines(helper: Helper) -> list[str]:
    """All that it said, without the limit that is for people."""
    data = os.read(helper.errors, 1 << 16).decode()
    helper.close()
    return data.splitlines()
