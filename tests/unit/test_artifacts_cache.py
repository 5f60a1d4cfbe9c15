"""The cache: complete entries or none, one maker at a time, still useful when read-only."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from runner.artifacts import cache as cache_module
from runner.artifacts.cache import Cache, cache_root
from runner.errors import HostError, HostIoError


def _write(path: str, data: bytes = b"made") -> None:
    with open(path, "wb") as file:
        file.write(data)


def test_place_follows_the_environment() -> None:
    """VMRUN_CACHE_DIR wins, then an absolute XDG_CACHE_HOME, then ~/.cache."""
    home = os.path.expanduser("~")
    assert cache_root({"VMRUN_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/c"}) == "/a/b"
    assert cache_root({"XDG_CACHE_HOME": "/c"}) == "/c/vmrun"
    assert cache_root({"XDG_CACHE_HOME": "relative"}) == f"{home}/.cache/vmrun"
    assert cache_root({}) == f"{home}/.cache/vmrun"


def test_an_entry_is_made_once_and_then_found(tmp_path: Path) -> None:
    cache, made = Cache(str(tmp_path / "c")), []

    def make(path: str) -> None:
        made.append(path)
        _write(path)

    first = cache.build("things", "k", make)
    assert cache.build("things", "k", make) == first == cache.find("things", "k")
    assert len(made) == 1
    assert Path(first).read_bytes() == b"made"
    assert os.listdir(tmp_path / "c/tmp") == []


def test_a_directory_can_be_an_entry(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))

    def make(path: str) -> None:
        os.makedirs(path + "/lib")
        _write(path + "/lib/x")

    assert os.listdir(cache.build("trees", "k", make)) == ["lib"]


def test_a_failed_maker_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))

    def make(path: str) -> None:
        _write(path)
        raise HostError("no")

    with pytest.raises(HostError, match="no"):
        cache.build("things", "k", make)
    assert cache.find("things", "k") is None
    assert os.listdir(tmp_path / "tmp") == []


def test_stored_bytes_are_named_by_their_hash(tmp_path: Path) -> None:
    path = Cache(str(tmp_path)).store("images", "n", lambda file: file.write(b"abc") and None, suffix=".cpio")
    assert os.path.basename(path) == hashlib.sha256(b"abc").hexdigest() + ".cpio"


def test_nothing_is_named_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rename(2) comes after the flush of the entry, the flush of the directory after it."""
    order: list[str] = []
    rename, fsync = os.rename, os.fsync

    def note_fsync(descriptor: int) -> None:
        order.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_rename(source: str, target: str) -> None:
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    Cache(str(tmp_path)).build("things", "k", _write)
    assert order == [f"fsync things-k.{os.getpid()}", "rename", "fsync things"]


def _slow_build(root: str, started: str, awaited: str, log: str) -> None:
    def make(path: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write("made\n")
        _write(path, b"half")
        Path(started).touch()
        _wait_for(Path(awaited))
        _write(path)

    Cache(root).build("things", "k", make)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_make_one_entry_once(tmp_path: Path) -> None:
    """The second waits for the first, says so, and takes what that one made."""
    started, awaited, log, said = tmp_path / "started", tmp_path / "awaited", tmp_path / "log", []
    process = multiprocessing.get_context("spawn").Process(
        target=_slow_build, args=(str(tmp_path / "c"), str(started), str(awaited), str(log))
    )
    process.start()
    _wait_for(started)
    cache = Cache(str(tmp_path / "c"))

    def hear(words: str) -> None:
        said.append(words)
        awaited.touch()

    found = cache.build("things", "k", lambda _path: pytest.fail("made twice"), hear)
    process.join()
    assert Path(found).read_bytes() == b"made"
    assert log.read_text() == "made\n"
    assert said
    assert "waiting" in said[0]


def test_a_killed_writer_leaves_neither_lock_nor_half_an_entry(tmp_path: Path) -> None:
    started = tmp_path / "started"
    names = ("c", "started", "never", "log")
    process = multiprocessing.get_context("spawn").Process(
        target=_slow_build, args=tuple(str(tmp_path / name) for name in names)
    )
    process.start()
    _wait_for(started)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache = Cache(str(tmp_path / "c"))
    assert cache.find("things", "k") is None
    assert os.listdir(tmp_path / "c/tmp"), "the leftover that the next writer has to sweep"
    assert Path(cache.build("things", "k", _write)).read_bytes() == b"made"
    assert os.listdir(tmp_path / "c/tmp") == []


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with one entry on what behaves as a read-only file system (root may write anywhere)."""
    root = str(tmp_path / "ro")
    Cache(root).build("things", "old", _write)
    Cache(root).keep_note("n", "old")
    access = os.access

    def read_only(path: str, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and path.startswith(root))

    monkeypatch.setattr(os, "access", read_only)
    return Cache(root, overlay=str(tmp_path / "overlay"))


def test_a_read_only_cache_is_read(read_only: Cache) -> None:
    assert read_only.read_only
    assert read_only.find("things", "old") == f"{read_only.root}/things/old"
    assert read_only.note("n") == "old"


def test_what_is_new_to_a_read_only_cache_goes_to_the_overlay(read_only: Cache, tmp_path: Path) -> None:
    path = read_only.build("things", "new", _write)
    read_only.keep_note("n", "newer")
    assert path == str(tmp_path / "overlay/things/new")
    assert read_only.note("n") == "newer"
    assert (tmp_path / "overlay").stat().st_mode & 0o777 == 0o700


def test_an_overlay_that_others_could_have_laid_is_refused(read_only: Cache, tmp_path: Path) -> None:
    """It is in /tmp: a directory others can write, or a link, would hand them our kernels."""
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay").chmod(0o777)
    with pytest.raises(HostError, match="only this user"):
        read_only.build("things", "new", _write)
    (tmp_path / "overlay").rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "overlay").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="only this user"):
        read_only.build("things", "new", _write)


def test_a_full_disk_is_told_with_the_place_and_the_way_out(tmp_path: Path) -> None:
    def make(path: str) -> None:
        raise OSError(28, "No space left on device", path)

    with pytest.raises(HostIoError, match=f"{tmp_path}.*No space left") as caught:
        Cache(str(tmp_path)).build("things", "k", make)
    assert "VMRUN_CACHE_DIR" in caught.value.hint


def test_without_file_locks_entries_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no flock: then makers race, and the first rename wins."""
    monkeypatch.setattr(cache_module, "_acquire", lambda *_: False)
    cache = Cache(str(tmp_path))

    def make(path: str) -> None:
        os.makedirs(path + "/mine")
        if not (tmp_path / "trees").exists():
            (tmp_path / "trees/k/theirs").mkdir(parents=True)

    assert os.listdir(cache.build("trees", "k", make)) == ["theirs"]


def test_a_damaged_entry_can_be_discarded(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.build("things", "k", _write)
    cache.discard("things", "k")
    assert cache.find("things", "k") is None
