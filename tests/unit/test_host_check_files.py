"""What a definition says about files, held against the files."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from tiny_kernels import bzimage

from runner.definition.findings import Complaint
from runner.definition.load import inspect
from runner.host.affinity import spelled
from runner.host.check_files import check_files
from runner.host.check_kernel import check_processors

QCOW2 = b"QFI\xfb" + b"\0" * 508


def complaints(folder: Path, text: str) -> list[Complaint]:
    """All complaints about the host for a definition in ``folder``."""
    (folder / "x.toml").write_text(text)
    inspection = inspect(str(folder / "x.toml"))
    assert inspection.definition is not None, inspection.findings
    return [one for one in check_files(inspection) if one.path != ("kernel",) or "kernel" in one.message]


def disk(folder: Path, content: bytes, options: str = 'format = "raw"') -> list[Complaint]:
    (folder / "a.img").write_bytes(content)
    text = f'kernel = {{ deb = "linux-image-amd64" }}\nserial = "off"\n[disks.a]\npath = "a.img"\n{options}\n'
    return complaints(folder, text)


def kernel(folder: Path, content: bytes, more: str = "") -> list[Complaint]:
    (folder / "k").write_bytes(content)
    (folder / "x.toml").write_text(f'kernel = "k"\nserial = "off"\n{more}')
    return list(check_files(inspect(str(folder / "x.toml"))))


def test_a_missing_file_and_the_near_name(tmp_path: Path) -> None:
    """The folder's nearest name is offered, written as the definition writes its path."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "initrd.img").write_bytes(b"x")
    found = complaints(
        tmp_path, 'kernel = { deb = "linux-image-amd64" }\nserial = "off"\ninitramfs = "img/intrd.img"\n'
    )
    assert [(one.path, one.code, one.suggestion) for one in found] == [
        (("initramfs",), "missing-file", '"img/initrd.img"')
    ]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The first part of the path that is missing is told, and not only the last."""
    (one,) = complaints(
        tmp_path, 'kernel = { deb = "linux-image-amd64" }\nserial = "off"\ninitramfs = "no/such/initrd"\n'
    )
    assert one.hint == f"already {tmp_path}/no is missing"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """And a file is no folder, and a socket neither."""
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"x")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    text = (
        'kernel = { deb = "linux-image-amd64" }\nserial = "off"\ninitramfs = "d"\n[fs.a]\npath = "f"\n'
        '[disks.s]\npath = "s"\nformat = "raw"\n'
    )
    found = complaints(tmp_path, text)
    listener.close()
    assert [(one.path[0], one.code) for one in found] == [
        ("initramfs", "file-type"),
        ("fs", "file-type"),
        ("disks", "file-type"),
    ]


def test_the_initramfs_takes_files_and_folders(tmp_path: Path) -> None:
    """What is put into the initramfs may be a whole folder."""
    (tmp_path / "d").mkdir()
    text = 'kernel = { deb = "linux-image-amd64" }\nserial = "off"\n[initramfs.files]\n"/d" = "d"\n'
    assert complaints(tmp_path, text) == []


def test_an_image_that_is_not_of_its_format(tmp_path: Path) -> None:
    """qcow2 without its signature is an error, raw with it a warning (device-bugs 17)."""
    (one,) = disk(tmp_path, b"\0" * 512, 'format = "qcow2"')
    assert (one.code, one.severity, one.path[-1], one.suggestion) == (
        "image-format",
        "error",
        "format",
        '"raw"',
    )
    (one,) = disk(tmp_path, QCOW2)
    assert (one.code, one.severity, one.suggestion) == ("image-format", "warning", '"qcow2"')
    assert disk(tmp_path, QCOW2, 'format = "qcow2"') == []


@pytest.mark.parametrize("size", [0, 1, 511, 513])
def test_a_raw_image_is_a_whole_number_of_sectors(tmp_path: Path, size: int) -> None:
    """What is cut off in the middle of a sector is told."""
    assert [one.code for one in disk(tmp_path, b"\0" * size)] == ["image-size"]
    assert disk(tmp_path, b"\0" * 1024) == []


def test_a_card_is_a_power_of_two(tmp_path: Path) -> None:
    """QEMU's card refuses any other size."""
    text = (
        'kernel = { deb = "linux-image-amd64" }\nserial = "off"\n[devices.r]\ndriver = "sdhci-pci"\n'
        'card = "c"\nformat = "raw"\n'
    )
    (tmp_path / "c").write_bytes(b"\0" * 1536)
    assert [one.code for one in complaints(tmp_path, text)] == ["image-size"]
    (tmp_path / "c").write_bytes(b"\0" * 2048)
    assert complaints(tmp_path, text) == []


