"""The figures themselves: complete, readable, and strict about what a guest says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import pytest

from bench import figures, microsandbox
from bench.figures import console, disk, net
from bench.machines import MICROVM, MINIMAL, Q35, VMRUN, Guest, definition
from bench.metrics import Metric
from bench.process import RunFailed
from runner.definition.load import load

GUEST = Guest("g", "echo 'hi'\nexit 3\n", "/vmlinux", "/vmlinuz", "/initramfs")


@pytest.mark.parametrize("name", figures.NAMES)
def test_a_figure_is_named_as_its_file_and_has_a_method_and_goals_that_can_be_held(name: str) -> None:
    figure = figures.figure(name)
    assert name == figure.NAME
    assert len(figure.METHOD) > 80
    assert figure.METRICS
    assert len({metric.key for metric in figure.METRICS}) == len(figure.METRICS)
    assert all(isinstance(metric, Metric) for metric in figure.METRICS)


def test_the_quick_bench_has_the_start_of_a_machine() -> None:
    assert [name for name in figures.NAMES if figures.figure(name).IN_QUICK] == ["boot"]


def test_a_guest_becomes_a_definition_that_vmrun_reads(tmp_path: pytest.TempPathFactory) -> None:
    disk_image = tmp_path / "d.img"  # type: ignore[operator]
    disk_image.write_bytes(bytes(4096))
    guest = GUEST._replace(disk=str(disk_image), tap="t0", files=(("/bin/x", "/bin/sh"),), console=True)
    path = tmp_path / "g.toml"  # type: ignore[operator]
    path.write_text(definition(guest))
    read = load(str(path), ())
    assert read.cmdline == guest.cmdline
    assert read.initramfs.run == guest.run
    assert {entry.kind for entry in read.devices} >= {"virtio_blk", "virtio_net"}
    assert read.console.mode == "tty"


def test_qemu_gets_the_same_kernel_initramfs_command_line_and_memory(
    tmp_path: pytest.TempPathFactory,
) -> None:
    words = Q35.words(GUEST, str(tmp_path))
    for option, value in (
        ("-kernel", "/vmlinux"),
        ("-initrd", "/initramfs"),
        ("-append", GUEST.cmdline),
        ("-m", "256M"),
    ):
        assert words[words.index(option) + 1] == value
    assert re.search(r"tsc_early_khz=\d+", " ".join(MICROVM.words(GUEST, str(tmp_path))))


def test_qemu_has_an_iothread_io_uring_and_vhost(tmp_path: pytest.TempPathFactory) -> None:
    words = " ".join(Q35.words(GUEST._replace(disk="/d", tap="t0"), str(tmp_path)))
    assert "aio=io_uring" in words
    assert "iothread=io" in words
    assert "vhost=on" in words


def test_machines_have_names_of_their_own() -> None:
    assert len({machine.name for machine in (VMRUN, Q35, MICROVM, MINIMAL)}) == 4


def test_fio_lines_become_operations_and_megabytes() -> None:
    lines = [f"fio {job.key} 1000 250 2000 500" for job in disk.JOBS]
    sample = disk.parse("\r\n".join(lines).encode())
    assert (sample["r4k1"], sample["w4k1"]) == (250, 500)
    assert (sample["r1m"], sample["w1m"]) == (1.024, 2.048)


def test_a_job_that_fio_has_not_told_of_fails_the_run() -> None:
    lines = [f"fio {job.key} 1000 250 2000 500" for job in disk.JOBS[:-1]]
    with pytest.raises(RunFailed, match="w1m"):
        disk.parse("\n".join(lines).encode())
    with pytest.raises(RunFailed, match="r4k1"):
        disk.parse(b"fio r4k1 0 0 0 0")


def test_iperf_lines_become_megabits_and_a_lacking_way_fails_the_run() -> None:
    assert net.parse(b"iperf3 out 2000\r\niperf3 into 3500\r\n") == {"out": 2.0, "into": 3.5}
    with pytest.raises(RunFailed, match="into"):
        net.parse(b"iperf3 out 2000\r\n")


def test_the_console_guest_sends_what_is_counted_on() -> None:
    assert pytest.approx(console.TOTAL, rel=0.02) == console.SENT
    assert console.SENT % len(console.LINE) == 0


def test_microsandbox_does_the_first_line_in_a_folder_with_a_busybox(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(microsandbox, "_with_attributes", lambda _: str(home))
    monkeypatch.setattr(microsandbox, "_program", lambda _: "msb")
    monkeypatch.setenv("MSB_HOME", "")
    words = microsandbox.words(GUEST, str(tmp_path))
    assert words[-4:] == ["--", "/bin/sh", "-c", "echo 'hi'"]
    assert words[words.index("-m") + 1] == "256M"
    assert os.environ["MSB_HOME"] == str(home)
    shell = subprocess.run([home / "rootfs/bin/sh", *words[-2:]], capture_output=True, text=True, check=True)
    assert shell.stdout == "hi\n"


def test_where_a_file_system_for_microsandbox_cannot_be_had_the_run_fails() -> None:
    with pytest.raises(RunFailed, match="attributes: false"):
        microsandbox._run("false")
