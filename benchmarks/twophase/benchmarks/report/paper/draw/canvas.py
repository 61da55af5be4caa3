"""What all drawings share: how each contender looks without colour, axes, labels at the lines, and SVG.

Lives here: the only place that knows how matplotlib is set up. Must not live here: any one drawing. Imported when
something is drawn.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.spreads import Spread
from twophase.benchmarks.report.paper.words import NAMES
from twophase.benchmarks.report.values import Who

WIDTH: Final = 9.6
"""Of every drawing, in inches: all text has the same size on the page."""

_FEW_DECADES: Final = 1.7
_NARROW: Final = 0.12

Grid: TypeAlias = Sequence[Sequence[Axes]]

_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read out and copied
    "svg.hashsalt": "twophase",  # the same figures make the same bytes
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "path.simplify": True,
}
_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Look:
    """How a contender is drawn. Line, marker and hatch tell it without colour; `sign` is the marker in a text."""

    line: Any
    marker: str
    sign: str
    hatch: str
    colour: str
    fill: str
    width: float


LOOKS: Final[Mapping[Who, Look]] = {
    Who.LOCAL: Look((0, (1, 1)), "x", "×", "...", "#707070", "#ffffff", 1.2),
    Who.LOOP: Look("dotted", "^", "▲", "\\\\\\", "#505050", "#ffffff", 1.2),
    Who.SQLALCHEMY: Look("dashdot", "v", "▼", "---", "#505050", "#ffffff", 1.2),
    Who.TWO_PHASE: Look("solid", "o", "●", "", "#0b3c6f", "#0b3c6f", 2.0),
    Who.IN_TURN: Look((0, (6, 1, 1, 1)), "P", "✚", "++", "#0b3c6f", "#ffffff", 1.6),
    Who.SAGA: Look((0, (5, 2)), "s", "■", "////", "#b8560b", "#f6d7bd", 2.0),
    Who.DBOS: Look((0, (3, 1, 1, 1, 1, 1)), "D", "◆", "xxx", "#707070", "#ffffff", 1.2),
}


def plot(name: str, caption: str, alt: str, size: tuple[int, int], height: float, draw: Callable[[Grid], None]) -> Plot:
    """A drawing of so many rows and columns of axes, `height` inches each row, filled in by `draw`."""
    rows, columns = size
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
        draw([list(row) for row in figure.subplots(rows, columns, squeeze=False)])
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata=_METADATA)
    return Plot(name, caption, alt, written.getvalue().decode())


def named(who: Who) -> str:
    """The name with the marker's sign, for a label."""
    return f"{LOOKS[who].sign} {NAMES[who]}"


def line(axes: Axes, who: Who, xs: Sequence[float], spreads: Sequence[Spread]) -> None:
    """Medians as a line, with a bar from the low to the high end of the spread."""
    look = LOOKS[who]
    medians = [_drawn(each.value) for each in spreads]
    below = [max(0.0, median - _drawn(each.low)) for median, each in zip(medians, spreads, strict=True)]
    above = [max(0.0, _drawn(each.high) - median) for median, each in zip(medians, spreads, strict=True)]
    axes.errorbar(
        xs,
        medians,
        yerr=[below, above],
        linestyle=look.line,
        linewidth=look.width,
        marker=look.marker,
        markersize=5,
        color=look.colour,
        capsize=3,
        elinewidth=0.8,
    )


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]], *, gap: float = 0.075) -> None:
    """Names each line at its right end (x, y, text), moved apart where they would touch. Limits must be set before."""
    places = []
    for x, y, text in ends:
        if math.isfinite(y):
            _, fraction = (axes.transScale + axes.transLimits).transform((x, y))
            places.append((min(max(float(fraction), 0.0), 1.0), text))
    heights = spread_apart([fraction for fraction, _ in places], gap)
    for height, (_, text) in zip(heights, places, strict=True):
        axes.text(1.015, height, text, transform=axes.transAxes, va="center", ha="left")


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """The same places in the same order from bottom to top, none nearer to another than the gap, if there is room."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for lower, upper in itertools.pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + gap)
    if order and moved[order[-1]] > 1:
        moved[order[-1]] = 1.0
        for upper, lower in itertools.pairwise(reversed(order)):
            moved[lower] = min(moved[lower], moved[upper] - gap)
    return moved


def log_scale(axes: Axes, *, x: bool = False, y: bool = False) -> None:
    """Logarithmic, with plain numbers at the ticks."""
    for wanted, set_scale, axis in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if wanted:
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _decades(axis) < _FEW_DECADES else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())


def hatched_span(axes: Axes, begin: float, end: float, text: str) -> None:
    """A window of time in which something was wrong, shaded, hatched and named. Limits must be set before."""
    left, right = axes.get_xlim()
    begin, end = max(begin, left), min(end, right)
    axes.axvspan(begin, end, facecolor="#ececec", edgecolor="#a0a0a0", hatch="///", linewidth=0, zorder=0.5)
    axes.set_xlim(left, right)
    is_narrow = (end - begin) < _NARROW * (right - left)
    axes.text(
        end + 0.01 * (right - left) if is_narrow else (begin + end) / 2,
        0.35,
        text,
        transform=axes.get_xaxis_transform(),
        ha="left" if is_narrow else "center",
        va="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        clip_on=True,
    )


def _decades(axis: Axis) -> float:
    low, high = sorted(axis.get_view_interval())
    return math.log10(high / low) if low > 0 else math.inf


def _drawn(value: float) -> float:
    """What has no end has no place on an axis."""
    return value if math.isfinite(value) else math.nan
