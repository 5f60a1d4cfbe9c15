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
    "runner.cli.arguments",
    "runner.supervisor.remembered",
    "runner.host.survey",
    "runner.graph.model",
    "runner.graph.plain",
    "runner.artifacts.prepare",
    "runner.engine.kvm.engine",
    "runner.engine.kvm.handover",
)
HEAVY = (
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib",
    "importlib", "inspect", "json", "jsonschema", "logging", "pathlib", "re", "runner.supervisor.endpoint",
    "runner.verdict.diagnose", "runner.verdict.report", "selectors", "shutil", "socket", "structlog",
    "subprocess", "tempfile", "traceback", "tree_sitter", "types", "typing", "warnings",
)  # fmt: skip
"""Modules whose import a start would notice, ours and the library's."""


def test_supervising_a_run_imports_nothing_heavy() -> None:
    assert imported(RUN_PATH) & set(HEAVY) == set()


def test_nor_does_the_vm_process_before_its_first_instruction() -> None:
    from runner.engine.kvm.process import WHILE_WAITING

    path = ("runner.engine.kvm.process", *WHILE_WAITING)
    assert imported(path) & set(HEAVY) == set()


def imported(modules: tuple[str, ...]) -> set[str]:
    """All that a bare interpreter has after importing them."""
    script = (
        f"import sys; sys.path[:0] = sys.argv[1:]\nfor m in {modules!r}: __import__(m)\nprint(*sys.modules)"
    )
    words = [sys.executable, "-I", "-S", "-c", script, *[path for path in (str(ROOT), *sys.path) if path]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    return set(done.stdout.split())