def denied(monkeypatch: pytest.MonkeyPatch, what: int) -> None:
    """This user (who may be root) is not allowed ``what``."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & what)


def test_an_image_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is written needs the permission, a read-only or ephemeral one does not."""
    denied(monkeypatch, os.W_OK)
    assert [one.code for one in disk(tmp_path, b"\0" * 512)] == ["permission"]
    assert disk(tmp_path, b"\0" * 512, 'format = "raw"\nephemeral = true') == []
    assert disk(tmp_path, b"\0" * 512, 'format = "raw"\nreadonly = true') == []


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One complaint about the permission, and none about a content that nobody has seen."""
    denied(monkeypatch, os.R_OK)
    assert [one.code for one in disk(tmp_path, b"\0" * 511)] == ["permission"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output is told before the run that could not make it."""
    denied(monkeypatch, os.W_OK)
    text = 'kernel = { deb = "linux-image-amd64" }\ncmdline = "console=ttyS0"\nserial = { file = "log" }\n'
    assert [one.code for one in complaints(tmp_path, text)] == ["permission"]


def test_a_place_to_write_to(tmp_path: Path) -> None:
    """An output needs its folder, is no folder itself, and a socket's path fits the kernel's limit."""
    (tmp_path / "d").mkdir()
    text = 'kernel = {{ deb = "linux-image-amd64" }}\ncmdline = "console=ttyS0"\nserial = {}\n'
    assert complaints(tmp_path, text.format('{ file = "log" }')) == []
    assert [one.code for one in complaints(tmp_path, text.format('{ file = "no/log" }'))] == ["missing-file"]
    assert [one.code for one in complaints(tmp_path, text.format('{ file = "d" }'))] == ["file-type"]
    long = "s" * 120
    assert [one.code for one in complaints(tmp_path, text.format(f'{{ socket = "{long}" }}'))] == ["length"]


def test_a_host_device_that_is_elsewhere(tmp_path: Path) -> None:
    """A device of another host is a warning: definitions are portable, hosts are not."""
    text = (
        'kernel = { deb = "linux-image-amd64" }\nserial = "off"\n[devices.r]\ndriver = "vfio"\n'
        'path = "/sys/bus/pci/devices/ffff:ff:1f.7"\n'
    )
    assert [(one.code, one.severity) for one in complaints(tmp_path, text)] == [("no-device", "warning")]


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\0" * 4096, b"\x7fELF" + b"\0" * 100])
def test_a_kernel_that_is_none(tmp_path: Path, content: bytes) -> None:
    """An empty file, a script, zeros and an empty ELF are told at the kernel."""
    found = kernel(tmp_path, content)
    assert [(one.path, one.code) for one in found] == [(("kernel",), "no-kernel")]


@pytest.mark.parametrize(
    ("memory", "path"),
    [('memory = "8M"', ("memory",)), ('[memory]\nsize = "8M"', ("memory", "size"))],
)
def test_a_kernel_that_does_not_fit(tmp_path: Path, memory: str, path: tuple[str, ...]) -> None:
    """What has to change is the memory, so that is where it is told."""
    (found,) = kernel(tmp_path, bzimage(), f"{memory}\n")
    assert (found.path, found.code) == (path, "does-not-fit")
    assert "give the guest more memory: at least" in found.hint
    assert str(tmp_path / "k") in found.found


def test_a_kernel_that_does_not_fit_into_the_default_memory(tmp_path: Path) -> None:
    """A file that says nothing of its memory has only the kernel to point at."""
    found = kernel(tmp_path, bzimage(init_size=600 << 20), "")
    assert [(one.path, one.code) for one in found] == [(("kernel",), "does-not-fit")]


def test_a_link_into_nothing_is_called_one(tmp_path: Path) -> None:
    """Its own name is no better one; where it leads is told."""
    (tmp_path / "a.img").symlink_to("gone.img")
    text = (
        'kernel = { deb = "linux-image-amd64" }\nserial = "off"\n[disks.a]\npath = "a.img"\nformat = "raw"\n'
    )
    (one,) = complaints(tmp_path, text)
    assert (one.code, one.suggestion, one.hint) == ("missing-file", "", "")
    assert one.message == "this is a link to gone.img, which does not exist"


def test_an_address_of_this_host_is_looked_at(tmp_path: Path) -> None:
    """file:/// names a file that has to be there; a near name is written as an address too."""
    (tmp_path / "vm linuz").write_bytes(bzimage())
    url = f"file://{tmp_path}/vm%20linuz"
    text = 'kernel = {{ url = "{}", sha256 = "' + "0" * 64 + '" }}\nserial = "off"\n'
    assert complaints(tmp_path, text.format(url)) == []
    (tmp_path / "vmlinuz").write_bytes(bzimage())
    (one,) = complaints(tmp_path, text.format(f"file://{tmp_path}/vmlinux"))
    assert (one.path, one.code) == (("kernel", "url"), "missing-file")
    assert one.suggestion == f'"file://{tmp_path}/vmlinuz"'


def test_an_initramfs_that_does_not_fit(tmp_path: Path) -> None:
    """Larger than the memory that the kernel leaves: told at the initramfs, with both sizes."""
    with open(tmp_path / "i", "wb") as file:
        file.write(b"070701")
        file.truncate(100 << 20)
    found = kernel(tmp_path, bzimage(), 'memory = "64M"\ninitramfs = "i"\n')
    assert [(one.path, one.code) for one in found] == [(("initramfs",), "does-not-fit")]
    assert kernel(tmp_path, bzimage(), 'memory = "512M"\ninitramfs = "i"\n') == []


