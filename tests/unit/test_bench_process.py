"""Programs under measurement: deadlines, endings, and that nothing is left behind."""

from __future__ import annotations

import time

import pytest

from bench.footprint import mappings
from bench.machines import Guest, Machine
from bench.process import Program, RunFailed, family, neutral
from bench.session import Bench


def test_a_marker_is_found_across_pieces_and_its_time_is_after_the_start() -> None:
    with Program(["sh", "-c", "printf 'one rea'; sleep 0.05; printf 'dy two'; exec sleep 60"]) as program:
        seen = program.wait_for(b"ready", 60)
        assert seen.offset == len(b"one ready")
        assert 0.04 < seen.seconds < 60


def test_a_program_that_says_nothing_fails_at_the_deadline() -> None:
    with Program(["sleep", "60"]) as program, pytest.raises(RunFailed, match="nothing by the deadline"):
        program.wait_for(b"ready", 0.05)


def test_an_early_end_fails_with_what_was_said_on_standard_error() -> None:
    words = ["sh", "-c", "echo no such kernel >&2"]
    with Program(words) as program, pytest.raises(RunFailed, match="no such kernel"):
        program.wait_for(b"ready", 60)


def test_the_end_is_waited_for_with_status_and_cpu_time() -> None:
    with Program(["sh", "-c", "exit 3"]) as program:
        assert 0 < program.finish(60) < 60
        assert program.status == 3
        assert program.cpu > 0


def test_what_a_guest_said_is_kept_and_the_guest_ended(tmp_path) -> None:
    machine = Machine("sh", lambda *_: ["sh", "-c", "echo $$; echo over; exec sleep 60"], "sh")
    bench = Bench(str(tmp_path / "results"), str(tmp_path), quick=True)
    said = bench.said(machine, Guest("guest", "", "", "", ""), b"over", 60)
    pid, marker = said.split()
    assert marker == b"over"
    assert _state(int(pid)) in ("", "Z")


def test_closing_ends_children_in_sessions_of_their_own() -> None:
    program = Program(["sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & wait"])
    program.wait_for(b"\n", 60)
    child = int(bytes(program.output))
    assert child in family(program.pid)
    program.close()
    until = time.monotonic() + 60
    while _state(child) not in ("", "Z") and time.monotonic() < until:
        time.sleep(0.01)
    assert _state(child) in ("", "Z")


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_nothing_that_bends_python_reaches_what_is_measured() -> None:
    assert neutral({"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_mappings_pair_each_size_with_its_share() -> None:
    first = "7f00-7f01 rw-p 0 00:00 0\nSize:  4 kB\nRss: 4 kB\nPss:  2 kB\nPss_Dirty: 9 kB\n"
    text = f"{first}Size: 262144 kB\nPss: 7 kB\n"
    assert list(mappings(text)) == [(4096, 2048), (256 << 20, 7168)]
