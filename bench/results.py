"""From the lines that were written while measuring to the rows of results.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bench.metrics import Goal, Metric
from bench.spread import Spread, paired_ratio, spread

OURS = "vmrun"
Record = Mapping[str, Any]
Rounds = dict[int, float]


class Outcome(NamedTuple):
    """A figure as it was measured: who → metric → round → value, and what went wrong."""

    name: str
    values: Mapping[str, Mapping[str, Rounds]]
    facts: Mapping[str, Any]
    missing: tuple[str, ...]
    failures: tuple[str, ...]  # single runs: "who, round 2: why"
    failed: str  # the figure as a whole: why; "" when it came to its end


def outcome(name: str, records: Iterable[Record]) -> Outcome:
    """What the lines say about one figure.  Warm-ups (round 0) do not count."""
    values: dict[str, dict[str, Rounds]] = {}
    facts: dict[str, Any] = {}
    missing: dict[str, None] = {}
    failures: list[str] = []
    failed = ""
    for record in records:
        if record["figure"] != name:
            continue
        match record["kind"]:
            case "sample" if record["round"] > 0:
                for key, value in record["values"].items():
                    values.setdefault(record["who"], {}).setdefault(key, {})[record["round"]] = value
            case "failure":
                when = f"round {record['round']}" if record["round"] else "warm-up"
                failures.append(f"{record['who']}, {when}: {record['why']}")
            case "missing":
                missing[record["who"]] = None
            case "failed" | "died":
                failed = record["why"]
            case "begin" | "end" | "remark":
                facts.update({k: v for k, v in record.items() if k not in ("kind", "figure")})
    return Outcome(name, values, facts, tuple(missing), tuple(failures), failed)


def rows(title: str, metrics: Iterable[Metric], measured: Outcome) -> list[dict[str, Any]]:
    """A row for each metric and each peer: {name, unit, ours, peer, peer_name, ratio, runs, spread}.

    ``spread`` has the quartiles of ours, the peer's and the ratio's.  What was not measured is
    null; a metric without a peer has one row, with null for the peer.
    """
    found: list[dict[str, Any]] = []
    for metric in metrics:
        ours = measured.values.get(OURS, {}).get(metric.key, {})
        peers = {
            who: values[metric.key]
            for who, values in measured.values.items()
            if who != OURS and metric.key in values
        }
        name = f"{title}: {metric.title}"
        found += [_row(name, metric.unit, ours, who, theirs) for who, theirs in peers.items()]
        if not peers:
            found.append(_row(name, metric.unit, ours, None, {}))
    return found


def _row(name: str, unit: str, ours: Rounds, peer_name: str | None, theirs: Rounds) -> dict[str, Any]:
    mine, other = _spread(ours), _spread(theirs)
    ratio = paired_ratio(ours, theirs)
    return {
        "name": name,
        "unit": unit,
        "ours": _rounded(mine.median) if mine else None,
        "peer": _rounded(other.median) if other else None,
        "peer_name": peer_name,
        "ratio": _rounded(ratio.median) if ratio else None,
        "runs": mine.runs if mine else 0,
        "spread": {"ours": _quartiles(mine), "peer": _quartiles(other), "ratio": _quartiles(ratio)},
    }


def _spread(values: Rounds) -> Spread | None:
    return spread(list(values.values())) if values else None


def _quartiles(of: Spread | None) -> list[float] | None:
    return [_rounded(of.low), _rounded(of.high)] if of else None


def _rounded(value: float) -> float:
    """Four digits: more would pretend."""
    return float(f"{value:.4g}")


class Reached(NamedTuple):
    """A goal beside what was measured: the words of the aim, the value for it, whether it is met by it."""

    aim: str
    value: float
    met: bool
    runs: int


def aim(metric: Metric, goal: Goal, peer: str = "") -> str:
    """What is aimed at, in words: ``≤ 0.7 × QEMU q35``."""
    sign = "≥" if metric.more_is_better else "≤"
    peer = peer or " or ".join(goal.peers)
    if not goal.peers:
        return f"{sign} {goal.limit:g} {metric.unit}"
    return f"{sign} {goal.limit:g} " + (f"{metric.unit} over {peer}" if goal.over else f"× {peer}")


def reached(metric: Metric, goal: Goal, measured: Outcome) -> Reached | None:
    """None where ours or every peer of the goal is missing."""
    ours = measured.values.get(OURS, {}).get(metric.key)
    if not ours:
        return None
    who, runs = "", len(ours)
    if not goal.peers:
        value = spread(list(ours.values())).median
    else:
        best = _best(metric, goal, measured)
        if best is None:
            return None
        who, theirs = best
        if goal.over:
            value = spread(list(ours.values())).median - spread(list(theirs.values())).median
        else:
            ratio = paired_ratio(ours, theirs)
            if ratio is None:
                return None
            value, runs = ratio.median, ratio.runs
    met = value >= goal.limit if metric.more_is_better else value <= goal.limit
    return Reached(aim(metric, goal, who), value, met, runs)


def _best(metric: Metric, goal: Goal, measured: Outcome) -> tuple[str, Rounds] | None:
    """The strongest of the goal's peers that was measured."""
    there = {who: rounds for who in goal.peers if (rounds := measured.values.get(who, {}).get(metric.key))}
    if not there:
        return None
    medians = {who: spread(list(rounds.values())).median for who, rounds in there.items()}
    who = (max if metric.more_is_better else min)(medians, key=lambda each: medians[each])
    return who, there[who]
