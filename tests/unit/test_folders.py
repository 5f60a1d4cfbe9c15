"""Where things are kept, and what is believed of a folder: one rule for cache, registry, logs, journals."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import folders
from runner.artifacts import cache
from runner.backends.log_file import log_path
from runner.errors import VmrunError
from runner.host.passthrough.state import ensure_folder, state_folder
from runner.supervisor.registry import runtime_folder


def journals() -> str:
    return state_folder(euid=1000)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("XDG_STATE_HOME", journals),
        ("XDG_STATE_HOME", lambda: log_path("box", "console.log")),
        ("XDG_CACHE_HOME", cache.cache_root),
        ("XDG_RUNTIME_DIR", runtime_folder),
    ],
)
def test_a_relative_xdg_directory_is_ignored_everywhere(
    variable: str, place: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its specification says: what is kept would otherwise depend on where vmrun was called."""
    for name in ("VMRUN_STATE_DIR", "VMRUN_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here")
    assert os.path.isabs(place())
    assert "here" not in place()
    assert not (tmp_path / "here").exists()
    absolute = tmp_path / "there"
    absolute.mkdir(mode=0o700)
    monkeypatch.setenv(variable, str(absolute))
    assert place().startswith(f"{absolute}/vmrun")


def linked(folder: Path) -> None:
    (folder.parent / "real").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "real")


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o720)


def a_file(folder: Path) -> None:
    folder.write_text("")


PLANTED = pytest.mark.parametrize("plant", [linked, open_to_others, a_file])


@PLANTED
def test_only_a_real_folder_that_nobody_else_can_write_is_ours_alone(
    plant: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a link, nor one of another user's, nor an open one."""
    plant(tmp_path / "x")
    (tmp_path / "ours").mkdir(mode=0o750)
    assert not folders.is_ours_alone(str(tmp_path / "x"))
    assert not folders.is_ours_alone(str(tmp_path / "none"))
    assert folders.is_ours_alone(str(tmp_path / "ours"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not folders.is_ours_alone(str(tmp_path / "ours"))


@PLANTED
@pytest.mark.parametrize("keeper", ["journals", "registry", "cache"])
def test_what_somebody_planted_is_not_believed(
    keeper: str, plant: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journals become writes to sysfs, the registry signals, the cache kernels: each asks the same."""
    place = tmp_path / "vmrun"
    plant(place)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_writable", lambda root: False)
    ask: dict[str, Callable[[], object]] = {
        "journals": lambda: ensure_folder(str(place)),
        "registry": runtime_folder,
        "cache": lambda: cache.Cache(str(tmp_path / "cache"), str(place)).write_root,
    }
    with pytest.raises(VmrunError, match=str(place)):
        ask[keeper]()
