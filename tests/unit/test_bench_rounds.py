"""Interleaving: who is measured when, how often, and what a failure does."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bench.process import RunFailed
from bench.rounds import Contestant, Plan, Sample, interleave, order


def _contestants(names: list[str], log: list[str], broken: frozenset[str] = frozenset()) -> list[Contestant]:
    def run(name: str) -> Sample:
        log.append(name)
        if name in broken:
            raise RunFailed("it broke")
        return {"x": 1.0}

    return [Contestant(name, lambda name=name: run(name)) for name in names]


@given(st.integers(1, 6), st.integers(1, 4))
def test_everybody_has_every_place_of_a_round_equally_often(count: int, times: int) -> None:
    contestants = _contestants([str(i) for i in range(count)], [])
    for place in range(count):
        seen = Counter(order(contestants, number)[place].name for number in range(count * times))
        assert set(seen.values()) == {times}


def test_each_round_has_everybody_once() -> None:
    log: list[str] = []
    interleave(_contestants(["a", "b", "c"], log), Plan(3, 1), lambda *_: None)
    assert [sorted(log[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert len(log) == 12


def test_warmups_are_told_as_round_zero_and_counting_starts_at_one() -> None:
    told: list[int] = []
    interleave(_contestants(["a"], []), Plan(2, 2), lambda _who, number, _sample: told.append(number))
    assert told == [0, 0, 1, 2]


def test_who_fails_twice_is_left_out_and_the_others_go_on() -> None:
    log: list[str] = []
    told: list[object] = []
    broken = _contestants(["good", "bad"], log, frozenset({"bad"}))
    interleave(broken, Plan(4, 0), lambda who, _number, sample: told.append((who, sample)))
    assert log.count("bad") == 2
    assert log.count("good") == 4
    assert told.count(("bad", "it broke")) == 2


def test_no_round_begins_after_the_time_but_two_are_always_run() -> None:
    clock = iter(range(0, 1000, 50))
    log: list[str] = []
    interleave(_contestants(["a"], log), Plan(9, 0, 10.0), lambda *_: None, lambda: float(next(clock)))
    assert len(log) == 2
    interleave(
        _contestants(["a"], log), Plan(9, 0, 10.0, least=1), lambda *_: None, lambda: float(next(clock))
    )
    assert len(log) == 3
