"""What the tests of the command line share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.vmrun_on_pty import PATIENCE, belonging_to, definition


@pytest.fixture
def box(tmp_path: Path) -> str:
    """The path of a small definition."""
    return definition(tmp_path)


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No process outlives a test; one that does is ended, and the test has failed."""
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := belonging_to(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "a process is left behind"
