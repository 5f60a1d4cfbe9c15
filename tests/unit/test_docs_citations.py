"""What code and documents cite is in this repository, and the tables of rules name code that is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ROOMS = ("runner", "tests", "tools", "bench", "vms", "docs", "schemas", ".ci")
KINDS = {".py", ".c", ".h", ".cdef", ".sh", ".md", ".toml", ".json", ""}
MADE = {"docs/benchmarks.md", "bench/results.json"}  # by the bench, whose own tests look at them
FOREIGN = {"docs/vsock.md": "Firecracker", "doc/lz4_Frame_format.md": "lz4"}
"""Documents of other projects, and the name that has to stand beside them."""

NUMBERS = r"\d+(?:(?:, | and | to |-)\d+)*"


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of every file that people write."""
    outside = [TOP / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "setup.py")]
    inside = [path for room in ROOMS for path in (TOP / room).rglob("*") if path.suffix in KINDS]
    for path in sorted(outside + inside):
        name = str(path.relative_to(TOP))
        if path.is_file() and name not in MADE and "__pycache__" not in name:
            yield name, path.read_text(encoding="utf-8")


TEXTS = dict(texts())


def numbers(words: str) -> set[int]:
    """``5``, ``7 and 8``, ``5 to 9``, ``1-4, 11``."""
    found: set[int] = set()
    for part in re.split(r", | and ", words):
        first, _, last = part.replace(" to ", "-").partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def cited(pattern: str) -> Iterator[tuple[str, str]]:
    """File and the first group of every place where the pattern stands, line breaks being blanks."""
    for name, text in TEXTS.items():
        flat = re.sub(r"\s*\n\s*(?:\*|#|//)?\s*", " ", text)
        for match in re.finditer(pattern, flat, re.I):
            yield name, match.group(1)


def test_every_row_of_the_device_bugs_that_is_cited_exists() -> None:
    """The rows are 1 to 20 without a gap, and nobody cites another one."""
    rows = [int(row) for row in re.findall(r"^\| (\d+) \|", TEXTS["docs/reference/device-bugs.md"], re.M)]
    assert rows == list(range(1, 21))
    found = list(cited(rf"device-bugs ({NUMBERS})"))
    assert {number for _, words in found for number in numbers(words)} >= set(range(1, 20))
    for name, words in found:
        assert numbers(words) <= set(rows), f"{name}: device-bugs {words}"


def test_every_rule_of_vfio_that_is_cited_exists() -> None:
    """Engine side 1 to 11, host side 1 to 7; a citation says which side."""
    page = TEXTS["docs/reference/vfio.md"]
    sides = dict(re.findall(r"^## (\w+) side\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    rules = {
        side.lower(): [int(n) for n in re.findall(r"^(\d+)\. ", text, re.M)] for side, text in sides.items()
    }
    assert rules == {"host": list(range(1, 8)), "engine": list(range(1, 12))}
    found = list(cited(rf"vfio\.md, ((?:engine|host) {NUMBERS})"))
    assert len(found) > 10
    for name, words in found:
        side, _, rest = words.partition(" ")
        assert numbers(rest) <= set(rules[side]), f"{name}: vfio.md, {words}"


def test_every_decision_that_is_cited_exists() -> None:
    """By its number of four digits, which is also how its file begins."""
    there = {path.name[:4] for path in (TOP / "docs" / "decisions").glob("*.md")}
    found = [*cited(r"decisions? (\d+(?:(?:, | and | to )\d+)*)\b"), *cited(r"decisions/(\d+)")]
    assert len(found) > 10
    for name, words in found:
        for number in re.findall(r"\d+", words):
            assert number in there, f"{name}: decision {number}"


def test_decisions_have_numbers_of_their_own_and_titles_of_one_form() -> None:
    """``# NNNN Title``, with the number that the file has."""
    seen = set()
    for path in sorted((TOP / "docs" / "decisions").iterdir()):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert re.fullmatch(rf"# {path.name[:4]} \S.*[^.]", first), f"{path.name}: {first}"
        assert path.name[:4] not in seen, path.name
        seen.add(path.name[:4])


def test_every_document_that_is_named_is_here() -> None:
    """Under the repository, docs, or one of docs' folders; another project's is named with its project."""
    folders = [TOP, TOP / "docs", *(path for path in (TOP / "docs").iterdir() if path.is_dir())]
    for name, text in TEXTS.items():
        for match in re.finditer(r"(?<![\w*{}/.-])((?:[\w-]+/)*[\w-]+\.md)\b", text):
            document = match.group(1)
            if document in FOREIGN:
                assert FOREIGN[document] in text, f"{name}: whose is {document}?"
                continue
            beside = (TOP / name).parent / document
            assert beside.exists() or any((folder / document).exists() for folder in folders), (
                f"{name}: {document}"
            )


def test_no_text_speaks_of_a_tracker_that_nobody_has() -> None:
    """A number of an issue means something only beside the project whose issue it is."""
    for name, text in TEXTS.items():
        assert not re.search(r"\bissues? #?\d|\bissue on\b|\bthe issues?\b|\bdesign, decision", text, re.I), (
            name
        )


def test_every_path_that_a_document_names_is_there() -> None:
    """Of ours, in backquotes; a capital word in one stands for many."""
    for name, text in TEXTS.items():
        if name.startswith("docs/") or name == "README.md":
            for path in re.findall(r"`((?:runner|tests|bench|tools|vms|schemas|docs)/[\w./-]+)", text):
                assert (TOP / path).exists() or re.search(r"\b[A-Z]{3,}\b", path), f"{name}: {path}"


def test_every_room_is_in_the_architecture() -> None:
    """A room that is not on the plan is found by nobody."""
    page = TEXTS["docs/architecture.md"]
    for path in (TOP / "runner").iterdir():
        if (path / "__init__.py").exists():
            assert f"| `{path.name}/` | " in page, path.name
        elif path.suffix == ".py" and path.stem != "__init__":
            assert f"`{path.name}`" in page, path.name


@pytest.mark.parametrize("page", ["device-bugs", "vfio"])
def test_the_code_and_the_tests_that_a_table_names_are_there(page: str) -> None:
    """Each path exists, and each test is a function of its file."""
    text = TEXTS[f"docs/reference/{page}.md"]
    paths = re.findall(r"`((?:runner|tests)/[\w/]+(?:\.\w+)?/?)(?:::(\w+))?`", text)
    assert len(paths) > 10
    for path, test in paths:
        assert (TOP / path).exists(), path
        assert not test or f"def {test}(" in TEXTS[path], f"{path}::{test}"


def test_each_row_of_the_device_bugs_has_code_and_a_test() -> None:
    """A row without either would be a promise only."""
    for row in re.findall(r"^\| \d+ \|.*$", TEXTS["docs/reference/device-bugs.md"], re.M):
        assert "`runner/" in row or "both rings" in row, row
        assert "`tests/" in row, row
