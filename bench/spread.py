"""Medians and quartiles of few, noisy samples; ratios of samples that were taken in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median, and the quartiles around it."""

    median: float
    low: float
    high: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value.  Quartiles are interpolated within the sample (type 7, as NumPy does)."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def paired_ratio(ours: Mapping[int, float], peer: Mapping[int, float]) -> Spread | None:
    """Ours divided by the peer's, round by round; None when no round has both.

    A machine that is slow for a minute is slow for both of a pair, so these ratios vary less
    than the values do.
    """
    both = ours.keys() & peer.keys()
    pairs = [ours[number] / peer[number] for number in sorted(both) if peer[number]]
    return spread(pairs) if pairs else None
