"""What QEMU says when it does not start becomes one line, and says who has to act."""

from __future__ import annotations

import pytest

from runner.definition.model import Cpus, FilePath, Memory
from runner.engine.qemu.start_fault import start_fault
from runner.graph.model import Boot, EngineChoice, Graph

LOCKED = """\
qemu-system-x86_64: warning: something small
qemu-system-x86_64: -device virtio-blk-pci,drive=root: Failed to get "write" lock
Is another process using the image [/tmp/a.img]?
"""


def graph(cpus: Cpus | None = None, memory: Memory | None = None) -> Graph:
    choice = EngineChoice("qemu", "tcg", ())
    source = FilePath("a.toml", "a.toml")
    made, ram = cpus or Cpus(), memory or Memory(1 << 30)
    return Graph("a", source, "", choice, Boot(None, None, ""), made, (), ram, (), (), None)


def test_the_last_line_that_qemu_signs_is_the_sentence_and_the_lines_below_are_the_advice():
    error = start_fault(LOCKED, "exited with 1", graph())
    assert str(error) == (
        'QEMU does not start: -device virtio-blk-pci,drive=root: Failed to get "write" lock'
    )
    assert error.hint == "Is another process using the image [/tmp/a.img]?"
    assert error.status == 69


def test_what_this_user_may_not_has_a_status_of_its_own():
    said = "/usr/bin/qemu-system-x86_64: failed to initialize kvm: Permission denied"
    error = start_fault(said, "exited with 1", graph())
    assert str(error) == "QEMU does not start: failed to initialize kvm: Permission denied"
    assert error.status == 77


@pytest.mark.parametrize(("size", "pages", "count"), [(1 << 30, "2M", 512), (2 << 30, "1G", 2)])
def test_huge_pages_come_with_the_command_that_reserves_them(size, pages, count):
    said = "qemu-system-x86_64: unable to map backing store for guest RAM: Cannot allocate memory"
    error = start_fault(said, "exited with 1", graph(memory=Memory(size, hugepages=pages)))
    assert error.status == 69
    assert error.hint.startswith(f"echo {count} > /sys/kernel/mm/hugepages/hugepages-")


def test_a_model_of_the_definition_is_told_from_one_of_ours():
    said = "qemu-system-x86_64: unable to find CPU model 'max'"
    assert start_fault(said, "exited with 1", graph(Cpus(model="max"))).status == 65
    assert start_fault(said, "exited with 1", graph()).status == 69


def test_a_qemu_that_was_killed_is_the_end_that_it_is_later():
    error = start_fault("QEMU said nothing", "killed by SIGKILL", graph())
    assert error.status == 70
    assert "killed by SIGKILL" in str(error)
    assert "dmesg" in error.hint
