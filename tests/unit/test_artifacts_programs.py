"""Programs for the initramfs: static or not, and the libraries of those that are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from boot_samples import elf
from hypothesis import given
from hypothesis import strategies as st

from runner.artifacts import busybox
from runner.artifacts.cache import Cache, silent
from runner.artifacts.elf import Program, read_program
from runner.artifacts.libraries import needed_files, parse_listing
from runner.definition.model import FilePath
from runner.errors import HostError


def _file(folder: Path, data: bytes, name: str = "program") -> str:
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o755)
    return str(path)


def test_a_program_without_interpreter_is_static(tmp_path: Path) -> None:
    assert read_program(_file(tmp_path, elf())) == Program(62, None)
    assert read_program(_file(tmp_path, elf("/lib64/ld.so"))) == Program(62, "/lib64/ld.so")


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), elf(kind=1)])
def test_what_is_no_64_bit_executable_is_none(tmp_path: Path, data: bytes) -> None:
    assert read_program(_file(tmp_path, data)) is None


def test_an_interpreter_past_the_end_of_the_file_is_empty(tmp_path: Path) -> None:
    """device-bugs 19: offsets of a file are checked against it."""
    assert read_program(_file(tmp_path, elf("/lib/ld.so", offset=1 << 40))) == Program(62, "")
    assert read_program(_file(tmp_path, elf("/lib/ld.so", offset=(1 << 64) - 1))) == Program(62, "")


@given(cut=st.integers(0, 200), at=st.integers(0, 180), byte=st.integers(0, 255))
def test_a_damaged_header_never_raises(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    data = bytearray(elf("/lib64/ld-linux-x86-64.so.2"))
    data[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[: len(data) - cut])
    read_program(str(path))


def test_libraries_of_a_program_of_this_host_exist_and_hold_libc() -> None:
    found = needed_files(os.path.realpath("/usr/bin/env"))
    assert any("libc.so" in path for path in found)
    assert all(os.path.exists(path) for path in found)


def test_a_static_program_and_a_script_need_nothing(tmp_path: Path) -> None:
    assert needed_files(_file(tmp_path, elf())) == ()
    assert needed_files(_file(tmp_path, b"#!/bin/sh\n")) == ()


@pytest.mark.parametrize("way", ["{}/ld-own.so", "/lib/..{}/ld-own.so", "/usr/lib/../..{}/ld-own.so"])
def test_an_interpreter_outside_the_system_is_never_started(tmp_path: Path, way: str) -> None:
    """The program names it: a file from elsewhere must not choose what runs on the host."""
    _file(tmp_path, f"#!/bin/sh\ntouch {tmp_path}/started\n".encode(), "ld-own.so")
    with pytest.raises(HostError, match="not the dynamic linker of a system directory"):
        needed_files(_file(tmp_path, elf(way.format(tmp_path))))
    assert not (tmp_path / "started").exists()


def test_a_program_of_the_system_that_is_no_linker_is_never_started(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not the dynamic linker"):
        needed_files(_file(tmp_path, elf("/usr/lib/git-core/git")))


def test_a_program_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="0xb7"):
        needed_files(_file(tmp_path, elf("/lib/ld-linux-aarch64.so.1", machine=0xB7)))


def test_a_listing_is_read() -> None:
    listing = (
        "\tlinux-vdso.so.1 (0x00007ffc)\n"
        "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n"
    )
    assert parse_listing("p", listing) == ("/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2")


def test_a_missing_library_is_named() -> None:
    with pytest.raises(HostError, match=r"p needs the library libnone\.so"):
        parse_listing("p", "\tlibnone.so => not found\n")


def test_a_dynamic_busybox_is_refused(tmp_path: Path) -> None:
    path = FilePath("bb", _file(tmp_path, elf("/lib64/ld-linux-x86-64.so.2")))
    with pytest.raises(HostError, match="linked dynamically"):
        busybox.find(path, Cache(str(tmp_path / "c")), silent)


def test_a_busybox_that_lacks_what_init_needs_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, b"#!/bin/sh\nprintf 'bin/sh\\nbin/mount\\n'\n")
    with pytest.raises(HostError, match="lacks cttyhack, modprobe, setsid"):
        busybox.applets(path)
