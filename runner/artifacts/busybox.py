"""The static busybox that is the guest's first userland, and the commands it answers to."""

from __future__ import annotations

import os

from runner.artifacts import deb
from runner.artifacts.cache import Cache, Tell
from runner.artifacts.elf import EM_X86_64, read_program
from runner.artifacts.guest_init import NEEDED_APPLETS
from runner.definition.model import FilePath
from runner.errors import HostError

_HOST_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static")
_PACKAGE = "busybox-static"


def find(given: FilePath | None, cache: Cache, tell: Tell) -> str:
    """Path of a static x86-64 busybox: the given one, else the host's, else Debian's package."""
    if given is not None:
        fault = _fault(given.resolved)
        if fault:
            raise HostError(
                f"busybox = {given.text!r} cannot be used: {fault}", hint=f"apt-get install {_PACKAGE}"
            )
        return given.resolved
    for path in _HOST_PLACES:
        if not _fault(path):
            return path
    return _from_package(cache, tell)


def _fault(path: str) -> str:
    """Why the file is no static x86-64 program; "" when it is one."""
    try:
        program = read_program(path)
    except OSError as error:
        return error.strerror or str(error)
    if program is None:
        return "it is no 64-bit ELF program"
    if program.machine != EM_X86_64:
        return f"it is a program for another machine (ELF e_machine {program.machine:#x})"
    if program.interpreter is not None:
        return f"it is linked dynamically (its interpreter is {program.interpreter}); a static one is needed"
    return ""


def _from_package(cache: Cache, tell: Tell) -> str:
    remembered = cache.note(_PACKAGE)
    entry = cache.find("busybox", remembered) if remembered else None
    if entry is None:
        try:
            package = deb.resolve(_PACKAGE, None)
        except HostError as error:
            raise HostError(
                f"an initramfs needs a static busybox, and this host has none ({error})",
                hint=f"apt-get install {_PACKAGE}, or name one by busybox = …",
            ) from error

        def make(folder: str) -> None:
            os.makedirs(folder)
            fetched = deb.download(package, folder, tell)
            deb.unpack(fetched, folder, lambda member: "busybox" if member == "bin/busybox" else None)
            os.unlink(fetched)
            fault = _fault(os.path.join(folder, "busybox"))
            if fault:
                raise HostError(f"bin/busybox of {package.name} {package.version} cannot be used: {fault}")

        entry = cache.build("busybox", package.sha256, make, tell)
        cache.keep_note(_PACKAGE, package.sha256)
    return os.path.join(entry, "busybox")


def applets(path: str) -> tuple[str, ...]:
    """Where busybox wants its commands ("bin/sh", "sbin/modprobe"), as it lists them itself.

    Raises HostError when one is missing that the guest's init uses.
    """
    import subprocess

    try:
        done = subprocess.run([path, "--list-full"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{path} --list-full does not work: {error}") from error
    places = tuple(sorted(line.strip() for line in done.stdout.splitlines() if line.strip()))
    missing = NEEDED_APPLETS - {os.path.basename(place) for place in places}
    if missing:
        raise HostError(
            f"{path} lacks {', '.join(sorted(missing))}, which the guest's init needs",
            hint=f"apt-get install {_PACKAGE}",
        )
    return tuple(place for place in places if os.path.basename(place) not in ("busybox", "linuxrc", "init"))
