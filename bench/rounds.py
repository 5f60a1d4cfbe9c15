"""Interleaved measurement: in each round everybody once, in turns, so that drift meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.process import RunFailed

Sample = dict[str, float]
"""Metric → value, of one run."""

MAX_FAILURES = 2


class Contestant(NamedTuple):
    """Somebody who is measured: ``run`` gives one sample or raises RunFailed."""

    name: str
    run: Callable[[], Sample]


class Plan(NamedTuple):
    """How often: ``warmups`` rounds that do not count, then ``rounds``, but none begun after ``seconds``.

    ``least`` of them are run however long they take; one value alone has no spread.
    """

    rounds: int
    warmups: int = 1
    seconds: float = float("inf")
    least: int = 2


Tell = Callable[[str, int, Sample | str], None]
"""(who, round from 1, sample or why there is none); round 0 is a warm-up."""


def order(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Who runs when in round ``number``: everybody is first, second … equally often."""
    turn = number % len(contestants) if contestants else 0
    return [*contestants[turn:], *contestants[:turn]]


def interleave(
    contestants: Sequence[Contestant], plan: Plan, tell: Tell, clock: Callable[[], float] = time.monotonic
) -> None:
    """Run all rounds.  Who fails twice is left out of the rest; a failure is told, never hidden."""
    began = clock()
    failures: dict[str, int] = {}
    for number in range(plan.warmups + plan.rounds):
        counted = number - plan.warmups + 1
        if counted > plan.least and clock() - began > plan.seconds:
            return
        for who in order(contestants, number):
            if failures.get(who.name, 0) >= MAX_FAILURES:
                continue
            try:
                tell(who.name, max(0, counted), who.run())
            except (RunFailed, OSError) as error:
                failures[who.name] = failures.get(who.name, 0) + 1
                tell(who.name, max(0, counted), str(error))
