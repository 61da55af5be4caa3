"""Drawings of distributions: latencies by percentile, and how many locks were held for longer than what.

Lives here: what puts all samples of all repetitions into one line. Must not live here: medians of repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes

from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.compare import combinations
from twophase.benchmarks.report.paper.draw.canvas import LOOKS, Grid, label_ends, log_scale, named, plot
from twophase.benchmarks.report.paper.words import level, levels
from twophase.benchmarks.report.values import Level, Results, Section, Who, percentile

_PERCENTILES: Final = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93, 95, 97, 98, 99, 99.3, 99.6, 99.9)
_TICKS: Final = (50, 90, 99, 99.9)
_LINES: Final = ("solid", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 1, 1, 1)))
_POINTS: Final = 300


def latencies(found: Results) -> Plot | None:
    """By percentile, the rare slow ones with as much room as the many others."""
    panels = [factors for factors in combinations(found, Section.LATENCY) if _whos(found, factors, "latencies_ms")]
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)

    def draw(grid: Grid) -> None:
        flat = [axes for row in grid for axes in row]
        for axes in flat[len(panels) :]:
            axes.set_axis_off()
        for axes, factors in zip(flat, panels, strict=False):
            ends = []
            for who in _whos(found, factors, "latencies_ms"):
                values = _all(found.series(Section.LATENCY, who, "latencies_ms", **factors))
                shares = [share for share in _PERCENTILES if len(values) * (100 - share) >= 100 or share <= 50]
                ys = [percentile(values, share) for share in shares]
                look = LOOKS[who]
                axes.plot(
                    [_rare(share) for share in shares],
                    [y if math.isfinite(y) else math.nan for y in ys],
                    linestyle=look.line,
                    linewidth=look.width,
                    color=look.colour,
                    marker=look.marker,
                    markersize=3.5,
                    markevery=[index for index, share in enumerate(shares) if share in _TICKS],
                )
                ends.append((_rare(shares[-1]), ys[-1], named(who)))
            log_scale(axes, y=True)
            axes.set_xticks([_rare(tick) for tick in _TICKS], [f"{tick:g}" for tick in _TICKS])
            axes.set_xlim(_rare(1), _rare(99.9))
            axes.set_title(levels(factors))
            axes.set_xlabel("% of transactions that took at most so long")
            axes.set_ylabel("latency (ms)")
            label_ends(axes, ends)

    return plot(
        "latency",
        "Latency by percentile, both axes stretched so that rare slow transactions can be seen: read upwards from 50"
        " for the median, from 99 for the slowest of a hundred. It counts from the moment at which a transaction was"
        " due, also if the one before it was late.",
        "A panel for each workload and offered rate: latency on a logarithmic axis over the percentile, one line for"
        " each contender.",
        (rows, columns),
        2.9,
        draw,
    )


def locks(found: Results, points: Mapping[Who, Level]) -> Plot | None:
    """How many rows stayed locked, and branches in doubt, for longer than what, through crashes."""
    outages = found.levels(Section.CRASH, "outage_s")
    panels = [
        (title, name, who)
        for title, name in (("row locked", "lock_holds_ms"), ("branch prepared", "in_doubt_ms"))
        for who in (Who.TWO_PHASE, Who.SAGA)
        if who in points and any(_through(found, name, who, points[who], outage) for outage in outages)
    ]
    if not panels:
        return None

    def draw(grid: Grid) -> None:
        for axes, (title, name, who) in zip(grid[0], panels, strict=True):
            for outage, style in zip(outages, _LINES, strict=False):
                values = sorted(_through(found, name, who, points[who], outage))
                if values:
                    xs, ys = _longer(values)
                    axes.step(
                        xs,
                        ys,
                        where="post",
                        linestyle=style,
                        linewidth=1.5,
                        color=LOOKS[who].colour,
                        label=level("outage_s", outage),
                    )
            axes.set_title(f"{title}\n{named(who)}")
            axes.set_xlabel("for longer than (ms)")
            log_scale(axes, x=True, y=True)
        _same_limits(grid[0])
        grid[0][0].set_ylabel("% of all")
        grid[0][0].legend(loc="lower left", frameon=False, fontsize=8, handlelength=3.5)

    return plot(
        "crash-locks",
        "How many rows stayed locked, and how many branches were prepared, for longer than a time, over the whole"
        " measurement with the crash in it; a line for each outage. A line that goes far to the"
        " right is what others wait for.",
        "Share of locks and of prepared branches that lasted longer than a time, on logarithmic axes, for each outage.",
        (1, len(panels)),
        3.1,
        draw,
    )


def _same_limits(row: Sequence[Axes]) -> None:
    left, right = min(axes.get_xlim()[0] for axes in row), max(axes.get_xlim()[1] for axes in row)
    bottom, top = min(axes.get_ylim()[0] for axes in row), max(axes.get_ylim()[1] for axes in row)
    for axes in row:
        axes.set_xlim(left, right)
        axes.set_ylim(bottom / 2, top * 1.3)
        log_scale(axes, x=True, y=True)  # the ticks that these limits want


def _longer(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Of sorted values: times, and the share in % that lasted as long or longer; thinned out, the tail kept."""
    count = len(values)
    kept = sorted({*range(0, count, max(1, count // _POINTS)), *range(max(0, count - 50), count)})
    return [max(values[index], 0.01) for index in kept], [100 * (count - index) / count for index in kept]


def _through(found: Results, name: str, who: Who, point: Level, outage: Level) -> list[float]:
    return [
        value
        for value in _all(found.series(Section.CRASH, who, name, point=point, outage_s=outage))
        if math.isfinite(value)
    ]


def _whos(found: Results, factors: Mapping[str, Level], name: str) -> list[Who]:
    return [who for who in Who if _all(found.series(Section.LATENCY, who, name, **factors))]


def _all(series: Sequence[Sequence[float]]) -> list[float]:
    return [value for repetition in series for value in repetition]


def _rare(share: float) -> float:
    """Where a percentile stands: each further nine is a step of the same length."""
    return -math.log10(1 - share / 100)
