"""Kernels: from what the definition says to a file on this host, with its modules.

A kernel from a package is unpacked into the cache once, under the SHA-256 of the package;
which package a name stood for is remembered, so that the next run asks nobody.
"""

from __future__ import annotations

import os
import struct

from runner.artifacts import deb
from runner.artifacts.cache import Cache, Tell, silent
from runner.definition.model import KernelDeb, KernelFile, KernelSource, KernelUrl
from runner.errors import DefinitionError, HostError, HostIoError
from runner.typed import Callable, NamedTuple

_KIND_DEB = "kernels"  # cache entries: vmlinuz, lib/modules/<release>, about
_KIND_URL = "downloads"  # cache entries: the file itself
_PACKAGE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+-.")
_VERSION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.:~")


Obtain = Callable[[str], str]


class KernelArtifact(NamedTuple):
    """A kernel on this host."""

    path: str  # bzImage or ELF vmlinux
    modules_dir: str | None  # …/lib/modules/<release>
    release: str  # as uname -r prints it in the guest; "" when the file does not say
    digest: str  # SHA-256 of the file, hex
    description: str  # which one was taken, for people
    inputs: tuple[str, ...] = ()  # files outside the cache that decided this
    notes: tuple[str, ...] = ()  # cache notes that decided this


def fetch_kernel(
    source: KernelSource, cache: Cache, *, refresh: bool = False, tell: Tell = silent
) -> KernelArtifact:
    """The kernel ``source`` names.  ``refresh``: ask apt anew what a package name stands for.

    Raises HostError where it cannot be had, and says what to do.
    """
    if isinstance(source, KernelFile):
        return _from_file(source)
    if isinstance(source, KernelDeb):
        return _from_name(source, cache, refresh, tell)
    return _from_url(source, cache, tell)


def bootable(
    kernel: KernelArtifact, cache: Cache, revision: int, tell: Tell = silent
) -> tuple[str, bool, tuple[str, ...]]:
    """What to boot: the uncompressed vmlinux of a bzImage, so that the guest need not unpack itself.

    Also whether that will hold another time (a missing decompressor may be installed), and
    what to say.  The kernel as given is the fallback.
    """
    image = _read(kernel.path, kernel.path)
    if image[:4] == b"\x7fELF":
        return kernel.path, True, ()

    def make(path: str) -> None:
        from runner.artifacts.vmlinux import extract_vmlinux

        data = extract_vmlinux(image)
        with open(path, "wb") as file:
            file.write(data)

    try:
        return cache.build("vmlinux", f"{kernel.digest}-{revision}", make, tell), True, ()
    except HostIoError:
        raise  # no room for it: said now, and not when it is too late
    except HostError as error:
        return kernel.path, False, (f"the kernel is booted compressed, as given: {error} ({error.hint})",)
    except ValueError as error:
        return kernel.path, True, (f"the kernel is booted compressed, as given: {error}",)


def kernel_release(image: bytes) -> str | None:
    """What the kernel calls itself, "" if it does not say, None when ``image`` is no x86 kernel.

    bzImage: Documentation/arch/x86/boot.rst, field kernel_version.  ELF: the banner in its data.
    """
    if image[:4] == b"\x7fELF":
        _, found, rest = image.partition(b"Linux version ")
        return _first_word(rest[:128]) if found else ""
    if image[0x202:0x206] != b"HdrS" or image[0x1FE:0x200] != b"\x55\xaa":
        return None
    (pointer,) = struct.unpack_from("<H", image, 0x20E)
    return _first_word(image[0x200 + pointer : 0x200 + pointer + 128]) if pointer else ""


def _first_word(raw: bytes) -> str:
    words = raw.split(b"\0", 1)[0].split()
    return words[0].decode("ascii", "replace") if words else ""


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise HostIoError(f"{what} cannot be read: {error.strerror}") from error


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _from_file(source: KernelFile) -> KernelArtifact:
    path, text = source.path.resolved, source.path.text
    image = _read(path, f"the kernel {text}")
    release = kernel_release(image)
    if release is None:
        raise DefinitionError(
            f"{text} is no kernel: neither a bzImage nor an ELF vmlinux (it starts with {image[:4].hex(' ')})"
        )
    modules = _modules_near(path, release)
    inputs = (path,) if modules is None else (path, os.path.join(modules, "modules.dep"))
    return KernelArtifact(path, modules, release, _sha256(image), _described(text, release), inputs)


def _described(words: str, release: str) -> str:
    return f"{words} ({release or 'release unknown'})"


def _modules_near(path: str, release: str) -> str | None:
    """Beside the kernel (an unpacked package), else where the host keeps its own."""
    if not release or "/" in release:
        return None
    folder = os.path.dirname(path)
    for base in (folder, os.path.dirname(folder), "/"):
        candidate = os.path.join(base, "lib/modules", release)
        if os.path.isdir(candidate):
            return candidate
    return None


