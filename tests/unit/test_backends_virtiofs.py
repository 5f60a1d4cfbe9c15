"""virtiofsd: which of the two it is, its words, and what is told when it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runner.backends import virtiofs
from runner.errors import HostError, HostPermissionError
from runner.graph.model import BackendClaim


def claim(path: Path, **options: Any) -> BackendClaim:
    return BackendClaim("fs.src", "virtiofs", {"path": {"text": path.name, "resolved": str(path)}, **options})


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``program(version)`` is a virtiofsd that says this of itself."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(version: str) -> str:
        path = tmp_path / "virtiofsd"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "{version}"; exit; }}\necho "$@" >&2; exit 9\n'
        )
        path.chmod(0o755)
        return str(path)

    return write


QEMUS, SUCCESSOR = "virtiofsd version 7.2.22\nusing FUSE kernel interface version 7.36", "virtiofsd 1.13.0"


def test_the_two_programs_of_this_name_are_told_apart(program: Any) -> None:
    assert not virtiofs.is_rust(program(QEMUS))
    assert virtiofs.is_rust(program(SUCCESSOR))


def test_a_comma_in_the_folders_name_is_no_option_for_qemus() -> None:
    """A folder named `a,sandbox=none` must not switch the sandbox off."""
    words = virtiofs.c_words("/a,sandbox=none\\", 7)
    assert words == [
        "-f",
        "--fd=7",
        "-o",
        "source=/a\\,sandbox=none\\\\,sandbox=namespace,xattr,log_level=err",
    ]


def test_the_successor_gets_the_folder_as_a_word_of_its_own(program: Any, tmp_path: Path) -> None:
    program(SUCCESSOR)
    with pytest.raises(HostError) as raised:
        virtiofs.open_host(claim(tmp_path), None)  # type: ignore[arg-type]
    assert "virtiofsd exited with 9" in str(raised.value)
    assert f"--shared-dir {tmp_path} --sandbox namespace" in str(raised.value)


def test_qemus_runs_as_root_only_and_says_so_before_it_tries(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(QEMUS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostPermissionError, match="runs as root only"):
        virtiofs.open_host(claim(tmp_path), None)  # type: ignore[arg-type]


def test_a_folder_that_is_not_there_is_named(program: Any, tmp_path: Path) -> None:
    program(QEMUS)
    with pytest.raises(HostError, match=r"gone cannot be shared: No such file"):
        virtiofs.open_host(claim(tmp_path / "gone"), None)  # type: ignore[arg-type]


def test_a_missing_virtiofsd_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("runner.host.helper_process.FOLDERS", ())
    with pytest.raises(HostError) as raised:
        virtiofs.open_host(claim(tmp_path), None)  # type: ignore[arg-type]
    assert raised.value.hint == "apt-get install --no-install-recommends qemu-system-common"
