"""The house has rooms: what may import what, read from the text of every module (decision 0007)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = frozenset(
    ("definition", "artifacts", "graph", "devices", "bus", "wire", "firmware", "lending", "exchange")
)
BELOW = frozenset(("host", "backends", "engine", "supervisor", "verdict", "cli"))
EVERYWHERE = frozenset(("errors", "folders", "typed", "light", "hostfacts"))
"""Modules of no room: they know nothing but each other."""

ACROSS_THE_LINE = {
    ("exchange/to_qemu.py", "runner.engine.qemu.arguments"): "an exported command has the engine's own words",
    ("exchange/to_qemu.py", "runner.engine.qemu.machine"): "the same",
}
LONG: dict[str, str] = {}
"""Files of the program with more than 400 lines, and why."""

SEES_C = {
    "engine/kvm/process.py": "the VM process confines itself before it imports anything else, and a module "
    "for four calls would be one more to read on the way to the first instruction",
}


def sources() -> list[Path]:
    return sorted(path for path in (ROOT / "runner").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Each module that is named in the file: in a function, for a type checker, as a string too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in below if is_module(name)] or [node.module]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
            yield node.value  # for import_module


def is_module(name: str) -> bool:
    if not name.replace(".", "").isidentifier() or not name.startswith("runner."):
        return False
    at = ROOT.joinpath(*name.split("."))
    return at.with_suffix(".py").exists() or (at / "__init__.py").exists() or name.endswith("._native")


def room(module: str) -> str:
    """``graph`` of ``runner.graph.plan``; "" for what is not ours."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "runner" else ""


def crossings() -> dict[tuple[str, str], None]:
    """(file, module) of every import from a pure room, or a module of no room, across the line."""
    found = {}
    for path in sources():
        name = str(path.relative_to(ROOT / "runner"))
        here = name.partition("/")[0].removesuffix(".py")
        if here in PURE | EVERYWHERE:
            allowed = EVERYWHERE | (PURE if here in PURE else frozenset()) | {""}
            found |= {(name, module): None for module in imported(path) if room(module) not in allowed}
    return found


def test_every_room_is_on_one_side_of_the_line() -> None:
    rooms = {path.name for path in (ROOT / "runner").iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in (ROOT / "runner").glob("*.py")} - {"__init__"}
    assert rooms == PURE | BELOW
    assert modules == EVERYWHERE


def test_nothing_pure_imports_what_touches_the_host_but_for_the_listed_exceptions() -> None:
    assert crossings().keys() == ACROSS_THE_LINE.keys()


def test_only_host_sees_the_compiled_part_but_for_the_listed_exception() -> None:
    names = {
        str(path.relative_to(ROOT / "runner"))
        for path in sources()
        if any(module.startswith(("runner.host.native._native", "cffi")) for module in imported(path))
    }
    assert {name for name in names if not name.startswith("host/")} == SEES_C.keys()


@pytest.mark.parametrize("owned", ["cli"])
def test_nobody_imports_a_command_but_commands(owned: str) -> None:
    strangers = [
        str(path)
        for path in sources()
        if path.relative_to(ROOT / "runner").parts[0] != owned
        and any(room(module) == owned for module in imported(path))
    ]
    assert strangers == []


def test_a_file_of_more_than_400_lines_has_a_reason() -> None:
    """Small rooms: one that has outgrown them is split, or says why not."""
    files = [path for path in (ROOT / "runner").rglob("*.*") if path.suffix in (".py", ".c", ".h")]
    long = {str(path.relative_to(ROOT / "runner")) for path in files if path.read_text().count("\n") > 400}
    assert long == LONG.keys()
