"""Drawings of a figure against a factor: contention, fan-out, clearing, a slow participant.

Lives here: lines with a point for each level. Must not live here: time and distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.compare import spread_of
from twophase.benchmarks.report.paper.draw.canvas import Grid, label_ends, line, log_scale, named, plot
from twophase.benchmarks.report.paper.spreads import Spread
from twophase.benchmarks.report.paper.words import plain, quantity
from twophase.benchmarks.report.values import Level, Results, Section, Who

_WIDE: Final = 8
"""From this ratio of the highest to the lowest on, an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One figure of a section over one factor, at fixed levels of the others."""

    section: Section
    figure: str
    factor: str
    fixed: Mapping[str, Level]
    title: str = ""

    def lines(self, found: Results, levels: Sequence[Level]) -> dict[Who, list[tuple[int, Spread]]]:
        """For each contender the places of the levels at which it was measured, and what was."""
        lines = {}
        for who in found.whos(self.section):
            measured = [
                (place, spread)
                for place, each in enumerate(levels)
                if (spread := spread_of(found, self.section, who, self.figure, **self.fixed, **{self.factor: each}))
            ]
            if measured:
                lines[who] = measured
        return lines


def contention(found: Results) -> Plot | None:
    """Throughput and lock hold, the more rows all share."""
    clients = found.levels(Section.CONTENTION, "clients")
    if not clients:
        return None
    most = clients[-1]
    levels = by_contention(found.levels(Section.CONTENTION, "hot_rows"))
    fixed = {"clients": most}
    panels = [
        _Panel(Section.CONTENTION, "throughput_per_s", "hot_rows", fixed, "throughput"),
        _Panel(Section.CONTENTION, "lock_hold_p50_ms", "hot_rows", fixed, "how long a row is locked"),
    ]
    words: Mapping[Level, str] = {0: "none", 1: "one row\nfor all"}
    return _row(
        found,
        panels,
        levels,
        lambda each: words.get(each, plain(each)),
        "contention",
        f"What is left the fewer rows all transactions share, with {plain(most)} clients: from none at the left to one"
        " row for all at the right. Points are medians; a bar is the spread, where 19 of 20 medians of another run are"
        " expected.",
        "Throughput and lock hold time over the number of rows that all transactions share, a line for each contender.",
    )


def fan_out(found: Results) -> Plot | None:
    """Latency, the more participants one transaction has."""
    levels = sorted(found.levels(Section.FAN_OUT, "participants"), key=float)
    panels = [
        _Panel(Section.FAN_OUT, figure, "participants", {}, title)
        for figure, title in (("p50_ms", "median"), ("p99_ms", "slowest of a hundred"))
    ]
    return _row(
        found,
        panels,
        levels,
        plain,
        "fan-out",
        "Latency of a transaction, the more participants it has. Two-phase commit asks all of them at once, a saga one"
        " after the other.",
        "Median and 99th percentile of latency over the number of participants, a line for each contender.",
    )


def slow(found: Results) -> Plot | None:
    """What the others notice of one slow participant."""
    levels = sorted(found.levels(Section.SLOW, "delay_ms"), key=float)
    panels = [
        _Panel(Section.SLOW, "others_p99_ms", "delay_ms", {}, "transactions without it, slowest of a hundred"),
        _Panel(Section.SLOW, "lock_hold_p50_ms", "delay_ms", {}, "rows locked elsewhere by transactions with it"),
    ]
    return _row(
        found,
        panels,
        levels,
        plain,
        "slow-participant",
        "One participant answers later: left, what transactions notice that do not need it; right, how long those that"
        " need it keep rows locked at the other participants.",
        "Latency of the others and lock hold time over the delay of one participant, a line for each protocol.",
    )


def clearing(found: Results) -> Plot | None:
    """How long until none is in doubt, the more were."""
    levels = sorted(found.levels(Section.CLEARING, "branches"), key=float)
    panels = [
        _Panel(Section.CLEARING, "clear_ms", "branches", {"decided": each}, f"decided before the crash: {plain(each)}")
        for each in found.levels(Section.CLEARING, "decided")
    ] or [_Panel(Section.CLEARING, "clear_ms", "branches", {})]
    return _row(
        found,
        panels,
        levels,
        plain,
        "clearing",
        "From the start of the coordinator's process until the last branch is out of doubt, the more branches a crash"
        " left behind. Nobody had to do anything but start it.",
        "Time until nothing is in doubt over the number of branches in doubt.",
    )


def by_contention(levels: Sequence[Level]) -> list[Level]:
    """From no shared row to one row for all."""
    return sorted(levels, key=lambda each: -float(each) if float(each) else float("-inf"))


def _row(
    found: Results,
    panels: Sequence[_Panel],
    levels: Sequence[Level],
    tick: Callable[[Level], str],
    name: str,
    caption: str,
    alt: str,
) -> Plot | None:
    kept = [(panel, lines) for panel in panels if (lines := panel.lines(found, levels))]
    if not kept:
        return None

    def draw(grid: Grid) -> None:
        for axes, (panel, lines) in zip(grid[0], kept, strict=True):
            _panel(axes, panel, lines, [tick(each) for each in levels])

    return plot(name, caption, alt, (1, len(kept)), 3.2, draw)


def _panel(axes: Axes, panel: _Panel, lines: Mapping[Who, list[tuple[int, Spread]]], ticks: Sequence[str]) -> None:
    for who, measured in lines.items():
        line(axes, who, [place for place, _ in measured], [spread for _, spread in measured])
    medians = [spread.value for measured in lines.values() for _, spread in measured]
    if min(medians) > 0 and max(medians) >= _WIDE * min(medians):
        log_scale(axes, y=True)
    else:
        axes.set_ylim(bottom=0)
    entry = CATALOGUE[panel.section]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.2, len(ticks) - 0.8)
    axes.set_xlabel(quantity(entry.factors[panel.factor]))
    axes.set_ylabel(entry.figures[panel.figure].unit)
    axes.set_title(panel.title)
    label_ends(axes, [(measured[-1][0], measured[-1][1].value, named(who)) for who, measured in lines.items()])
