"""The table of reasons, and the page that documents it."""

from __future__ import annotations

from pathlib import Path

from runner import errors
from runner.verdict.reasons import REASONS, exit_status

PAGE = (Path(__file__).parents[2] / "docs/reference/exit-status.md").read_text()


def test_every_reason_stands_in_the_documentation_with_its_words() -> None:
    for row in REASONS:
        assert f"| `{row.name}` |" in PAGE
        assert row.words in PAGE


def test_every_status_of_an_error_stands_in_the_documentation() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.VmrunError):
            assert f"| {kind.status} |" in PAGE


def test_an_unknown_reason_is_our_bug() -> None:
    assert exit_status("no such reason", None) == 70
