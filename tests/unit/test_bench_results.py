"""From the lines of a measurement to rows, goals and the document."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from bench.document import cell, document, goals, number
from bench.metrics import Goal, Metric
from bench.results import Outcome, outcome, reached, rows

SECONDS = Metric("s", "time", "s", goals=(Goal(0.7, ("fast", "slow")), Goal(2.0)))
SPEED = Metric("v", "speed", "MB/s", True, goals=(Goal(1.2, ("fast",)),))


def _sample(who: str, number: int, **values: float) -> dict[str, Any]:
    return {"kind": "sample", "figure": "f", "who": who, "round": number, "values": values}


RECORDS = [
    {"kind": "begin", "figure": "f", "measured": "today"},
    {"kind": "missing", "figure": "f", "who": "absent"},
    _sample("vmrun", 0, s=99.0),
    _sample("vmrun", 1, s=1.0, v=60.0),
    _sample("fast", 1, s=2.0, v=50.0),
    _sample("slow", 1, s=4.0),
    _sample("vmrun", 2, s=1.2, v=66.0),
    _sample("fast", 2, s=2.0, v=50.0),
    {"kind": "failure", "figure": "f", "who": "slow", "round": 2, "why": "no line\nby the deadline"},
    {"kind": "sample", "figure": "other", "who": "vmrun", "round": 1, "values": {"s": 7.0}},
    {"kind": "end", "figure": "f", "seconds": 3},
]


@pytest.fixture
def measured() -> Outcome:
    return outcome("f", RECORDS)


class _Figure:
    NAME: ClassVar = "f"
    TITLE: ClassVar = "A figure"
    METRICS: ClassVar = (SECONDS, SPEED)
    METHOD: ClassVar = "How."
    IN_QUICK: ClassVar = True
    NEEDS_KVM: ClassVar = True

    def prepare(self) -> None: ...

    def measure(self, bench: object) -> None: ...


def test_warmups_and_other_figures_do_not_count(measured: Outcome) -> None:
    assert measured.values["vmrun"]["s"] == {1: 1.0, 2: 1.2}


def test_a_row_has_the_keys_that_the_file_promises_and_quartiles_of_all_three(measured: Outcome) -> None:
    row = next(row for row in rows("f", (SECONDS,), measured) if row["peer_name"] == "fast")
    assert list(row) == ["name", "unit", "ours", "peer", "peer_name", "ratio", "runs", "spread"]
    assert (row["name"], row["ours"], row["peer"], row["ratio"], row["runs"]) == (
        "f: time",
        1.1,
        2.0,
        0.55,
        2,
    )
    assert row["spread"] == {"ours": [1.05, 1.15], "peer": [2.0, 2.0], "ratio": [0.525, 0.575]}


def test_who_was_not_measured_has_no_row_and_what_is_missing_is_null(measured: Outcome) -> None:
    found = rows("f", (SECONDS, SPEED), measured)
    assert {row["peer_name"] for row in found} == {"fast", "slow"}
    alone = rows("f", (SECONDS,), outcome("f", [_sample("vmrun", 1, s=3.0)]))
    assert [(row["ours"], row["peer"], row["ratio"]) for row in alone] == [(3.0, None, None)]
    nothing = rows("f", (SECONDS,), outcome("f", []))
    assert [(row["ours"], row["runs"]) for row in nothing] == [(None, 0)]


def test_a_goal_is_held_against_the_best_of_its_peers(measured: Outcome) -> None:
    got = reached(SECONDS, SECONDS.goals[0], measured)
    assert got is not None
    assert (got.aim, round(got.value, 3), got.met) == ("≤ 0.7 × fast", 0.55, True)


def test_more_can_be_better(measured: Outcome) -> None:
    got = reached(SPEED, SPEED.goals[0], measured)
    assert got is not None
    assert got.met
    assert got.aim == "≥ 1.2 × fast"
    assert not reached(SPEED, Goal(1.4, ("fast",)), measured).met  # type: ignore[union-attr]


def test_a_goal_without_a_peer_is_a_limit_and_one_over_a_peer_a_difference(measured: Outcome) -> None:
    assert reached(SECONDS, Goal(1.0), measured) == ("≤ 1 s", 1.1, False, 2)
    got = reached(SECONDS, Goal(-0.8, ("fast",), over=True), measured)
    assert got is not None
    assert (got.aim, round(got.value, 3), got.met) == ("≤ -0.8 s over fast", -0.9, True)


def test_a_goal_whose_peer_is_missing_is_said_to_be_not_measured(measured: Outcome) -> None:
    assert reached(SECONDS, Goal(0.9, ("absent",)), measured) is None
    figure = _Figure()
    figure.METRICS = (Metric("s", "time", "s", goals=(Goal(0.9, ("absent",)),)),)  # type: ignore[misc]
    assert "time | ≤ 0.9 × absent | not measured | 0 | – |" in goals([figure], [measured])


def test_two_runs_do_not_meet_a_goal_and_three_do() -> None:
    figure = _Figure()
    figure.METRICS = (Metric("s", "time", "s", goals=(Goal(2.0),)),)  # type: ignore[misc]
    for runs, met in ((2, "–"), (3, "yes")):
        some = outcome("f", [_sample("vmrun", number, s=1.0) for number in range(1, runs + 1)])
        assert f"time | ≤ 2 s | 1 | {runs} | {met} |" in goals([figure], [some])


def test_a_figure_that_was_not_measured_is_there_and_says_so() -> None:
    assert "Not measured yet." in document([_Figure()], [outcome("f", [])], [])
    assert "Not measured yet." not in document([_Figure()], [outcome("f", [_sample("vmrun", 1, s=1.0)])], [])


def test_one_value_has_no_spread() -> None:
    assert cell({1: 2.0}, {}) == "2"
    assert cell({1: 2.0, 2: 2.0}, {}) == "2 [2–2]"


def test_the_document_tells_numbers_failures_and_who_is_missing(measured: Outcome) -> None:
    text = document([_Figure()], [measured], ["f"])
    assert "| time | s | 1.1 [1.05–1.15] | 2 [2–2] (ours 0.55 ×) |" in text
    assert "Not installed, so not measured: absent." in text
    assert "- failed: slow, round 2: no line by the deadline" in text
    assert "](benchmarks/f.svg)" in text
    assert "measured: today" in text


def test_a_busy_machine_is_told_beside_the_numbers() -> None:
    quiet = outcome("f", [*RECORDS, {"kind": "end", "figure": "f", "load_of_the_host": 2.1}])
    busy = outcome("f", [*RECORDS, {"kind": "end", "figure": "f", "load_of_the_host": 8.0}])
    assert "Others were at work" not in document([_Figure()], [quiet], [])
    assert "Others were at work on this machine (load 8)" in document([_Figure()], [busy], [])


def test_a_figure_that_failed_says_why_and_shows_no_table() -> None:
    died = outcome("f", [{"kind": "died", "figure": "f", "why": "the lab ended"}])
    text = document([_Figure()], [died], [])
    assert "**This figure failed:** the lab ended" in text
    assert "![" not in text


def test_numbers_have_three_digits_and_large_ones_are_whole() -> None:
    assert [number(value) for value in (0.0, 0.01234, 7.318, 99.96, 26243.4)] == [
        "0", "0.0123", "7.32", "100", "26,243",
    ]  # fmt: skip
    assert cell({}, {1: 1.0}) == "–"
