"""What a definition says about files of this host, held against them; nothing is changed.

A complaint here is about this host and this moment, so it names the file as it was looked
for.  Used by ``vmrun check``; a run meets the same faults when it opens the files.
"""

from __future__ import annotations

import os
import stat

from runner.definition.conform import HostPath
from runner.definition.findings import Complaint
from runner.definition.load import Inspection
from runner.host.check_images import check_image
from runner.host.check_initramfs import check_initramfs
from runner.host.check_kernel import check_affinity, check_kernel, check_memory, check_processors
from runner.typed import Any, Iterator

SOCKET_PATH = 107  # sizeof(sockaddr_un.sun_path) less its NUL, unix(7)


def check_files(inspection: Inspection) -> tuple[Complaint, ...]:
    """Every disagreement between the definition and what lies on this host."""
    found: list[Complaint] = []
    for host in (*inspection.host_paths, *_fetched_from_here(inspection.value)):
        found.extend(_check_path(host, inspection.value))
    found.extend(check_kernel(inspection.value, inspection.assembly.value))
    found.extend(check_initramfs(inspection.value))
    found.extend(check_memory(inspection.value))
    found.extend(check_processors(inspection.value))
    found.extend(check_affinity(inspection.value))
    return tuple(found)


def _fetched_from_here(value: Any) -> Iterator[HostPath]:
    """The kernel's address, where that is a file of this host (RFC 8089)."""
    kernel = value.get("kernel")
    url = str(kernel.get("url", "")) if isinstance(kernel, dict) else ""
    if url.startswith("file:///"):
        from urllib.parse import unquote

        yield HostPath(("kernel", "url"), "vm-file", url, unquote(url.removeprefix("file://")))


def _check_path(host: HostPath, value: Any) -> Iterator[Complaint]:
    match host.form:
        case "vm-output":
            yield from _check_output(host)
        case "vm-sysfs":
            if not os.path.exists(host.resolved):
                yield Complaint(
                    host.path,
                    "value",
                    "no-device",
                    "this host has no such PCI device",
                    "a device of this host",
                    host.resolved,
                    hint="`vmrun host list` shows them",
                    severity="warning",
                )
        case _:
            yield from _check_input(host, value)


def _check_input(host: HostPath, value: Any) -> Iterator[Complaint]:
    """Something that has to be there and be readable."""
    what = {"vm-directory": "directory", "vm-entry": "file or directory"}.get(host.form, "file")
    try:
        mode = os.stat(host.resolved).st_mode
    except OSError as error:
        yield _missing(host, what, error)
        return
    is_folder = stat.S_ISDIR(mode)
    if (what == "directory") != is_folder and host.form != "vm-entry":
        found = "a directory" if is_folder else "a file"
        yield Complaint(host.path, "value", "file-type", f"this is {found}", f"a {what}", host.resolved)
        return
    if not is_folder and not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        found = _special(mode)
        yield Complaint(host.path, "value", "file-type", f"this is {found}", "a file", host.resolved)
        return
    if not os.access(host.resolved, os.R_OK | (os.X_OK if is_folder else 0)):
        yield Complaint(
            host.path,
            "value",
            "permission",
            f"this user may not read the {what}",
            "permission to read",
            host.resolved,
            hint=f"ls -l {host.resolved}",
        )
        return
    yield from check_image(host, value)


def _special(mode: int) -> str:
    if stat.S_ISCHR(mode):
        return "a character device"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "neither a file nor a directory"


def _missing(host: HostPath, what: str, error: OSError) -> Complaint:
    """There is none: with the folder that is missing, or a name that is near."""
    folder, name = os.path.split(host.resolved)
    suggestion, hint = "", ""
    if isinstance(error, FileNotFoundError) and os.path.islink(host.resolved):
        message = f"this is a link to {os.readlink(host.resolved)}, which does not exist"
    elif isinstance(error, FileNotFoundError):
        message = f"there is no such {what}"
        if os.path.isdir(folder):
            suggestion = _near(folder, name, host)
            hint = "" if suggestion else f"{folder} has no `{name}`"
        else:
            hint = f"already {_first_missing(folder)} is missing"
    else:
        message = f"the {what} cannot be reached: {error.strerror}"
    quoted = f'"{suggestion}"' if suggestion else ""
    return Complaint(host.path, "value", "missing-file", message, f"a {what}", host.resolved, quoted, hint)


def _near(folder: str, name: str, host: HostPath) -> str:
    """A near name in the same folder, written as the definition wrote the path."""
    from runner.definition.words import closest

    try:
        near = closest(name, os.listdir(folder))
    except OSError:
        return ""
    return _like(host, near) if near else ""


def _like(host: HostPath, near: str) -> str:
    return os.path.join(os.path.dirname(host.text), near)


def _first_missing(folder: str) -> str:
    while not os.path.exists(os.path.dirname(folder)):
        folder = os.path.dirname(folder)
    return folder


def _check_output(host: HostPath) -> Iterator[Complaint]:
    """Something that a run makes: the folder is there and can be written, the path is no folder."""
    folder = os.path.dirname(host.resolved)
    if os.path.isdir(host.resolved):
        yield Complaint(
            host.path, "value", "file-type", "this is a directory", "a path to make", host.resolved
        )
    elif not os.path.isdir(folder):
        yield Complaint(
            host.path,
            "value",
            "missing-file",
            "there is no directory to make this in",
            "a path in a directory",
            host.resolved,
            hint=f"mkdir -p {folder}",
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Complaint(
            host.path,
            "value",
            "permission",
            "this user may not write into the directory",
            "permission to write",
            folder,
        )
    if host.path[-1] == "socket" and len(os.fsencode(host.resolved)) > SOCKET_PATH:
        yield Complaint(
            host.path,
            "value",
            "length",
            "the path is too long for a Unix socket",
            f"at most {SOCKET_PATH} bytes",
            f"{len(os.fsencode(host.resolved))} bytes: {host.resolved}",
        )