def test_a_cmdline_that_the_kernel_cuts(tmp_path: Path) -> None:
    """Longer than the kernel's own limit: told at the command line."""
    found = kernel(tmp_path, bzimage(), f'cmdline = "{"x" * 3000}"\n')
    assert [(one.path, one.code) for one in found] == [(("cmdline",), "does-not-fit")]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "file-size"),
        (b"no archive", "no-archive"),
        (bytes(100), "no-archive"),
        (b"\x7fELF" + bytes(9), "no-archive"),
        (b"070701" + bytes(200), ""),
        (bytes(512) + b"070701", ""),
        (b"\x1f\x8b\x08", ""),
        (b"\x28\xb5\x2f\xfd", ""),
        (bytes(3 << 20), "does-not-fit"),
    ],
)
def test_an_initramfs_is_an_archive_that_fits(tmp_path: Path, content: bytes, code: str) -> None:
    """Empty, foreign, or larger than the memory, each told once; whether or not the kernel is one."""
    (tmp_path / "i").write_bytes(content)
    found = kernel(tmp_path, b"no kernel", 'initramfs = "i"\nmemory = "2M"\n')
    assert [one.code for one in found if one.path == ("initramfs",)] == ([code] if code else [])


def test_what_is_no_file_is_no_empty_initramfs(tmp_path: Path) -> None:
    """A pipe in its place is told as a pipe, and by that alone."""
    os.mkfifo(tmp_path / "i")
    found = kernel(tmp_path, bzimage(), 'initramfs = "i"\n')
    assert [one.message for one in found if one.path == ("initramfs",)] == ["this is a pipe"]


def test_more_memory_than_the_host_has(tmp_path: Path) -> None:
    """A warning: the kernel may promise it, and the definition may be for another host."""
    text = 'kernel = { deb = "linux-image-amd64" }\nserial = "off"\nmemory = "4000T"\n'
    (one,) = complaints(tmp_path, text)
    assert (one.path, one.severity, one.code) == (("memory",), "warning", "memory")


@pytest.mark.parametrize(("engine", "severity"), [("kvm", "error"), (["kvm", "qemu"], "warning")])
def test_more_cpus_than_kvm_gives(monkeypatch: pytest.MonkeyPatch, engine: object, severity: str) -> None:
    """An error where only KVM may run it, a warning where another engine is left."""
    from runner.host import kvm_facts
    from runner.hostfacts import KvmFacts

    monkeypatch.setattr(kvm_facts, "kvm_facts", lambda _: KvmFacts(max_vcpus=8))
    assert [one.severity for one in check_processors({"cpus": 9, "engine": engine})] == [severity]
    assert list(check_processors({"cpus": 8, "engine": engine})) == []


def test_a_cpu_that_the_host_has_not(tmp_path: Path) -> None:
    """Each is marked where it stands, those that are there are not, and we run where we ran."""
    before = os.sched_getaffinity(0)
    here = min(before)
    text = 'kernel = { deb = "linux-image-amd64" }\nserial = "off"\n[cpus]\ncount = 2\n'
    found = complaints(tmp_path, f"{text}affinity = [[{here}, 8191], [8192, {1 << 40}]]\n")
    paths = [("cpus", "affinity", 0, 1), ("cpus", "affinity", 1, 0), ("cpus", "affinity", 1, 1)]
    assert [(one.path, one.code, one.severity) for one in found] == [
        (path, "no-cpu", "error") for path in paths
    ]
    assert complaints(tmp_path, f"{text}affinity = [[{here}], [{here}]]\n") == []
    assert os.sched_getaffinity(0) == before


def test_sets_of_cpus_are_written_as_the_kernel_writes_them() -> None:
    """Ranges, and single ones."""
    assert spelled({0, 1, 2, 3, 8, 10, 11}) == "0-3, 8, 10-11"


def test_nothing_is_changed(tmp_path: Path) -> None:
    """A check leaves the folder as it was: no file made, none written, no time changed."""
    (tmp_path / "a.img").write_bytes(b"\0" * 512)
    (tmp_path / "k").write_bytes(b"no kernel")
    text = 'kernel = "k"\nserial = { file = "log" }\n[disks.a]\npath = "a.img"\nformat = "raw"\n'
    (tmp_path / "x.toml").write_text(text)
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)}
    check_files(inspect(str(tmp_path / "x.toml")))
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)} == before
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("broken", ["format = qcow2", 'format = "qcow2"\nreadonly = yes'])
def test_what_a_broken_line_would_have_said_is_not_held_against_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """With a line unread nobody knows the format, nor whether the disk is written to."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    (tmp_path / "a.img").write_bytes(QCOW2)
    (tmp_path / "x.toml").write_text(
        f'kernel = {{ deb = "linux-image-amd64" }}\nserial = "off"\n[disks.a]\npath = "a.img"\n{broken}\n'
    )
    inspection = inspect(str(tmp_path / "x.toml"))
    assert [one.code for one in inspection.findings] == ["syntax"]
    assert check_files(inspection) == ()
