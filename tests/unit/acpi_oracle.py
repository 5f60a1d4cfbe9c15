"""ACPICA's iasl as a judge of tables: disassembles, and compiles the result again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def round_trip(table: bytes, folder: Path, name: str) -> tuple[str, bytes]:
    """(source, recompiled table); fails where iasl finds an error or a warning."""
    binary = folder / f"{name}.aml"
    binary.write_bytes(table)
    taken_apart = _iasl("-p", folder / name, "-d", binary)
    assert not re.search(r"error|warning", taken_apart, re.IGNORECASE), taken_apart
    built = _iasl("-oa", "-p", folder / f"{name}-again", folder / f"{name}.dsl")
    assert "Compilation successful. 0 Errors, 0 Warnings" in built, built
    source = (folder / f"{name}.dsl").read_text()
    return source[source.index("*/") + 3 :], (folder / f"{name}-again.aml").read_bytes()


def compiled(source: str, folder: Path, name: str) -> bytes:
    """The AML behind the table header that iasl makes of ``source`` (a body of ASL terms)."""
    text = f'DefinitionBlock ("", "DSDT", 2, "VMRUN ", "VMRUNPC ", 1) {{\n{source}\n}}\n'
    (folder / f"{name}.dsl").write_text(text)
    _iasl("-oa", "-p", folder / name, folder / f"{name}.dsl")
    return (folder / f"{name}.aml").read_bytes()[36:]


def _iasl(*words: object) -> str:
    done = subprocess.run(["iasl", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
