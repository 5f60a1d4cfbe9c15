"""One plot per figure: a small panel for each metric, medians as bars, quartiles as whiskers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.metrics import Metric
from bench.results import OURS, Outcome
from bench.spread import Spread, spread

OURS_COLOUR, PEER_COLOUR, INK, FAINT = "#0b6e99", "#b9c3cc", "#22303a", "#8a97a1"
PANELS_ACROSS = 3
TITLE_WIDTH = 34  # characters that a panel has room for


def plot(title: str, metrics: Sequence[Metric], measured: Outcome, path: Path) -> bool:
    """Write the picture (the suffix says in which form); False when there is nothing to show."""
    panels = [(metric, values) for metric in metrics if (values := _values(metric, measured))]
    if not panels:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "vmrun", "font.family": "DejaVu Sans", "text.color": INK})
    across = 2 if len(panels) == 4 else min(PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    bars = max(len(values) for _, values in panels)
    figure, grid = pyplot.subplots(
        down, across, figsize=(3.7 * across + 0.5, down * (0.42 * bars + 1.0) + 0.5), squeeze=False
    )
    for place, axes in enumerate(grid.flat):
        if place < len(panels):
            _panel(axes, *panels[place])
        else:
            axes.set_axis_off()
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return True


def _values(metric: Metric, measured: Outcome) -> dict[str, Spread]:
    return {
        who: spread(list(values[metric.key].values()))
        for who, values in measured.values.items()
        if values.get(metric.key)
    }


def _panel(axes: Any, metric: Metric, values: dict[str, Spread]) -> None:
    names = sorted(values, key=lambda who: (who != OURS, who))
    medians = [values[who].median for who in names]
    errors = [
        [values[who].median - values[who].low for who in names],
        [values[who].high - values[who].median for who in names],
    ]
    colours = [OURS_COLOUR if who == OURS else PEER_COLOUR for who in names]
    farthest = max(values[who].high for who in names) or 1.0
    axes.barh(range(len(names)), medians, color=colours, height=0.62)
    if any(values[who].runs > 1 for who in names):
        axes.errorbar(
            medians, range(len(names)), xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=3
        )
    for goal in metric.goals:
        if not goal.peers and goal.limit <= farthest * 1.2:
            axes.axvline(goal.limit, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    for row, who in enumerate(names):
        place = values[who].high + farthest * 0.03
        axes.text(place, row, _short(values[who].median), va="center", fontsize=8)
    axes.set_xlim(0, farthest * 1.28)
    better = "more is better" if metric.more_is_better else "less is better"
    axes.set_title(
        f"{textwrap.fill(metric.title, TITLE_WIDTH)}\n{metric.unit}, {better}", fontsize=8.5, loc="left"
    )
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="x", labelsize=7, colors=FAINT)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
