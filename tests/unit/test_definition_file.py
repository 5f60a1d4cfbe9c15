"""Files that are no definition at all: each is told in words and with its status, and none is waited for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runner.definition import file
from runner.definition.file import read_file
from runner.definition.load import inspect_bytes
from runner.errors import HostIoError, HostPermissionError, UsageError


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """As with vmrun check <(generate); the writer may come later, and in pieces."""
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.write(b"a" * 70_000)
            pipe.write(b"b")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_file(str(tmp_path / "pipe")) == b"a" * 70_000 + b"b"
    writer.join()


def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, with a sentence."""
    monkeypatch.setattr(file, "PATIENCE", 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="nobody writes"):
        read_file(str(tmp_path / "pipe"))


def test_what_has_no_end_is_given_up() -> None:
    """A definition has at most 16 MiB."""
    with pytest.raises(UsageError, match="larger than 16 MiB"):
        read_file("/dev/zero")


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """A dangling link is told with its target, a circle of links in the words of the system."""
    (tmp_path / "a.toml").symlink_to("/no/where")
    (tmp_path / "b.toml").symlink_to("b.toml")
    with pytest.raises(UsageError, match="link to /no/where"):
        read_file(str(tmp_path / "a.toml"))
    with pytest.raises(HostIoError, match="symbolic links"):
        read_file(str(tmp_path / "b.toml"))


def test_a_file_is_never_offered_instead_of_itself(tmp_path: Path) -> None:
    """A folder called vm.toml is no reason to suggest vm.toml."""
    (tmp_path / "vm.toml").mkdir()
    with pytest.raises(UsageError) as error:
        read_file(str(tmp_path / "vm.toml"))
    assert error.value.hint == ""


def test_permission_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 77, as the convention has it."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostPermissionError, match="may not read"):
        read_file("x.toml")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("# größe\ncpus = 0\n".encode("latin-1"), [(1, 5, "encoding"), (2, 8, "range")]),
        (b'kernel = "k"\r\nserial = "off"\r\nname = "\xed\xa0\x80"\r\n', [(3, 9, "encoding")]),
        (b'serial = "off"\nkernel = \xff\n# \xe8\xaa', [(2, 10, "encoding"), (3, 3, "encoding")]),
        ('kernel = "k"\n'.encode("utf-16"), [(1, 1, "encoding")]),
        (bytes(range(128, 256)) * 2, [(1, 1, "encoding")]),
    ],
)
def test_what_is_not_utf8_is_told_and_the_rest_checked(data: bytes, told: list[tuple[int, int, str]]) -> None:
    """Each stretch of foreign bytes at its place; what is no text at all in one sentence."""
    found = inspect_bytes(data, "x.toml").findings
    assert [(one.line, one.column, one.code) for one in found] == told
