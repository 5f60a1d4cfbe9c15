"""The cpio writer: what the kernel (and busybox's cpio) reads back is what was put in."""

from __future__ import annotations

import io
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.artifacts.cpio import Entry, Tree
from runner.errors import HostError, HostIoError

FILE = stat.S_IFREG | 0o644


def _bytes(tree: Tree) -> bytes:
    out = io.BytesIO()
    tree.write(out)
    return out.getvalue()


def _read(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    """A reader after buffer-format.rst: header of 13 hexadecimal fields, name, data, each padded to 4."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        start = at + 110
        name = data[start : start + fields[11] - 1].decode()
        start += fields[11] + -(110 + fields[11]) % 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields, data[start : start + fields[6]]
        at = start + fields[6] + -fields[6] % 4


names = st.text("abcdefgh-_.", min_size=1, max_size=9).filter(lambda name: name not in (".", ".."))


@given(st.dictionaries(names, st.binary(max_size=50), max_size=8))
def test_any_files_are_read_back(files: dict[str, bytes]) -> None:
    tree = Tree()
    for name, data in files.items():
        tree.add(f"/d/{name}", Entry(FILE, data))
    read = _read(_bytes(tree))
    assert {name[2:]: data for name, (_, data) in read.items() if name != "d"} == files
    numbers = [fields[0] for fields, _ in read.values()]
    assert len(set(numbers)) == len(numbers), "equal inode numbers would make hard links"


@given(st.permutations(["b", "a/x", "a", "c/d/e"]))
def test_the_order_of_adding_does_not_show(order: list[str]) -> None:
    def tree(names: list[str]) -> Tree:
        made = Tree()
        for name in names:
            made.add(name, Entry(stat.S_IFDIR | 0o755) if name == "a" else Entry(FILE, name.encode()))
        return made

    assert _bytes(tree(order)) == _bytes(tree(sorted(order)))


def test_headers_carry_no_host() -> None:
    """Owner root, time 0: the same tree gives the same bytes on every machine."""
    tree = Tree()
    tree.add("bin/x", Entry(stat.S_IFREG | 0o755, b"data"))
    tree.add("dev/console", Entry(stat.S_IFCHR | 0o600, device=(5, 1)))
    read = _read(_bytes(tree))
    assert list(read) == ["bin", "bin/x", "dev", "dev/console"]
    _, mode, uid, gid, links, mtime, size, _, _, major, minor, _, _ = read["dev/console"][0]
    assert (mode, uid, gid, links, mtime, size, major, minor) == (0o020600, 0, 0, 1, 0, 0, 5, 1)
    assert read["bin"][0][1:6] == [0o040755, 0, 0, 2, 0]
    assert len(_bytes(tree)) % 512 == 0


def test_cpio_unpacks_it(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.write_bytes(b"x" * 5001)
    tree = Tree()
    tree.add("/a/b/file", Entry(stat.S_IFREG | 0o640, source=str(host)))
    tree.add("/a/link", Entry(stat.S_IFLNK | 0o777, b"b/file"))
    into = tmp_path / "into"
    into.mkdir()
    subprocess.run(["busybox", "cpio", "-i"], input=_bytes(tree), cwd=into, check=True)
    assert (into / "a/link").read_bytes() == b"x" * 5001
    assert stat.S_IMODE((into / "a/b/file").stat().st_mode) == 0o640


@pytest.mark.parametrize("path", ["", "/", "../etc", "a/./b", "a/../../b", "a\0b", "x" * 5000])
def test_paths_that_lead_nowhere_or_outside_are_refused(path: str) -> None:
    with pytest.raises(HostError, match="not a path"):
        Tree().add(path, Entry(FILE))


def test_a_path_cannot_be_a_file_and_a_directory() -> None:
    tree = Tree()
    tree.add("/etc/x", Entry(FILE))
    with pytest.raises(HostError, match="/etc/x to be a file and, for /etc/x/y, a directory"):
        tree.add("/etc/x/y", Entry(FILE))
    with pytest.raises(HostError, match="a directory and a file at once"):
        tree.add("/etc", Entry(FILE))


def test_a_file_that_shrinks_while_it_is_copied_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree()
    tree.add("x", Entry(FILE, source="/proc/self/status"))  # states size 0 in stat(2): use a lying fstat

    class Lie:
        st_size = 1 << 20

    monkeypatch.setattr("os.fstat", lambda _descriptor: Lie)
    with pytest.raises(HostIoError, match="shorter"):
        _bytes(tree)


def test_a_member_of_4_gib_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    """c_filesize has eight hexadecimal digits; one byte more would wrap to nothing."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 32)
    tree = Tree()
    tree.add("big", Entry(FILE, source=str(big)))
    with pytest.raises(HostError, match="0x100000000 bytes"):
        _bytes(tree)


def test_an_unreadable_source_is_named(tmp_path: Path) -> None:
    tree = Tree()
    tree.add("x", Entry(FILE, source=str(tmp_path / "gone")))
    with pytest.raises(HostIoError, match=r"gone.*No such file"):
        _bytes(tree)
