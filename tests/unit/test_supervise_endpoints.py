"""Files, sockets and logs that consoles go to, with what is in their way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.backends import char
from runner.backends.log_file import LogFile
from runner.errors import HostError, HostIoError
from runner.host import unix_socket
from runner.supervisor.loop import Loop
from runner.supervisor.outlet import LIMIT


def silent(level: str, words: str) -> None:
    pass


def test_a_socket_that_a_killed_run_has_left_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    os.close(unix_socket.listen(path))
    endpoint = char.SocketEndpoint("serial", silent, path)
    assert unix_socket.is_live(path)
    endpoint.close()
    assert not os.path.exists(path)


def test_a_socket_on_which_somebody_listens_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = unix_socket.listen(path)
    with pytest.raises(HostError, match="somebody already listens"):
        char.SocketEndpoint("serial", silent, path)
    assert os.path.exists(path)
    os.close(listener)


def test_a_file_in_the_place_of_a_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(HostError, match="is no socket"):
        char.SocketEndpoint("serial", silent, str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_a_client_that_comes_later_takes_the_line_over(tmp_path: Path) -> None:
    path, loop, typed = str(tmp_path / "s"), Loop(), []
    endpoint = char.SocketEndpoint("serial", silent, path)
    endpoint.open(loop, typed.append)
    endpoint.want_input(True)
    endpoint.write(b"nobody hears this")
    first = unix_socket.connect(path)
    turn(loop)
    second = unix_socket.connect(path)
    turn(loop)
    endpoint.write(b"hello")
    assert os.read(second, 100) == b"hello"
    assert os.read(first, 100) == b""
    os.write(second, b"typed")
    turn(loop)
    assert typed == [b"typed"]
    endpoint.close()
    os.close(first)
    os.close(second)


def test_only_a_client_that_is_there_can_be_too_slow(tmp_path: Path) -> None:
    """Nobody misses what was said before a client came, or when it had gone."""
    path, loop = str(tmp_path / "s"), Loop()
    endpoint = char.SocketEndpoint("serial", silent, path)
    endpoint.open(loop, lambda data: None)
    endpoint.write(b"nobody hears this")
    client = unix_socket.connect(path)
    turn(loop)
    endpoint.write(b"x" * 100)
    assert endpoint.dropped == 0
    os.close(client)
    endpoint.write(b"it has just gone")
    endpoint.write(b"nobody hears this")
    assert endpoint.dropped == 0
    slow = unix_socket.connect(path)
    turn(loop)
    sent = 2 * LIMIT
    endpoint.write(b"y" * sent)
    endpoint.write(b"y" * sent)
    os.close(slow)
    turn(loop)
    endpoint.write(b"z")
    taken = 2 * sent - endpoint.dropped - LIMIT
    assert 0 < taken < sent
    endpoint.close()


def test_a_fifo_without_a_reader_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostIoError, match="No such device or address"):
        char.open_file("serial", str(tmp_path / "fifo"), silent)


def test_a_full_disk_costs_bytes_is_told_once_and_never_the_run() -> None:
    told: list[str] = []
    endpoint = char.open_file("serial", "/dev/full", lambda level, words: told.append(words))
    endpoint.open(Loop(), lambda data: None)
    endpoint.write(b"abc")
    endpoint.write(b"def")
    assert endpoint.dropped == 6
    assert len(told) == 1
    assert "No space left on device" in told[0]
    endpoint.close()


def test_a_link_to_a_pty_replaces_an_older_link_and_no_file(tmp_path: Path) -> None:
    link = tmp_path / "pty"
    link.symlink_to("/dev/pts/999999")
    endpoint = char.PtyEndpoint("serial", silent, str(link))
    assert os.readlink(link) == endpoint.path
    endpoint.close()
    assert not link.is_symlink()
    link.write_text("precious")
    with pytest.raises(HostIoError):
        char.PtyEndpoint("serial", silent, str(link))
    assert link.read_text() == "precious"


def test_a_log_keeps_the_last_bytes_and_at_most_twice_its_limit(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"), silent, limit=100)
    for number in range(100):
        log.write(b"%04d\n" % number)
    log.close()
    kept = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert kept.endswith(b"0098\n0099\n")
    assert len(kept) <= 205


def turn(loop: Loop) -> None:
    for _ in range(3):
        loop.after(0, lambda: None)
        loop.turn()
