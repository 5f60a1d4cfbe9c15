"""What comes back from the measuring half, also when it dies on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import place
from bench.place import Record, measured


class _Fake:
    """A place whose whole life is written down beforehand."""

    def __init__(self, folder: Path, lines: list[Record]) -> None:
        self.folder = folder
        self.closed = False
        folder.mkdir()
        (folder / "results").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def ended(self) -> bool:
        return True

    def said(self) -> str:
        return "Killed"

    def close(self) -> None:
        self.closed = True


def _figure(name: str, *, whole: bool = True) -> list[Record]:
    lines: list[Record] = [{"kind": "begin", "figure": name}]
    lines.append({"kind": "sample", "figure": name, "who": "vmrun", "round": 1, "values": {"s": 1.0}})
    return [*lines, {"kind": "end", "figure": name}] if whole else lines


def _run(
    tmp_path: Path, lives: list[list[Record]], names: list[str]
) -> tuple[list[Record], list[list[str]], list[_Fake]]:
    asked: list[list[str]] = []
    places: list[_Fake] = []

    def make(words: list[str], programs: str) -> _Fake:
        asked.append(words)
        places.append(_Fake(tmp_path / str(len(asked)), lives[len(asked) - 1]))
        return places[-1]

    return measured(names, ["--quick"], "", lambda _: None, make), asked, places


def test_all_figures_of_one_place_come_back(tmp_path: Path) -> None:
    records, asked, places = _run(tmp_path, [[*_figure("a"), *_figure("b")]], ["a", "b"])
    assert asked == [["--quick", "a", "b"]]
    assert [record["kind"] for record in records].count("end") == 2
    assert places[0].closed


def test_a_place_that_dies_costs_the_figure_it_was_at_and_the_rest_gets_a_new_one(tmp_path: Path) -> None:
    lives = [[*_figure("a"), *_figure("b", whole=False)], _figure("c")]
    records, asked, places = _run(tmp_path, lives, ["a", "b", "c"])
    assert asked == [["--quick", "a", "b", "c"], ["--quick", "c"]]
    died = [record for record in records if record["kind"] == "died"]
    assert [record["figure"] for record in died] == ["b"]
    assert "Killed" in died[0]["why"]
    assert all(each.closed for each in places)


def test_a_place_that_never_says_anything_is_not_tried_again(tmp_path: Path) -> None:
    records, asked, _ = _run(tmp_path, [[]], ["a", "b"])
    assert asked == [["--quick", "a", "b"]]
    assert [(record["kind"], record["figure"]) for record in records] == [("died", "a"), ("died", "b")]


def test_a_silent_place_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "START_SECONDS", 0.0)
    monkeypatch.setattr(_Fake, "ended", lambda self: False)
    records, _, places = _run(tmp_path, [[]], ["a"])
    assert "said nothing" in records[0]["why"]
    assert places[0].closed
