"""Which shared libraries a program needs, as its own interpreter lists them.

``ld.so --list`` (ld.so(8)) maps the objects and prints where it found each, without running
any of their code: it knows the search rules (cache, RUNPATH, multiarch) better than we could.
The interpreter is named by the program, so it is only started from a system directory.
"""

from __future__ import annotations

import os

from runner.artifacts.elf import EM_X86_64, read_program
from runner.errors import HostError

_SYSTEM = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
STANDARD_FOLDERS = tuple(
    base + triplet for base in ("/lib", "/usr/lib") for triplet in ("", "64", "/x86_64-linux-gnu")
)
"""Where Debian's ld.so looks without being told."""


def needed_files(program: str) -> tuple[str, ...]:
    """Paths of the interpreter and all libraries of ``program``; () for a static one or no ELF.

    Raises HostError naming the library that is missing.
    """
    try:
        found = read_program(program)
    except OSError as error:
        raise HostError(f"{program}, wanted in the initramfs, cannot be read: {error.strerror}") from error
    if found is None or found.interpreter is None:
        return ()
    if found.machine != EM_X86_64:
        raise HostError(
            f"{program} is for another machine (ELF e_machine {found.machine:#x}) than x86-64, the guest's"
        )
    return (found.interpreter, *parse_listing(program, _list(program, _checked(program, found.interpreter))))


def _checked(program: str, interpreter: str) -> str:
    name = os.path.basename(interpreter)
    if not interpreter.startswith(_SYSTEM) or ".." in interpreter or not name.startswith("ld"):
        raise HostError(
            f"{program} wants the interpreter {interpreter!r}, which is not the dynamic linker of a system"
            " directory, so its libraries are not looked up",
            hint="link it statically, or name its libraries in the files of the initramfs too",
        )
    return interpreter


def _list(program: str, interpreter: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            [interpreter, "--list", program],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
            env={key: value for key, value in os.environ.items() if not key.startswith("LD_")},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(
            f"the libraries of {program} cannot be listed: {interpreter} does not run here ({error})",
            hint="link it statically, or install what it is linked against",
        ) from error
    if done.returncode != 0 and "=>" not in done.stdout:
        raise HostError(f"the libraries of {program} cannot be listed: {done.stderr.strip() or interpreter}")
    return done.stdout


def parse_listing(program: str, listing: str) -> tuple[str, ...]:
    """Library paths in what ``ld.so --list`` prints: ``name => path (address)`` or ``path (address)``."""
    paths = []
    for line in listing.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        if arrow and place.startswith("not found"):
            raise HostError(
                f"{program} needs the library {name}, which this host does not have",
                hint="install it, or link the program statically",
            )
        path = (place if arrow else name).rsplit(" (0x", 1)[0]
        if path.startswith("/"):
            paths.append(path)
    return tuple(dict.fromkeys(paths))
