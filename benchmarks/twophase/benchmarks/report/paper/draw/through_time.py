"""Drawings of what happens while something fails: goodput, and updates that meet its locks, by the second.

Lives here: lining up repetitions at the failure. Must not live here: what is concluded.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes

from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.draw.canvas import LOOKS, Grid, hatched_span, log_scale, named, plot
from twophase.benchmarks.report.paper.words import level, plain
from twophase.benchmarks.report.values import Level, Measurement, Results, Section, Who

_BIN_MS: Final = 100.0
_BEFORE: Final = 3.0
"""So many seconds before the failure are shown at most."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """The repetitions of one panel. Times are in seconds from the beginning of the failure."""

    who: Who
    factors: Mapping[str, Level]
    measured: Sequence[Measurement]
    window: str

    @property
    def begin_ms(self) -> list[float]:
        return [each.series[self.window][0] for each in self.measured]

    @property
    def span(self) -> tuple[float, float]:
        """The failure, in the median; its end is the end of the measurement if it did not end."""
        lengths = [
            each.series[self.window][1] - each.series[self.window][0]
            for each in self.measured
            if len(each.series[self.window]) > 1 and math.isfinite(each.series[self.window][1])
        ]
        return 0.0, statistics.median(lengths) / 1_000 if lengths else self.end

    @property
    def end(self) -> float:
        bins = min(len(each.series["goodput_per_100_ms"]) for each in self.measured)
        return (bins * _BIN_MS - max(self.begin_ms)) / 1_000


def goodput_through_crash(found: Results, points: Mapping[Who, Level]) -> Plot | None:
    """Done in 100 ms, both protocols side by side, a row for each outage."""

    def fill(axes: Axes, failure: _Failure) -> None:
        _goodput(axes, failure)

    return _grid(
        found,
        points,
        "goodput_per_100_ms",
        fill,
        "done in 100 ms",
        Plot(
            "crash-goodput",
            "Transactions done in each 100 ms, median of the repetitions as the line and all of them as the pale band;"
            " the coordinator is dead in the hatched window. " + _points(points),
            "Two columns of panels, two-phase commit and saga, one row for each outage: throughput over time, which is"
            " zero while the coordinator is dead.",
            "",
        ),
    )


def victims_through_crash(found: Results, points: Mapping[Who, Level]) -> Plot | None:
    """How long updates of hot rows and of others took, by when they were sent."""

    def fill(axes: Axes, failure: _Failure) -> None:
        look = LOOKS[failure.who]
        victims = list(_worst(failure, "victim_ms"))
        control = list(_worst(failure, "control_ms"))
        axes.plot(*zip(*control, strict=True), color="#707070", linewidth=0.8, linestyle="dotted")
        axes.plot(*zip(*victims, strict=True), linestyle="none", marker=look.marker, markersize=2.6, color=look.colour)
        log_scale(axes, y=True)

    return _grid(
        found,
        points,
        "victim_ms",
        fill,
        "ms, slowest",
        Plot(
            "crash-victims",
            "An update of a single row, sent at random moments by somebody who does not use the coordinator: the"
            " slowest of those sent in each 100 ms, at its sending time. Marks are updates of hot rows, which the"
            " transactions also write; the dotted line is the control, rows that nobody else uses. " + _points(points),
            "Two columns of panels, two-phase commit and saga, one row for each outage: how long updates took by the"
            " time they were sent, on a logarithmic axis, hot rows as marks and the control as a dotted line.",
            "",
        ),
    )


def goodput_through_partition(found: Results) -> Plot | None:
    """Done in 100 ms while one participant is cut off."""
    lengths = found.levels(Section.PARTITION, "seconds")
    panels = [
        [
            _Failure(who, {"seconds": length}, measured, "cut_ms")
            for who in (Who.TWO_PHASE, Who.SAGA)
            if (measured := _with(found.of(Section.PARTITION, who, seconds=length), "goodput_per_100_ms", "cut_ms"))
        ]
        for length in lengths
    ]
    panels = [row for row in panels if row]
    if not panels:
        return None
    columns = max(len(row) for row in panels)

    def draw(grid: Grid) -> None:
        for axes_row, row in zip(grid, panels, strict=True):
            for axes, failure in zip(axes_row, row, strict=False):
                _goodput(axes, failure)
                hatched_span(axes, *failure.span, "cut off")
                axes.set_title(f"{named(failure.who)}, {level('seconds', failure.factors['seconds'])}")
                axes.set_xlabel("s since the cut")
            axes_row[0].set_ylabel("done in 100 ms")
            _same_height(axes_row)

    return plot(
        "partition-goodput",
        "Transactions done in each 100 ms, those that need the participant which is cut off and those that do not;"
        " it is cut off from the coordinator in the hatched window.",
        "Throughput over time for two-phase commit and saga, with the window of the partition hatched.",
        (len(panels), columns),
        2.3,
        draw,
    )


def _grid(
    found: Results,
    points: Mapping[Who, Level],
    series: str,
    fill: Callable[[Axes, _Failure], None],
    unit: str,
    about: Plot,
) -> Plot | None:
    whos = [who for who in (Who.TWO_PHASE, Who.SAGA) if who in points]
    rows: list[list[_Failure | None]] = []
    for outage in found.levels(Section.CRASH, "outage_s"):
        row: list[_Failure | None] = []
        for who in whos:
            factors = {"point": points[who], "outage_s": outage}
            measured = _with(found.of(Section.CRASH, who, **factors), "goodput_per_100_ms", "down_ms", series)
            row.append(_Failure(who, factors, measured, "down_ms") if measured else None)
        if any(row):
            rows.append(row)
    if not rows:
        return None

    def draw(grid: Grid) -> None:
        for axes_row, row in zip(grid, rows, strict=True):
            drawn: list[tuple[Axes, _Failure]] = []
            for axes, failure in zip(axes_row, row, strict=True):
                if failure is None:
                    axes.set_axis_off()
                    continue
                fill(axes, failure)
                axes.set_title(f"{named(failure.who)}, {level('outage_s', failure.factors['outage_s'])}")
                drawn.append((axes, failure))
            begin = max(-_BEFORE, min(-max(failure.begin_ms) / 1_000 for _, failure in drawn))
            end = max(failure.end for _, failure in drawn)
            for axes, failure in drawn:
                axes.set_xlim(begin, end)
                hatched_span(axes, *failure.span, "dead")
            axes_row[0].set_ylabel(unit)
            _same_height(axes_row)
        for axes in grid[-1]:
            axes.set_xlabel("s since the crash")

    return plot(about.name, about.caption, about.alt, (len(rows), len(whos)), 1.75, draw)


def _goodput(axes: Axes, failure: _Failure) -> None:
    look = LOOKS[failure.who]
    lined_up = [
        {
            round((number * _BIN_MS - begin) / _BIN_MS): done
            for number, done in enumerate(each.series["goodput_per_100_ms"])
        }
        for each, begin in zip(failure.measured, failure.begin_ms, strict=True)
    ]
    common = sorted(set.intersection(*(set(each) for each in lined_up)))
    seconds = [number * _BIN_MS / 1_000 for number in common]
    values = [[each[number] for each in lined_up] for number in common]
    axes.fill_between(
        seconds,
        [min(each) for each in values],
        [max(each) for each in values],
        step="post",
        color="#c8c8c8",
        linewidth=0,
    )
    axes.step(seconds, [statistics.median(each) for each in values], where="post", color=look.colour, linewidth=1.3)
    axes.set_ylim(bottom=0)


def _worst(failure: _Failure, series: str) -> Iterator[tuple[float, float]]:
    """Of each 100 ms of sending the slowest, over all repetitions."""
    slowest: dict[int, float] = {}
    for each, begin in zip(failure.measured, failure.begin_ms, strict=True):
        for at, took in zip(each.series["victim_at_ms"], each.series[series], strict=False):
            number = math.floor((at - begin) / _BIN_MS)
            slowest[number] = max(slowest.get(number, 0.0), took)
    for number in sorted(slowest):
        if math.isfinite(slowest[number]):
            yield (number + 0.5) * _BIN_MS / 1_000, slowest[number]


def _with(measured: Sequence[Measurement], *series: str) -> list[Measurement]:
    return [each for each in measured if all(each.series.get(name) for name in series)]


def _same_height(row: Sequence[Axes]) -> None:
    drawn = [axes for axes in row if axes.has_data()]
    if drawn:
        bottom, top = min(axes.get_ylim()[0] for axes in drawn), max(axes.get_ylim()[1] for axes in drawn)
        for axes in drawn:
            axes.set_ylim(bottom, top)
            log_scale(axes, y=axes.get_yscale() == "log")  # the ticks that these limits want


def _points(points: Mapping[Who, Level]) -> str:
    told = " and ".join(f"{named(who)} at {plain(point)}" for who, point in points.items())
    return f"Killed where it does most harm of all that was measured: {told}."
