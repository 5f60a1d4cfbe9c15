"""What .ci/run makes of pytest's closing line: only a run in which every test passed is a good one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def ci(tmp_path):
    """``ci(line, status)`` runs it with a make whose tests close with that line and status."""

    def run(closing: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        make = tmp_path / "make"
        tests = f'echo "{closing}"; exit {status}'
        make.write_text(f'#!/bin/sh\necho "asked: $*"\n[ "$1" = check ] || {{ {tests}; }}\n')
        make.chmod(0o755)
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TESTS": "tests/unit/test_ci_run.py"}
        return subprocess.run(
            [CHECKOUT / ".ci/run"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    return run


def test_all_passed_is_a_success(ci):
    ran = ci("2701 passed in 301.24s (0:05:01)")
    assert ran.returncode == 0
    assert "asked: check" in ran.stdout


def test_all_tests_are_asked_for_whatever_the_environment_says(ci):
    assert "asked: test TESTS=\n" in ci("1 passed in 0.24s").stdout


@pytest.mark.parametrize(
    "closing",
    [
        "2700 passed, 1 skipped in 301.24s (0:05:01)",
        "2700 passed, 1 deselected in 301.24s (0:05:01)",
        "2700 passed, 1 xfailed in 301.24s (0:05:01)",
        "2700 passed, 1 xpassed in 301.24s (0:05:01)",
        "1 failed, 2700 passed in 301.24s (0:05:01)",
        "2700 passed, 1 error in 301.24s (0:05:01)",
        "1 skipped in 0.02s",
        "no tests ran in 0.01s",
        "all 2700 tests have passed",
        "",
    ],
)
def test_a_test_that_did_not_run_is_no_success(ci, closing):
    """Also where make and pytest themselves end with 0."""
    ran = ci(closing)
    assert ran.returncode == 1
    assert "not every test has run and passed" in ran.stderr


def test_a_failure_of_make_is_one(ci):
    assert ci("1 passed in 0.01s", 2).returncode == 2
