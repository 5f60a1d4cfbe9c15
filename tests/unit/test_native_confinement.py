"""A VM process that a guest has taken over reaches no file, socket, program or other process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import confined
import pytest


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What came of each try, in a process of its own."""
    script = str(Path(confined.__file__))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["confined"] == [0, 0]
    return answer["told"]


@pytest.mark.parametrize("name", confined.NEEDED)
def test_what_a_running_machine_does_is_allowed(told: dict[str, str], name: str) -> None:
    assert told[name] == "done"


@pytest.mark.parametrize("name", confined.FORBIDDEN)
def test_what_it_never_does_is_refused(told: dict[str, str], name: str) -> None:
    assert told[name] == "EPERM"


@pytest.mark.parametrize("name", confined.NOT_THERE)
def test_calls_whose_arguments_lie_in_memory_look_like_an_older_kernels(
    told: dict[str, str], name: str
) -> None:
    """The C library then takes the older call, whose flags a filter can see."""
    assert told[name] == "ENOSYS"
