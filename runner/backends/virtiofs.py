"""A folder of the host, served by virtiofsd.

There are two programs of this name: QEMU's own in C (up to 7.2, Debian 12's), and its
successor in Rust.  Both are given a listening socket, both confine themselves to the folder
by a mount namespace; their words differ.
"""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.errors import HostError, HostPermissionError
from runner.host import helper_process
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.backends.vhost_user import VhostUserQueues
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph

PROGRAM, PACKAGE = "virtiofsd", "qemu-system-common"


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Start virtiofsd for the folder."""
    from runner.backends.vhost_user import serve

    program = helper_process.find(PROGRAM, PACKAGE)
    path: Any = claim.options["path"]
    path = str(path["resolved"])
    readonly = bool(claim.options.get("readonly"))
    check_folder(path)
    make = rust_words if is_rust(program) else c_words
    if os.geteuid() and make is c_words:
        raise HostPermissionError(
            f"{claim.name}: this host's virtiofsd ({program}) runs as root only",
            hint='run as root, or install the virtiofsd written in Rust, or take driver = "9p"',
        )
    prepare = (lambda: helper_process.make_readonly(path)) if readonly else None
    kind = "read-only, " if readonly else ""
    taken = f"{claim.name}: {path} ({kind}by {PROGRAM})"
    return serve(claim.name, lambda listener: [program, *make(path, listener)], (), taken, prepare=prepare)


def check_folder(path: str) -> None:
    """virtiofsd's own words for a folder that is not there are many."""
    try:
        os.close(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(f"the folder {path} cannot be shared: {error.strerror}") from None


def is_rust(program: str) -> bool:
    """The successor says its name and version only; QEMU's says what it was built with."""
    import subprocess

    try:
        told = subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{program} cannot be asked for its version: {error}") from None
    return b"FUSE" not in told.stdout + told.stderr


def c_words(source: str, listener: int) -> list[str]:
    """QEMU's own (libfuse's options: a comma in a value is escaped)."""
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    options = f"source={escaped},sandbox=namespace,xattr,log_level=err"
    return ["-f", f"--fd={listener}", "-o", options]


def rust_words(source: str, listener: int) -> list[str]:
    """The successor."""
    return [
        "--fd", str(listener), "--shared-dir", source,
        "--sandbox", "namespace", "--xattr", "--log-level", "error",
    ]  # fmt: skip


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> VhostUserQueues:
    """The folder as the device sees it; tag and number of queues are the device's to say."""
    from runner.backends.vhost_user import VhostUserQueues

    return VhostUserQueues(claim.name, PROGRAM, resources.fds[claim.name], machine)