def _from_url(source: KernelUrl, cache: Cache, tell: Tell) -> KernelArtifact:
    key = source.sha256.lower()
    if len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise DefinitionError(f"sha256 of {source.url} is not 64 hexadecimal digits: {source.sha256!r}")

    def make(path: str) -> None:
        from runner.artifacts.url import download

        download(source.url, key, path, tell)

    path = cache.build(_KIND_URL, key, make, tell)
    image = _read(path, f"{source.url} in the cache")
    if _sha256(image) != key:
        tell(f"{path} is damaged; fetching it again")
        cache.discard(_KIND_URL, key)
        path = cache.build(_KIND_URL, key, make, tell)
        image = _read(path, f"{source.url} in the cache")
    if image.startswith(b"!<arch>\n"):
        return _unpacked(cache, key, lambda _folder: path, source.url, tell)
    release = kernel_release(image)
    if release is None:
        raise DefinitionError(
            f"{source.url} is no kernel: neither a bzImage nor an ELF vmlinux nor a Debian package"
        )
    return KernelArtifact(path, None, release, key, _described(source.url, release))


def _from_name(source: KernelDeb, cache: Cache, refresh: bool, tell: Tell) -> KernelArtifact:
    _check_name(source)
    note = f"package-{source.package}" + (f"={source.version}" if source.version else "")
    remembered = None if refresh else _recall(cache.note(note))
    if remembered is None:
        package, since = deb.resolve_kernel(source.package, source.version), _today()
        cache.keep_note(note, "\n".join((package.name, package.version, package.sha256, since, "")))
    else:
        package, since = remembered
    asked = source.package if package.name == source.package else f"{source.package} → {package.name}"
    description = f"{asked} {package.version}" + ("" if source.version else f" (as of {since})")
    kernel = _unpacked(
        cache, package.sha256, lambda folder: deb.download(package, folder, tell), description, tell
    )
    return kernel._replace(notes=(note,))


def _check_name(source: KernelDeb) -> None:
    """Debian policy 5.6.7 and 5.6.12; so a name is never an option of apt's nor a path."""
    name, version = source.package, source.version
    if len(name) < 2 or set(name) - _PACKAGE_CHARACTERS or not name[0].isalnum():
        raise DefinitionError(f"{name!r} is not a name that a Debian package can have")
    if version is not None and (not version[:1].isalnum() or set(version) - _VERSION_CHARACTERS):
        raise DefinitionError(f"{version!r} is not a version that a Debian package can have")


def _recall(note: str | None) -> tuple[deb.Package, str] | None:
    lines = (note or "").split("\n")
    if len(lines) != 5 or len(lines[2]) != 64:
        return None
    return deb.Package(lines[0], lines[1], lines[2]), lines[3]


def _today() -> str:
    import time

    return time.strftime("%Y-%m-%d", time.gmtime())


def _unpacked(cache: Cache, key: str, obtain: Obtain, description: str, tell: Tell) -> KernelArtifact:
    """The entry of a kernel package; ``obtain(folder)`` gives the .deb when it has to be made."""

    def make(folder: str) -> None:
        os.makedirs(folder)
        fetched = obtain(folder)
        _unpack_kernel(fetched, folder, description, tell)
        if os.path.dirname(fetched) == folder:
            os.unlink(fetched)

    for _ in range(2):
        entry = cache.build(_KIND_DEB, key, make, tell)
        release, digest = _read(os.path.join(entry, "about"), entry).decode().split("\n")[:2]
        path = os.path.join(entry, "vmlinuz")
        if _sha256(_read(path, path)) == digest:
            modules = os.path.join(entry, "lib/modules", release)
            return KernelArtifact(
                path, modules if os.path.isdir(modules) else None, release, digest, description
            )
        tell(f"{entry} is damaged; making it again")
        cache.discard(_KIND_DEB, key)
    raise HostError(f"{path} differs from what was written there a moment ago", hint="check the disk")


def _unpack_kernel(fetched: str, folder: str, description: str, tell: Tell) -> None:
    """vmlinuz and lib/modules/<release>, the index of the modules, and what was unpacked."""
    import shutil

    from runner.artifacts import modules

    def place(member: str) -> str | None:
        if member.startswith("boot/vmlinuz-"):
            return "vmlinuz"
        return member if member.startswith("lib/modules/") else None

    tell(f"unpacking {description}")
    filled = deb.unpack(fetched, folder, place)
    if "vmlinuz" not in filled:
        raise HostError(f"{description} holds no kernel (no boot/vmlinuz-*)")
    image = _read(os.path.join(folder, "vmlinuz"), description)
    release = kernel_release(image)
    if not release or "/" in release:
        raise HostError(f"boot/vmlinuz of {description} is not a bzImage that says its release")
    has_modules = os.path.isdir(os.path.join(folder, "lib/modules", release))
    if has_modules and shutil.which("depmod", path=modules.PATH):
        modules.index(folder, release)
    with open(os.path.join(folder, "about"), "w", encoding="utf-8") as file:
        file.write(f"{release}\n{_sha256(image)}\n{description}\n")
