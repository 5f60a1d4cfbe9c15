"""docs/reference/environment.md has every variable that changes what vmrun does."""

from __future__ import annotations

import re

from tests.unit.plan_goldens import CHECKOUT

PAGE = (CHECKOUT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
READ = re.compile(
    r"""(?:environ(?:\.get)?|getenv|env(?:\.get)?)\s*[\[(]\s*["']([A-Z][A-Z_]+)["']"""
    r"""|["']([A-Z][A-Z_]+)["'] (?:not )?in (?:os\.)?environ"""
    r"""|["'](XDG_[A-Z_]+)["']"""
)
ONLY_ADVICE = {"USER", "SUDO_USER", "TERM"}
"""A name in a hint, and whether a terminal can show colours: nothing that a user sets for vmrun."""


def rows(part: str) -> set[str]:
    """The variables of a table's first column."""
    return {
        name
        for line in re.findall(r"^\| (`[^|]*) \|", part, re.M)
        for name in re.findall(r"`([A-Z_]+)`", line)
    }


def test_every_variable_that_is_read_has_a_row() -> None:
    """What runner/ asks the environment for, in whichever way."""
    found = set()
    for path in (CHECKOUT / "runner").rglob("*.py"):
        found |= {name for match in READ.findall(path.read_text(encoding="utf-8")) for name in match if name}
    assert {"VMRUN_LOG", "VMRUN_DEBUG", "VMRUN_CACHE_DIR", "VMRUN_STATE_DIR", "VMRUN_OVERLAY_DIR"} <= found
    assert found - ONLY_ADVICE == rows(PAGE.partition("## What lies where")[0])


def test_every_name_of_ours_is_on_the_page() -> None:
    """Not only those that are read as above: any VMRUN_ in Python, outside the names of C's constants."""
    constants = set()
    for path in (CHECKOUT / "runner" / "host" / "native").iterdir():
        if path.suffix in (".c", ".h", ".cdef"):
            constants |= set(re.findall(r"\bVMRUN_[A-Z_]+", path.read_text(encoding="utf-8")))
    for room in ("runner", "tests", "tools", "bench"):
        for path in (CHECKOUT / room).rglob("*"):
            if path.suffix in (".py", ".sh") or (path.is_file() and not path.suffix):
                named = set(re.findall(r"\bVMRUN_[A-Z_]+\b", path.read_text(encoding="utf-8")))
                assert named - constants <= rows(PAGE), f"{path}: {named - constants - rows(PAGE)}"


def test_no_row_is_of_a_variable_that_nobody_reads() -> None:
    """A page that promises more than there is would be worse than none."""
    text = "".join(
        path.read_text(encoding="utf-8")
        for room in ("runner", "tests", "bench")
        for path in (CHECKOUT / room).rglob("*.py")
        if path.name != "test_docs_environment.py"
    )
    assert [name for name in rows(PAGE) if f'"{name}"' not in text] == []
