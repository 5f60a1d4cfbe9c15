"""Made-up kernels, packages and a made-up apt, for the tests of the artifacts."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path


def bzimage(release: str = "6.1.0-99-cloud-amd64", size: int = 0x1000) -> bytes:
    """The first bytes of a bzImage as far as its release goes."""
    image = bytearray(size)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x400)
    banner = f"{release} (builder@host) #1 SMP\0".encode()
    image[0x600 : 0x600 + len(banner)] = banner
    return bytes(image)


def elf(interpreter: str | None = None, machine: int = 62, kind: int = 2, offset: int | None = None) -> bytes:
    """A 64-bit ELF header, one PT_LOAD and, with an interpreter, a PT_INTERP."""
    name = (interpreter or "").encode() + b"\0"
    place = 64 + 2 * 56 if offset is None else offset
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0x400000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 4096)
    segment = 4 if interpreter is None else 3  # PT_NOTE, PT_INTERP
    interp = struct.pack("<IIQQQQQQ", segment, 4, place, 0, 0, len(name), len(name), 1)
    return header + load + interp + name


def deb(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """A .deb with these files, made by dpkg-deb; uncompressed, since that is fast."""
    root = folder / f"{package}-root"
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    control = root / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nMaintainer: A <a@example.org>\n"
        "Description: sample\n"
    )
    target = folder / f"{package}_{version}_amd64.deb"
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", root, target]
    subprocess.run(command, check=True, capture_output=True)
    return target


class Apt:
    """apt-cache and apt-get as two shell scripts that serve from a folder and keep a log of calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.index = folder / "index"
        self.log = folder / "log"
        self.programs.mkdir(parents=True)
        self.index.mkdir()
        self.log.touch()
        self._script(
            "apt-cache",
            f"""
            case $1 in
            show) cat "{self.index}/$3" 2>/dev/null || {{ echo "E: No packages found" >&2; exit 100; }} ;;
            madison) cat "{self.index}/madison-$2" 2>/dev/null ;;
            pkgnames) ls "{self.index}" ;;
            esac
            """,
        )
        self._script(
            "apt-get",
            f"""
            for last; do :; done
            [ -e "{folder}/offline" ] && {{ echo "E: Temporary failure resolving 'deb'" >&2; exit 100; }}
            cp "{self.index}/$last.deb" ./
            """,
        )

    def _script(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{body}')
        path.chmod(0o755)

    def offer(self, package: str, version: str, depends: str = "", deb: Path | None = None) -> str:
        """Put a package into the index, as candidate and by version; returns its SHA-256."""
        digest = hashlib.sha256(deb.read_bytes()).hexdigest() if deb else "0" * 64
        text = f"Package: {package}\nVersion: {version}\n"
        text += f"Depends: {depends}\n" if depends else ""
        text += f"Description: sample\n more words: here\nSHA256: {digest}\n\n"
        (self.index / package).write_text(text)
        (self.index / f"{package}={version}").write_text(text)
        madison = self.index / f"madison-{package}"
        earlier = madison.read_text() if madison.exists() else ""
        madison.write_text(f"{package} | {version} | main amd64 Packages\n{earlier}")
        if deb:
            (self.index / f"{package}={version}.deb").write_bytes(deb.read_bytes())
        return digest

    def offline(self) -> None:
        """No network from now on."""
        (self.folder / "offline").touch()

    def calls(self) -> list[str]:
        """Command lines so far."""
        return self.log.read_text().splitlines()
