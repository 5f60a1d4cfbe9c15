"""Start-up time is a feature: what a run imports is held to a list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN_PATH = (
    "runner.cli.run",
    "runner.host.signals",
    "runner.supervisor.launch",
    "runner.supervisor.supervise",
    "runner.supervisor.openers",
    "runner.supervisor.registry",
    "runner.supervisor.control",
    "runner.backends.stdio",
    "runner.verdict.decide",
)
HEAVY = (
    "argparse", "asyncio", "dataclasses", "hashlib", "inspect", "json", "jsonschema", "logging", "pathlib",
    "runner.supervisor.endpoint", "runner.verdict.diagnose", "runner.verdict.report", "selectors", "shutil",
    "socket", "structlog", "subprocess", "tempfile", "traceback", "tree_sitter",
)  # fmt: skip


def test_supervising_a_run_imports_nothing_heavy() -> None:
    script = f"import sys\nfor m in {RUN_PATH!r}: __import__(m)\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    )
    assert set(done.stdout.split()) & set(HEAVY) == set()
