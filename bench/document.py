"""docs/benchmarks.md: what was measured, how, on what, and how to do it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.metrics import Metric
from bench.place import LOAD
from bench.results import OURS, Outcome, aim, reached
from bench.session import Figure
from bench.spread import paired_ratio, spread

BUSY = 3.5
"""A load average that the bench alone does not make: a lab of two processors, and what reads from it."""

ENOUGH = 3
"""Runs that a goal is judged by."""

HEAD = """\
# Benchmarks

vmrun beside QEMU, beside a minimal VMM in C (`bench/lower_bound/vmm.c`, the lower bound), and beside
what else is installed.  This file and its plots are written by `make bench`; the same numbers are in
`bench/results.json`, the samples in `bench/samples.jsonl`.

    make bench          measures all of it and writes this file
    make bench-quick    the start of a machine, in under three minutes; writes nothing
    .venv/bin/python -m bench --only disk,net      some figures; the others keep their samples

Each value is the median of the runs, with the quartiles in brackets.  All who are measured take turns
within a round and the order turns too, so a machine that is slow for a minute is slow for everybody;
the ratio is the median of the ratios within a round.  A first round warms the caches and does not
count.  Where this host's KVM cannot run a stock kernel everything happens inside one lab (`make lab`):
a machine that QEMU emulates, where an exit costs far more than on hardware and CPU work 10 to 35
times as much, and where all virtual CPUs run on one of its two (docs/decisions/0049).  **Only rows of
one table compare with each other.**
"""
REPEAT = """\
Fewer than three runs say little, and no goal is called met by them.  A single run that failed is listed
under its table; a figure that failed, or was not measured, says so.  Peers that are not installed are
named, and nothing is said about their numbers.
"""


def document(figures: Sequence[Figure], outcomes: Sequence[Outcome], plots: Iterable[str]) -> str:
    """The file's text; ``plots`` are the names of figures that have one."""
    drawn = set(plots)
    parts = [HEAD, REPEAT, "## Goals\n", goals(figures, outcomes)]
    for figure, measured in zip(figures, outcomes, strict=True):
        parts.append(_section(figure, measured, measured.name in drawn))
    return "\n".join(parts)


def goals(figures: Sequence[Figure], outcomes: Sequence[Outcome]) -> str:
    """One line for each aim: what was reached, or that it could not be measured."""
    lines = ["| figure | aim | measured | runs | met |", "| --- | --- | --- | --- | --- |"]
    for figure, measured in zip(figures, outcomes, strict=True):
        for metric in figure.METRICS:
            for goal in metric.goals:
                got = reached(metric, goal, measured)
                title = f"{figure.TITLE}: {metric.title}"
                if got is None:
                    lines.append(f"| {title} | {aim(metric, goal)} | not measured | 0 | – |")
                    continue
                met = "–" if got.runs < ENOUGH else "yes" if got.met else "**no**"
                lines.append(f"| {title} | {got.aim} | {got.value:.3g} | {got.runs} | {met} |")
    return "\n".join(lines) + "\n"


def _section(figure: Figure, measured: Outcome, drawn: bool) -> str:
    lines = [f"## {figure.TITLE}\n", figure.METHOD + "\n"]
    if not measured.values and not measured.failed:
        lines.append("Not measured yet.\n")
    if measured.failed:
        lines.append(f"**This figure failed:** {_one_line(measured.failed)}\n")
    if measured.values:
        lines.append(table(figure.METRICS, measured))
    if (load := measured.facts.get(LOAD, 0.0)) > BUSY:
        lines.append(
            f"**Others were at work on this machine (load {load:g}): repeat it before you believe it.**\n"
        )
    if drawn:
        lines.append(f"![{figure.TITLE}](benchmarks/{measured.name}.svg)\n")
    if measured.missing:
        lines.append(f"Not installed, so not measured: {', '.join(measured.missing)}.\n")
    lines += [f"- failed: {_one_line(each)}" for each in measured.failures]
    if measured.failures:
        lines.append("")
    if measured.facts:
        lines.append(facts(measured) + "\n")
    return "\n".join(lines)


def table(metrics: Sequence[Metric], measured: Outcome) -> str:
    """A row for each metric, a column for each who, ours first, with the ratio of ours to theirs."""
    shown = [m for m in metrics if any(m.key in values for values in measured.values.values())]
    whos = sorted(measured.values, key=lambda who: who != OURS)
    lines = ["| | unit | " + " | ".join(_heading(who, measured) for who in whos) + " |"]
    lines.append("| --- " * (len(whos) + 2) + "|")
    ours = measured.values.get(OURS, {})
    for metric in shown:
        mine = ours.get(metric.key, {})
        cells = [cell(measured.values[who].get(metric.key, {}), mine if who != OURS else {}) for who in whos]
        lines.append(f"| {metric.title} | {metric.unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _heading(who: str, measured: Outcome) -> str:
    runs = max((len(rounds) for rounds in measured.values[who].values()), default=0)
    return f"{who} (n = {runs})"


def cell(values: dict[int, float], ours: dict[int, float]) -> str:
    """``7.31 [7.2–7.6] (ours 0.66 ×)``."""
    if not values:
        return "–"
    of = spread(list(values.values()))
    text = number(of.median)
    if of.runs > 1:
        text += f" [{number(of.low)}–{number(of.high)}]"
    ratio = paired_ratio(ours, values)
    return f"{text} (ours {ratio.median:.2f} ×)" if ratio else text


def number(value: float) -> str:
    """Three digits, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def facts(measured: Outcome) -> str:
    """Versions and circumstances, on one line."""
    words = [f"{key.replace('_', ' ')}: {value}" for key, value in measured.facts.items()]
    return f"<sub>{_one_line('; '.join(words))}</sub>"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:600]
