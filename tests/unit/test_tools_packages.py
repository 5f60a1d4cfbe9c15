"""What is missing on a machine is installed where that may be done, and else named with the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BASICS = ("sh", "env", "cat", "command", "dirname", "test", "true")


@pytest.fixture
def machine(tmp_path):
    """A PATH with next to nothing in it; ``machine(name=script)`` adds programs and runs the tool."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASICS:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)

    def run(*sets: str, cwd: Path = CHECKOUT, **programs: str) -> subprocess.CompletedProcess[str]:
        for name, script in programs.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        words = [str(CHECKOUT / "tools/packages"), *sets]
        return subprocess.run(
            words, cwd=cwd, env={"PATH": str(folder)}, capture_output=True, text=True, check=False
        )

    return run


def test_without_root_the_exact_command_is_told(machine):
    told = machine("run", id="echo 1000", apt_get="echo must not run >&2; exit 9")
    assert told.returncode == 1
    command = next(line for line in told.stderr.splitlines() if "sudo" in line)
    assert "apt-get install" in command
    assert "qemu-system-x86" in command
    assert "busybox-static" in command
    assert "must not run" not in told.stderr


def test_elsewhere_than_on_debian_the_packages_are_named(machine):
    told = machine("run", id="echo 0")
    assert told.returncode == 1
    assert "qemu-system-x86 busybox-static" in told.stderr
    assert "apt-get" not in told.stderr


def test_root_on_debian_gets_them_and_a_failure_says_what_to_do(machine):
    told = machine("run", id="echo 0", apt_get='echo "asked: $*" >&2; exit 100')
    assert told.returncode == 1
    assert "asked: update" in told.stderr
    assert "by hand: apt-get update && apt-get install" in told.stderr


def test_an_installation_that_brings_nothing_is_no_success(machine):
    told = machine("run", id="echo 0", apt_get="exit 0")
    assert told.returncode == 1
    assert "still missing" in told.stderr


def test_nothing_is_said_where_nothing_is_missing(machine):
    told = machine(
        "test", iasl="", qemu_img="", qemu_storage_daemon="", xz="", fio="", passt="", iperf3="", ip="",
        losetup="", mke2fs="", dot="",
    )  # fmt: skip
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_where_it_is_called_from_makes_no_difference(machine, tmp_path):
    """Python is looked for by tools/python, which lies in the checkout."""
    told = machine("build", cwd=tmp_path, python3="", gcc="")
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_an_image_is_made_by_more_programs_where_nobody_is_root(machine):
    assert machine("image", id="echo 0", mmdebstrap="", mke2fs="").returncode == 0
    told = machine("image", id="echo 1000", mmdebstrap="", mke2fs="")
    assert "fakeroot uidmap" in told.stderr


def test_a_set_that_does_not_exist_is_a_mistake(machine):
    assert machine("everything").returncode == 64
