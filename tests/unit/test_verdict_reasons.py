"""The table of reasons; the pages that show it are held against it in test_docs_exit_status."""

from __future__ import annotations

from runner.verdict.reasons import exit_status


def test_an_unknown_reason_is_our_bug() -> None:
    assert exit_status("no such reason", None) == 70
