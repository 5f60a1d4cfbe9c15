"""tools/debian-image, without making one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TOOL = CHECKOUT / "tools/debian-image"


@pytest.fixture
def tool(tmp_path):
    """``tool(words…)`` runs it where mmdebstrap is not, with a kernel 6.1.0-1-test."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 6.1.0-1-test\n")
    python.chmod(0o755)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat", "dirname", "id"):
        (programs / name).symlink_to(shutil.which(name) or name)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(programs), "PYTHON": str(python), "HOME": str(tmp_path)}
        return subprocess.run([TOOL, *words], env=env, capture_output=True, text=True, check=False)

    return run


def _about(words: str) -> str:
    recipe = re.search(r"^RECIPE=(\d+)", TOOL.read_text(), re.M)
    packages = re.search(r"^PACKAGES=(\S+)", TOOL.read_text(), re.M)
    assert recipe
    assert packages
    return f"recipe {recipe[1]}, {packages[1]}{words}, Linux 6.1.0-1-test"


def test_its_place_is_where_the_definition_looks(tool, tmp_path):
    definition = tomllib.loads((CHECKOUT / "vms/debian.toml").read_text())
    image = Path(definition["disks"]["root"]["path"].replace("~", str(tmp_path)))
    image.parent.mkdir(parents=True)
    image.touch()
    Path(f"{image}.about").write_text(_about(""))
    assert tool().returncode == 0


def test_an_image_of_other_packages_or_another_kernel_is_made_again(tool, tmp_path):
    """And where it cannot be made, the command that installs what is missing is told."""
    image = tmp_path / "image"
    image.touch()
    for about in (_about(",fio").replace("6.1.0-1", "6.1.0-2"), _about("")):
        Path(f"{image}.about").write_text(about)
        told = tool("--with", "fio", str(image))
        assert (told.returncode, "apt-get install mmdebstrap" in told.stderr) == (1, True)
    Path(f"{image}.about").write_text(_about(",fio"))
    assert tool("--with", "fio", str(image)).returncode == 0


def test_it_is_a_program():
    assert os.access(TOOL, os.X_OK)
    subprocess.run(["sh", "-n", TOOL], check=True)
