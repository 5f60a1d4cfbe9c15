"""Debian packages: which one a name stands for, fetching it, and taking files out of it.

apt is asked, since it knows the host's mirrors, proxies, credentials and keys: what
``apt-get download`` accepts has been checked against the signed index.  See decision 0020.
"""

from __future__ import annotations

import os
import stat

from runner.artifacts.cache import Tell
from runner.errors import HostError
from runner.typed import IO, Callable, NamedTuple

_ELSEWHERE = "or name the kernel by a path, or by { url = …, sha256 = … }"


class Package(NamedTuple):
    """One version of a package, as apt's index has it."""

    name: str
    version: str
    sha256: str  # of the .deb
    depends: tuple[tuple[str, str | None], ...] = ()  # (name, exact version or None)


def resolve(name: str, version: str | None) -> Package:
    """The package apt would take for ``name`` (``name=version``); nothing is fetched.

    Raises HostError: apt missing, no such package or version.
    """
    wanted = name if version is None else f"{name}={version}"
    shown = _apt("apt-cache", "show", "--no-all-versions", wanted)
    for paragraph in shown.stdout.split("\n\n"):
        fields = _fields(paragraph)
        if "SHA256" in fields:  # dpkg's own list of what is installed has none
            depends = _depends(fields.get("Depends", ""))
            return Package(fields["Package"], fields["Version"], fields["SHA256"], depends)
    raise _unknown(name, version)


def resolve_kernel(name: str, version: str | None) -> Package:
    """As :func:`resolve`, following a metapackage to the kernel it stands for.

    ``linux-image-cloud-amd64`` depends on ``linux-image-6.1.0-NN-cloud-amd64`` (= its version).
    """
    package = resolve(name, version)
    for _ in range(4):  # a metapackage may stand for another one
        following = [one for one in package.depends if one[0].startswith("linux-image-")]
        if not following:
            return package
        package = resolve(*following[0])
    raise HostError(f"the package {name} is a metapackage of metapackages without end")


def download(package: Package, folder: str, tell: Tell) -> str:
    """Fetch the .deb into ``folder`` and check it against the index; returns its path."""
    import hashlib

    tell(f"fetching {package.name} {package.version}")
    done = _apt("apt-get", "-q", *_sandbox(), "download", f"{package.name}={package.version}", cwd=folder)
    files = [entry for entry in os.listdir(folder) if entry.endswith(".deb")]
    if done.returncode != 0 or len(files) != 1:
        raise _failed_download(package, done.stderr)
    path = os.path.join(folder, files[0])
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise HostError(
            f"{package.name} {package.version} came with SHA-256 {found}, apt's index says {package.sha256}",
            hint="apt-get update, then try again",
        )
    return path


def unpack(deb: str, into: str, place: Callable[[str], str | None]) -> tuple[str, ...]:
    """Copy members of a .deb below ``into``; returns the places that were filled, sorted.

    ``place`` maps a member's path ("boot/vmlinuz-6.1") to a relative path, or None to leave
    it out.  Only regular files are taken, so that nothing can lead outside ``into``.
    """
    import subprocess
    import tarfile

    filled = []
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise HostError(
            f"{deb} is a Debian package, and dpkg-deb, which opens it, is not installed", hint="install dpkg"
        ) from error
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    target = place(_member_path(member.name)) if member.isreg() else None
                    source = archive.extractfile(member) if target is not None else None
                    if target is not None and source is not None:
                        _write_member(os.path.join(into, target), source, member.mode)
                        filled.append(target)
        except tarfile.TarError as error:
            raise _broken(deb, process.stderr.read()) from error
        said = process.stderr.read()
    if process.returncode != 0:
        raise _broken(deb, said)
    return tuple(sorted(filled))


def _write_member(path: str, source: IO[bytes], mode: int) -> None:
    import shutil

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    os.chmod(path, stat.S_IMODE(mode) & 0o755 | 0o400)


def _member_path(name: str) -> str:
    """Without "./"; where /lib is a link to /usr/lib, packages say usr/lib and mean lib."""
    path = name.removeprefix("./")
    path = path.removeprefix("usr/") if path.startswith(("usr/lib/modules/", "usr/bin/")) else path
    return "" if ".." in path.split("/") or path.startswith("/") else path


def _broken(deb: str, said: bytes) -> HostError:
    words = said.decode(errors="replace").strip() or "not a Debian package, or cut short"
    return HostError(f"{deb} cannot be unpacked: {words}")


class _Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def _apt(*command: str, cwd: str | None = None) -> _Done:
    import subprocess

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except FileNotFoundError as error:
        raise HostError(
            f"a Debian package is fetched with apt, and {command[0]} is not installed here",
            hint=f"run on a Debian or Ubuntu host, {_ELSEWHERE}",
        ) from error
    return _Done(done.returncode, done.stdout, done.stderr)


def _sandbox() -> tuple[str, ...]:
    """As root apt fetches as user _apt, who may not write into our private folder."""
    return ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()


def _fields(paragraph: str) -> dict[str, str]:
    """One paragraph of a control file (Debian policy 5.1); continuation lines are left out."""
    lines = (line.partition(":") for line in paragraph.splitlines() if line[:1] not in (" ", "\t", ""))
    return {key: value.strip() for key, _, value in lines}


def _depends(text: str) -> tuple[tuple[str, str | None], ...]:
    """``a (= 1), b | c (>= 2)``: of alternatives the first; only an exact version is kept."""
    found: list[tuple[str, str | None]] = []
    for clause in filter(None, (part.split("|")[0].strip() for part in text.split(","))):
        name, _, relation = clause.partition(" ")
        operator, _, version = relation.strip("() ").partition(" ")
        found.append((name.partition(":")[0], version.strip() if operator == "=" else None))
    return tuple(found)


def _unknown(name: str, version: str | None) -> HostError:
    """No such package, or no such version of it."""
    if version is not None:
        rows = _apt("apt-cache", "madison", name).stdout.splitlines()
        versions = list(dict.fromkeys(row.split("|")[1].strip() for row in rows if row.count("|") >= 2))
        if versions:
            return HostError(
                f"apt has no version {version} of {name}; it has {', '.join(versions)}",
                hint=f"old versions are kept at snapshot.debian.org: take one of these, {_ELSEWHERE}",
            )
    import difflib

    names = _apt("apt-cache", "pkgnames", "linux-image-").stdout.split()
    near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return HostError(
        f"apt knows no package {name}", hint=f"{meant}If the name is right: apt-get update, {_ELSEWHERE}"
    )


def _failed_download(package: Package, said: str) -> HostError:
    lines = [line[3:] for line in said.splitlines() if line.startswith("E: ")]
    words = "; ".join(dict.fromkeys(lines)) or said.strip() or "apt-get gave no reason"
    if any(sign in words for sign in ("404", "Hash Sum", "Size mismatch")):
        hint = "apt's index is older than the mirror: apt-get update, then try again"
    else:
        hint = f"it is fetched once and then kept: try again with a network, {_ELSEWHERE}"
    return HostError(f"{package.name} {package.version} cannot be fetched: {words}", hint=hint)
