"""The bench's guests: their definitions as vmrun reads them, and the files that all monitors boot."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from bench.machines import Guest, definition
from bench.process import RunFailed


def work(name: str, run: str, **facts: Any) -> Guest:
    """A guest that does ``run``.  vmrun's own cache has its kernel and initramfs, or gets them now.

    Raises RunFailed.
    """
    from runner.artifacts.prepare import fetch
    from runner.definition.load import load
    from runner.errors import VmrunError
    from runner.graph.model import Boot

    guest = Guest(name, run, "", "", "", **facts)
    with tempfile.TemporaryDirectory(prefix="vmrun-bench-") as folder:
        path = os.path.join(folder, f"{name}.toml")
        with open(path, "w") as file:
            file.write(definition(guest._replace(disk="", tap="")))
        try:
            read = load(path, ())
            files = fetch(Boot(kernel=read.kernel, initramfs=read.initramfs, cmdline=read.cmdline))
        except VmrunError as error:
            raise RunFailed(f"the guest `{name}` cannot be made: {error}") from None
    return guest._replace(
        kernel=files.kernel, kernel_given=files.kernel_given, initramfs=files.initramfs or ""
    )
