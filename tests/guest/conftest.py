"""``vmrun`` as a user runs it, on stock kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HEAD = """\
kernel = {{ deb = "{deb}" }}
cmdline = "console=ttyS0 quiet {words}"
cpus = {cpus}
memory = "{memory}"
"""
SECONDS = 280


class Outcome(NamedTuple):
    """What a run of ``vmrun`` left behind."""

    status: int
    out: str
    err: str
    report: dict[str, Any]


def vmrun(*words: str, cwd: Path, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *words],
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def default_route() -> Iterator[None]:
    """What passt lends to its guest: an address and a route, which lead nowhere here."""
    for words in (
        "link add vmr0 type veth peer name vmr1", "addr add 10.66.0.9/24 dev vmr0", "link set vmr0 up",
        "link set vmr1 up", "route add default via 10.66.0.1 dev vmr0",
    ):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True)
    yield
    subprocess.run(["ip", "link", "del", "vmr0"], check=True)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """``run(script, modules=[…], more="[disks.a]…", cpus=…)`` boots on the kvm engine and reports."""

    def boot(
        script: str,
        *,
        modules: tuple[str, ...] = (),
        more: str = "",
        initramfs: str = "",
        deb: str = "linux-image-cloud-amd64",
        cpus: int = 1,
        memory: str = "256M",
        words: str = "",
        engine: str = "kvm",
        options: tuple[str, ...] = (),
    ) -> Outcome:
        head = HEAD.format(deb=deb, cpus=cpus, memory=memory, words=words)
        tail = f"{more}\n[initramfs]\nmodules = {json.dumps(list(modules))}\n"
        tail += f"run = '''\n{script}\n'''\n{initramfs}"
        (tmp_path / "vm.toml").write_text(f'timeout = "{SECONDS - 30}s"\n{head}{tail}')
        report = tmp_path / "report.json"
        ran = vmrun("run", "--engine", engine, "--report", str(report), *options, "vm.toml", cwd=tmp_path)
        told = json.loads(report.read_text()) if report.exists() else {}
        return Outcome(ran.returncode, ran.stdout, ran.stderr, told)

    return boot
