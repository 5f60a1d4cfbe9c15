"""A machine that runs while tests ask it things: its shell is at a port of its virtio console."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

AGENT = """\
mkdir -p /dev/virtio-ports
named() {
  for each in /sys/class/virtio-ports/*/name; do
    [ -e "$each" ] && each=${each%/name} && ln -sf "/dev/${each##*/}" "/dev/virtio-ports/$(cat "$each/name")"
  done
}
until named; [ -e /dev/virtio-ports/agent ]; do sleep 0.1; done
exec 3<>/dev/virtio-ports/agent
while read -r number line <&3; do
  eval "$(echo "$line" | base64 -d)" >/said 2>&1 </dev/null
  status=$?
  cat /said >&3
  echo "$number-status-$status-end" >&3
done
"""
PORTS = """
[console]
ports = [{{ name = "agent", target = {{ socket = "agent.sock" }} }}{more}]
"""
START_SECONDS = 280


class Machine:
    """A run of ``vmrun`` from ``folder``; ended, if it still runs, at the end of ``with``.

    ``text`` is the definition less its console and its initramfs, whose modules and files are
    given beside; ``ports`` are more ports of the console, in TOML.
    """

    def __init__(
        self, folder: Path, text: str, *, name: str, engine: str, modules: tuple[str, ...],
        files: str = "", ports: str = "",
    ) -> None:  # fmt: skip
        self.folder, self.name = folder, name
        needed = json.dumps(["virtio_pci", "virtio_console", *modules])
        more = f", {ports}" if ports else ""
        tail = f"{PORTS.format(more=more)}\n[initramfs]\nmodules = {needed}\nrun = '''\n{AGENT}'''\n{files}"
        (folder / f"{name}.toml").write_text(text + tail)
        words = ["run", "--engine", engine, "--name", name, "--report", f"{name}.json", f"{name}.toml"]
        if engine == "qemu":
            words += ["--set", "accelerator=kvm"]
        self._said = (folder / f"{name}.said").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *words],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, env=_environment(),
        )  # fmt: skip
        self._socket = socket.socket(socket.AF_UNIX)
        self._asked = 0
        self._connect()
        self.sh("true", START_SECONDS)

    def _connect(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._socket.connect(os.path.relpath(self.folder / "agent.sock"))
            except OSError:
                assert self.process.poll() is None, f"it has ended:\n{self.said()}"
                assert time.monotonic() < deadline, f"nobody listens:\n{self.said()}"
                time.sleep(0.1)
            else:
                return

    def sh(self, script: str, seconds: float = 60) -> str:
        """What ``script`` prints in the guest; AssertionError when its status is not 0."""
        self.start(script)
        deadline = time.monotonic() + seconds
        got = b""
        mark = b"%d-status-" % self._asked
        while not (got.endswith(b"-end\n") and mark in got):
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self._socket.recv(1 << 16)
            except TimeoutError:
                piece = b""
            assert piece, f"no answer to {script!r}; so far:\n{got.decode(errors='replace')}\n{self.said()}"
            got += piece
        said, _, status = got.decode(errors="surrogateescape").rpartition(mark.decode())
        assert status == "0-end\n", f"{script}: status {status}\n{said}"
        return said

    def start(self, script: str) -> None:
        """As :meth:`sh`, for what ends the guest: nobody waits for the answer."""
        self._asked += 1
        self._socket.sendall(b"%d " % self._asked + base64.b64encode(script.encode()) + b"\n")

    def vmrun(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Another command of vmrun beside it."""
        return subprocess.run(
            [sys.executable, "-m", "runner.cli", *words],
            cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
            check=False, env=_environment(),
        )  # fmt: skip

    def vm_pid(self) -> int:
        """The process that has the guest's memory."""
        listed = json.loads(self.vmrun("ps", "--json").stdout)["machines"]
        return int(next(machine["vm_pid"] for machine in listed if machine["name"] == self.name))

    def said(self) -> str:
        """What vmrun and the guest's serial port have said so far."""
        return os.pread(self._said.fileno(), 1 << 20, 0).decode(errors="replace")

    def end(self, seconds: float = 60) -> tuple[int, dict[str, Any]]:
        """Status and report, once it has ended by itself."""
        status = self.process.wait(seconds)
        return status, json.loads((self.folder / f"{self.name}.json").read_text())

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        self._said.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH") or os.getcwd()}


def until(look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 30) -> Any:
    """What ``look`` finds, once it is good."""
    deadline = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss: +(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) << 10
