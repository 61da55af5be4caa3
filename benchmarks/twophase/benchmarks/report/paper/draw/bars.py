"""Drawings of figures side by side: capacity, and anomalies beside throughput.

Lives here: bars with their numbers. Must not live here: lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.compare import combinations, spread_of
from twophase.benchmarks.report.paper.draw.canvas import LOOKS, Grid, named, plot
from twophase.benchmarks.report.paper.spreads import Spread
from twophase.benchmarks.report.paper.words import levels, number, quantity
from twophase.benchmarks.report.values import Level, Results, Section, Who

_ANOMALIES = ("seen_half_per_10000", "undone_seen_per_10000", "half_per_10000")


def capacity(found: Results) -> Plot | None:
    """Throughput of everybody: a panel for each workload and number of clients, where fewest are refused."""
    panels = [factors for factors in combinations(found, Section.CAPACITY) if factors == _least_refused(found, factors)]
    kept = [
        (factors, bars) for factors in panels if (bars := _bars(found, Section.CAPACITY, "throughput_per_s", factors))
    ]
    if not kept:
        return None
    columns = min(2, len(kept))
    rows = math.ceil(len(kept) / columns)

    def draw(grid: Grid) -> None:
        flat = [axes for row in grid for axes in row]
        for axes in flat[len(kept) :]:
            axes.set_axis_off()
        for axes, (factors, bars) in zip(flat, kept, strict=False):
            _panel(axes, bars, quantity(CATALOGUE[Section.CAPACITY].figures["throughput_per_s"]))
            axes.set_title(
                levels({name: value for name, value in factors.items() if (name, value) != ("refused_share", 0)})
            )

    return plot(
        "capacity",
        "Transactions a second, each client sending its next as soon as the last one is done. Bars are medians; a thin"
        " line is the spread: where 19 of 20 medians of another run are expected.",
        "Bars of throughput for each contender, a panel for each workload and number of clients.",
        (rows, columns),
        2.1,
        draw,
    )


def _least_refused(found: Results, factors: Mapping[str, Level]) -> Mapping[str, Level]:
    """Of those with the same workload and clients."""
    alike = [
        each
        for each in combinations(found, Section.CAPACITY)
        if all(each[name] == factors[name] for name in each if name != "refused_share")
    ]
    return min(alike, key=lambda each: float(each.get("refused_share", 0)))


def anomalies(found: Results) -> Plot | None:
    """What others saw, and what stayed half done, beside the throughput it bought."""
    rows = [
        factors
        for factors in combinations(found, Section.ISOLATION)
        if _bars(found, Section.ISOLATION, "throughput_per_s", factors)
    ]
    if not rows:
        return None
    figures = ("throughput_per_s", *_ANOMALIES)
    titles = ("throughput", "seen half done", "seen, and undone later", "half done for good")

    def draw(grid: Grid) -> None:
        for axes_row, factors in zip(grid, rows, strict=True):
            for axes, figure, title in zip(axes_row, figures, titles, strict=True):
                bars = _bars(found, Section.ISOLATION, figure, factors)
                _panel(axes, bars, "per second" if figure == "throughput_per_s" else "per 10,000")
                axes.set_title(title)
                if axes is not axes_row[0]:
                    axes.set_yticks([])
            axes_row[0].set_title(levels(factors) + "\n" + titles[0])

    return plot(
        "anomalies",
        "What the throughput on the left was bought with: looks at both databases that saw a transaction half done,"
        " looks that saw what was undone later, and transactions that stayed half done, each per 10,000.",
        "Bars for each contender: throughput, and beside it three kinds of anomalies per 10,000.",
        (len(rows), len(figures)),
        2.3,
        draw,
    )


def _bars(found: Results, section: Section, figure: str, factors: Mapping[str, Level]) -> dict[Who, Spread]:
    return {
        who: spread
        for who in found.whos(section)
        if (spread := spread_of(found, section, who, figure, **factors)) is not None and math.isfinite(spread.value)
    }


def _panel(axes: Axes, bars: Mapping[Who, Spread], unit: str) -> None:
    whos: Sequence[Who] = list(bars)
    for place, who in enumerate(whos):
        look, spread = LOOKS[who], bars[who]
        axes.barh(place, spread.value, height=0.66, facecolor=look.fill, edgecolor=look.colour, hatch=look.hatch)
        axes.plot([spread.low, spread.high], [place, place], color="black", linewidth=0.9)
        axes.annotate(
            number(spread.value),
            (max(spread.high, spread.value), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(whos)), [named(who) for who in whos])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    highest = max((spread.high for spread in bars.values()), default=0.0)
    axes.set_xlim(0, highest * 1.3 if highest else 1)
    if not highest:
        axes.set_xticks([0])
    axes.set_xlabel(unit)
