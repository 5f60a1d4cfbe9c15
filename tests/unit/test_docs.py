"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.cli.commands import COMMANDS

TOP = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([TOP / "README.md", TOP / "CHANGELOG.md", *TOP.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_in_the_readme():
    text = (TOP / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in COMMANDS if f"`{verb}`" not in text and f"vmrun {verb}" not in text] == [
        "completion"
    ]
