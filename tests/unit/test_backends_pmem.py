"""A file as memory: a flush that is acknowledged has been made, and one that failed is not forgotten."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.backends.pmem import MappedFile
from tests.unit.served_machine import Machine


class Kernel:
    """fdatasync, with its next answers."""

    def __init__(self) -> None:
        self.synced: list[int] = []
        self.errors: list[int] = []

    def fdatasync(self, fd: int) -> None:
        self.synced.append(fd)
        if self.errors:
            raise OSError(self.errors.pop(0), "no")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(os, "fdatasync", made.fdatasync)
    return made


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Callable[..., tuple[MappedFile, int, Machine]]]:
    opened: list[tuple[MappedFile, int]] = []

    def make(*, keeps: bool = True) -> tuple[MappedFile, int, Machine]:
        fd, machine = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT), Machine()
        served: Any = machine
        opened.append((MappedFile(fd, served, keeps=keeps), fd))
        return *opened[-1], machine

    yield make
    for file, fd in opened:
        file.close()
        os.close(fd)


def flush(file: MappedFile, machine: Machine) -> int:
    """The errno that the device is told."""
    answers: list[int] = []
    file.flush(answers.append)
    machine.until(lambda: answers)
    return answers[0]


def test_a_flush_is_fdatasync_of_the_file(mapped: Any, kernel: Kernel) -> None:
    file, fd, machine = mapped()
    assert flush(file, machine) == 0
    assert kernel.synced == [fd]


def test_after_a_failed_flush_every_flush_fails(mapped: Any, kernel: Kernel) -> None:
    """The kernel tells of a lost write once; nobody can tell what was lost."""
    file, _, machine = mapped()
    kernel.errors = [errno.ENOSPC]
    assert [flush(file, machine) for _ in range(3)] == [errno.ENOSPC] * 3


def test_a_private_mapping_has_nothing_to_write_back(mapped: Any, kernel: Kernel) -> None:
    file, _, machine = mapped(keeps=False)
    assert flush(file, machine) == 0
    assert kernel.synced == []
