"""Kernels from packages, addresses and paths: asked once, checked always, errors that say what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from boot_samples import Apt, bzimage, deb, elf

from runner.artifacts import deb as packages
from runner.artifacts import kernel as kernels
from runner.artifacts.cache import Cache
from runner.artifacts.kernel import fetch_kernel, kernel_release
from runner.definition.model import FilePath, KernelDeb, KernelFile, KernelUrl
from runner.errors import DefinitionError, HostError

RELEASE = "6.1.0-99-cloud-amd64"
PACKAGE = f"linux-image-{RELEASE}"
META = "linux-image-cloud-amd64"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    made = Apt(tmp_path / "apt")
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def _kernel_deb(folder: Path, version: str = "6.1.9-1", lib: str = "lib") -> Path:
    files = {
        f"boot/vmlinuz-{RELEASE}": bzimage(RELEASE),
        f"{lib}/modules/{RELEASE}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
        "usr/share/doc/copyright": b"no part of a kernel",
    }
    return deb(folder, PACKAGE, version, files)


def _offer_kernel(apt: Apt, folder: Path, version: str = "6.1.9-1") -> str:
    apt.offer(META, version, depends=f"{PACKAGE} (= {version})")
    return apt.offer(PACKAGE, version, depends="kmod, linux-base (>= 4.3~)", deb=_kernel_deb(folder, version))


def test_a_metapackage_is_followed_to_its_kernel(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    digest = _offer_kernel(apt, tmp_path)
    kernel = fetch_kernel(KernelDeb(META), cache)
    assert Path(kernel.path).read_bytes() == bzimage(RELEASE)
    assert kernel.release == RELEASE
    assert kernel.modules_dir == f"{cache.root}/kernels/{digest}/lib/modules/{RELEASE}"
    assert PACKAGE in kernel.description, "which one was taken is said"
    assert "6.1.9-1" in kernel.description
    assert not Path(cache.root, "kernels", digest, "usr").exists()
    assert not list(Path(cache.root, "kernels", digest).glob("*.deb"))


def test_the_second_time_nobody_is_asked(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    """Offline, and although apt has a newer one by now: a name keeps its meaning until refreshed."""
    _offer_kernel(apt, tmp_path)
    first = fetch_kernel(KernelDeb(META), cache)
    apt.offline()
    (tmp_path / "newer").mkdir()
    _offer_kernel(apt, tmp_path / "newer", "6.1.10-1")
    asked = len(apt.calls())
    assert fetch_kernel(KernelDeb(META), cache) == first
    assert len(apt.calls()) == asked


def test_refresh_asks_anew(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    first = fetch_kernel(KernelDeb(META), cache)
    (tmp_path / "newer").mkdir()
    _offer_kernel(apt, tmp_path / "newer", "6.1.10-1")
    second = fetch_kernel(KernelDeb(META), cache, refresh=True)
    assert "6.1.10-1" in second.description
    assert second.path != first.path
    assert fetch_kernel(KernelDeb(META), cache) == second


def test_a_version_pins(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path, "6.1.8-1")
    (tmp_path / "newer").mkdir()
    _offer_kernel(apt, tmp_path / "newer", "6.1.9-1")
    assert "6.1.8-1" in fetch_kernel(KernelDeb(META, "6.1.8-1"), cache).description
    assert "6.1.9-1" in fetch_kernel(KernelDeb(META), cache).description


def test_a_kernel_under_usr_is_found_too(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    """Since Debian 13 modules are packed under usr/lib."""
    apt.offer(PACKAGE, "6.1.9-1", deb=_kernel_deb(tmp_path, lib="usr/lib"))
    assert fetch_kernel(KernelDeb(PACKAGE), cache).modules_dir is not None


def test_what_differs_from_the_index_is_refused(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    (apt.index / f"{PACKAGE}=6.1.9-1.deb").write_bytes(b"!<arch>\nsomething else")
    with pytest.raises(HostError, match="index says"):
        fetch_kernel(KernelDeb(META), cache)
    assert not Path(cache.root, "kernels").exists()


def test_a_damaged_entry_is_made_anew(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    said: list[str] = []
    path = Path(fetch_kernel(KernelDeb(META), cache).path)
    path.chmod(0o644)
    path.write_bytes(bzimage(RELEASE)[:-1] + b"!")
    again = fetch_kernel(KernelDeb(META), cache, tell=said.append)
    assert Path(again.path).read_bytes() == bzimage(RELEASE)
    assert any("damaged" in line for line in said)


def test_an_unknown_package_gets_near_names(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    with pytest.raises(HostError, match="knows no package linux-image-clout-amd64") as caught:
        fetch_kernel(KernelDeb("linux-image-clout-amd64"), cache)
    assert META in caught.value.hint
    assert "apt-get update" in caught.value.hint


def test_an_unknown_version_lists_those_there_are(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    with pytest.raises(HostError, match=r"no version 6\.0 .* it has 6\.1\.9-1") as caught:
        fetch_kernel(KernelDeb(META, "6.0"), cache)
    assert "snapshot.debian.org" in caught.value.hint


def test_without_a_network_apts_own_words_are_told(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    _offer_kernel(apt, tmp_path)
    apt.offline()
    with pytest.raises(HostError, match=r"cannot be fetched: Temporary failure") as caught:
        fetch_kernel(KernelDeb(META), cache)
    assert "network" in caught.value.hint


def test_without_apt_the_error_names_other_ways(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="not installed here") as caught:
        fetch_kernel(KernelDeb(META), cache)
    assert "sha256" in caught.value.hint


@pytest.mark.parametrize("name", ["-oDir::Bin=x", "../x", "Linux", "a b", "x", "a/b", ""])
def test_a_name_that_is_no_package_never_reaches_apt(apt: Apt, cache: Cache, name: str) -> None:
    with pytest.raises(DefinitionError, match="not a name"):
        fetch_kernel(KernelDeb(name), cache)
    with pytest.raises(DefinitionError, match="not a version"):
        fetch_kernel(KernelDeb(META, name + "/-"), cache)
    assert apt.calls() == []


def test_a_package_without_a_kernel_is_refused(apt: Apt, cache: Cache, tmp_path: Path) -> None:
    apt.offer("hello", "1", deb=deb(tmp_path, "hello", "1", {"usr/bin/hello": b"x"}))
    with pytest.raises(HostError, match="holds no kernel"):
        fetch_kernel(KernelDeb("hello"), cache)


def test_a_metapackage_of_itself_ends(apt: Apt, cache: Cache) -> None:
    apt.offer("linux-image-loop", "1", depends="linux-image-loop")
    with pytest.raises(HostError, match="without end"):
        fetch_kernel(KernelDeb("linux-image-loop"), cache)


def test_what_is_no_deb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"nothing")
    with pytest.raises(HostError, match="cannot be unpacked"):
        packages.unpack(str(tmp_path / "x.deb"), str(tmp_path / "out"), lambda member: member)


def test_members_that_lead_outside_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is not trusted with where its files go: "..", absolute paths and links are not taken."""
    import io
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("./lib/modules/../../../escaped", "/lib/modules/absolute", "./lib/modules/good"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("./lib/modules/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    (tmp_path / "tar").write_bytes(archive.getvalue())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dpkg-deb").write_text(f'#!/bin/sh\ncat "{tmp_path}/tar"\n')
    (tmp_path / "bin/dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    filled = packages.unpack("x", str(tmp_path / "a/b/c/d"), lambda member: member or None)
    assert filled == ("lib/modules/good",)
    assert not (tmp_path / "a/escaped").exists()


def test_the_release_is_read_from_bzimage_and_elf() -> None:
    assert kernel_release(bzimage("6.9-x")) == "6.9-x"
    assert kernel_release(elf() + b"\0Linux version 5.4-y (a@b) #1\0") == "5.4-y"
    assert kernel_release(elf()) == ""
    assert kernel_release(b"MZ" + bytes(600)) is None
    assert kernel_release(b"") is None


def test_a_release_string_past_the_end_is_empty() -> None:
    """device-bugs 19: the header's pointer is not believed."""
    image = bytearray(bzimage())
    image[0x20E:0x210] = b"\xff\xff"
    assert kernel_release(bytes(image)) == ""


def test_a_kernel_file_brings_the_modules_beside_it(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / f"lib/modules/{RELEASE}").mkdir(parents=True)
    path = tmp_path / "boot/vmlinuz"
    path.write_bytes(bzimage(RELEASE))
    kernel = fetch_kernel(KernelFile(FilePath("boot/vmlinuz", str(path))), cache)
    assert kernel.modules_dir == str(tmp_path / f"lib/modules/{RELEASE}")
    assert str(path) in kernel.inputs


def test_a_file_that_is_no_kernel_says_what_it_starts_with(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"#!/bin/sh")
    with pytest.raises(DefinitionError, match="23 21 2f 62"):
        fetch_kernel(KernelFile(FilePath("x", str(tmp_path / "x"))), cache)


def test_an_address_is_fetched_once_and_checked(cache: Cache, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.write_bytes(bzimage(RELEASE))
    source = KernelUrl(f"file://{served}", hashlib.sha256(bzimage(RELEASE)).hexdigest().upper())
    assert fetch_kernel(source, cache).release == RELEASE
    served.unlink()
    assert fetch_kernel(source, cache).release == RELEASE


def test_an_address_may_be_a_package(cache: Cache, tmp_path: Path) -> None:
    """So an old kernel can be pinned by its place in the archive's history."""
    served = _kernel_deb(tmp_path)
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    kernel = fetch_kernel(KernelUrl(f"file://{served}", digest), cache)
    assert kernel.release == RELEASE
    assert kernel.modules_dir is not None


def test_another_hash_is_refused_with_both(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "served").write_bytes(b"x")
    with pytest.raises(HostError, match=f"{hashlib.sha256(b'x').hexdigest()}.*says {'0' * 64}"):
        fetch_kernel(KernelUrl(f"file://{tmp_path}/served", "0" * 64), cache)


@pytest.mark.parametrize("url", ["http://example.org/k", "ftp://a.org/k", "file:relative", "/etc/passwd"])
def test_only_https_is_fetched(cache: Cache, url: str) -> None:
    with pytest.raises(HostError, match="only https"):
        fetch_kernel(KernelUrl(url, "0" * 64), cache)


def test_a_missing_file_is_told_in_words(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        fetch_kernel(KernelUrl(f"file://{tmp_path}/none", "0" * 64), cache)


@pytest.mark.parametrize("digest", ["", "0" * 63, "../" + "0" * 61, "g" * 64])
def test_a_hash_that_is_none_is_refused(cache: Cache, digest: str) -> None:
    with pytest.raises(DefinitionError, match="64 hexadecimal"):
        fetch_kernel(KernelUrl("file:///x", digest), cache)


def test_a_damaged_download_is_fetched_again(cache: Cache, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.write_bytes(bzimage(RELEASE))
    source = KernelUrl(f"file://{served}", hashlib.sha256(bzimage(RELEASE)).hexdigest())
    Path(fetch_kernel(source, cache).path).write_bytes(b"damaged")
    assert Path(fetch_kernel(source, cache).path).read_bytes() == bzimage(RELEASE)


def test_a_kernel_that_cannot_be_unpacked_is_booted_as_given(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is said; a missing decompressor may be installed by the next time."""
    from runner.artifacts import vmlinux

    (tmp_path / "k").write_bytes(bzimage(RELEASE))
    kernel = fetch_kernel(KernelFile(FilePath("k", str(tmp_path / "k"))), cache)

    def missing(_image: bytes) -> bytes:
        raise HostError("zstd is not installed", hint="install it")

    monkeypatch.setattr(vmlinux, "extract_vmlinux", missing)
    path, lasting, notes = kernels.bootable(kernel, cache, 1)
    assert (path, lasting) == (kernel.path, False)
    assert "zstd is not installed (install it)" in notes[0]
    monkeypatch.setattr(vmlinux, "extract_vmlinux", lambda _image: elf())
    path, lasting, notes = kernels.bootable(kernel, cache, 1)
    assert (Path(path).read_bytes(), lasting, notes) == (elf(), True, ())
