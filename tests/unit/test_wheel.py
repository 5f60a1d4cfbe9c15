"""A wheel holds what it needs and nothing else: installed outside the checkout it does the same as in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[2]
MADE = (".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.o")
DEFINITION = str(CHECKOUT / "vms/hello.toml")
HOST = str(CHECKOUT / "tests/golden/hosts/laptop.json")


class Installed(NamedTuple):
    """The wheel, and the ``bin`` of the only environment that has it."""

    wheel: Path
    programs: Path


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the checkout, and of pip neither an index nor a build environment of its own."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    return {**ours, "XDG_CACHE_HOME": str(folder), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false"}


def _run(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(
        words, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """``make wheel`` in a clean copy that has been built from once, with a module that is gone since."""
    copy = tmp_path_factory.mktemp("wheel") / "vmrun"
    shutil.copytree(CHECKOUT, copy, symlinks=True, ignore=shutil.ignore_patterns(*MADE))
    left = copy / f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/runner/gone.py"
    for each in (left, copy / ".venv/runtime"):
        each.parent.mkdir(parents=True)
        each.touch()
    _run(copy, "make", "wheel", f"PYTHON_HERE={sys.executable}")
    (wheel,) = (copy / "dist").iterdir()
    environment = copy.parent / "environment"
    _run(copy, sys.executable, "-m", "venv", "--without-pip", environment)
    _run(copy, sys.executable, "-m", "pip", "--python", environment, "install", "-q", "--no-deps", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(wheel, environment / "bin")


def _files(folder: str, *patterns: str) -> set[str]:
    found = (path for pattern in patterns for path in (CHECKOUT / folder).rglob(pattern))
    return {str(path.relative_to(CHECKOUT)) for path in found}


def test_it_holds_the_package_its_schemas_and_the_compiled_part(installed: Installed) -> None:
    """And neither a test nor what an earlier build has left."""
    names = zipfile.ZipFile(installed.wheel).namelist()
    held = {name for name in names if not name.startswith("vmrun-")}
    schemas = {f"runner/{name}" for name in _files("schemas", "*.json")}
    sources = _files("runner", "*.py", "*.pyi", "py.typed", "*.c", "*.h", "*.cdef")
    assert held == schemas | sources | {"runner/host/native/_native.abi3.so"}


def test_one_wheel_is_for_every_python_that_is_new_enough(installed: Installed) -> None:
    assert installed.wheel.name.split("-")[2:4] == ["cp311", "abi3"]


def test_it_is_the_wheel_that_runs_and_not_the_checkout(installed: Installed, tmp_path: Path) -> None:
    where = _run(tmp_path, installed.programs / "python", "-c", "import runner; print(runner.__file__)")
    assert Path(where).is_relative_to(installed.programs.parent)


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("schema",),
        ("check", DEFINITION),
        ("plan", DEFINITION, "--host", HOST),
        ("plan", DEFINITION, "--host", HOST, "--json"),
        ("completion", "bash"),
    ],
    ids=lambda words: " ".join(word for word in words if "/" not in word),
)
def test_installed_it_says_what_the_checkout_says(
    installed: Installed, tmp_path: Path, words: tuple[str, ...]
) -> None:
    said = _run(tmp_path, installed.programs / "vmrun", *words)
    assert said == _run(CHECKOUT, sys.executable, "-m", "runner.cli", *words)


def test_its_compiled_part_calls_the_kernel(installed: Installed, tmp_path: Path) -> None:
    script = "from runner.host.kvm import cpu_brand; print(len(cpu_brand()))"
    assert _run(tmp_path, installed.programs / "python", "-c", script) == "3\n"
