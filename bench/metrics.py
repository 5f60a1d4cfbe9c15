"""What a figure measures, and what is aimed at."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """A limit for our value, or for ours divided by (or, ``over``, less) the best of ``peers``.

    It is met at or below the limit; at or above it where more is better.
    """

    limit: float
    peers: tuple[str, ...] = ()
    over: bool = False


class Metric(NamedTuple):
    """One number of a sample: its key there, how it is called, and in what it counts."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False
    goals: tuple[Goal, ...] = ()
