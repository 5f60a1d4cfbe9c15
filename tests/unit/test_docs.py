"""What the documents say is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from runner.cli.commands import COMMANDS
from runner.definition.load import load

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


@pytest.mark.parametrize("page", ["README.md", "docs/guide/first-file.md", "docs/guide/pieces.md"])
def test_the_definitions_that_are_shown_are_definitions(page, tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (TOP / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "base.toml").write_text('timeout = "60s"\n')
    for number, text in enumerate(blocks):
        said = tomllib.loads(text)
        head = "" if "kernel" in said else 'kernel = { deb = "linux-image-cloud-amd64" }\n'
        head += "" if "memory" in said else 'memory = "256M"\n'
        path = tmp_path / f"{number}.toml"
        path.write_text(head + text)
        load(str(path))
