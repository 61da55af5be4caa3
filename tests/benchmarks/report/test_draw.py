"""Drawings: readable without colour, text as text, the same bytes each time, and none where there is nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from matplotlib.figure import Figure

from benchmarks.report import made
from benchmarks.report.made_up import results
from twophase.benchmarks.report.paper.blocks import Plot
from twophase.benchmarks.report.paper.conclude.values import worst_points
from twophase.benchmarks.report.paper.draw import against, bars, distribution, through_time
from twophase.benchmarks.report.paper.draw.canvas import LOOKS, hatched_span, spread_apart
from twophase.benchmarks.report.paper.words import NAMES
from twophase.benchmarks.report.values import Results, Section, Who

DRAWS: Final[dict[str, Callable[[Results], Plot | None]]] = {
    "capacity": bars.capacity,
    "latency": distribution.latencies,
    "contention": against.contention,
    "crash-goodput": lambda found: through_time.goodput_through_crash(found, worst_points(found)),
    "crash-victims": lambda found: through_time.victims_through_crash(found, worst_points(found)),
    "crash-locks": lambda found: distribution.locks(found, worst_points(found)),
    "slow-participant": against.slow,
    "partition-goodput": through_time.goodput_through_partition,
    "anomalies": bars.anomalies,
    "fan-out": against.fan_out,
    "clearing": against.clearing,
}


@pytest.fixture(scope="module")
def found() -> Results:
    return made.found()


def test_every_drawing_is_in_the_report() -> None:
    assert set(made.drawings()) == set(DRAWS)


@pytest.mark.parametrize("name", DRAWS)
def test_a_drawing_has_its_text_as_text(name: str) -> None:
    svg = made.drawings()[name].svg
    assert "<dc:date>" not in svg
    assert "<text" in svg
    assert NAMES[Who.TWO_PHASE] in svg


@pytest.mark.parametrize("name", ["slow-participant", "crash-locks", "partition-goodput", "anomalies"])
def test_a_drawing_is_the_same_bytes_each_time(name: str, found: Results) -> None:
    """One of each kind."""
    assert DRAWS[name](found) == made.drawings()[name]


@pytest.mark.parametrize("name", DRAWS)
def test_there_is_no_drawing_of_nothing(name: str) -> None:
    assert DRAWS[name](results()) is None


@pytest.mark.parametrize("name", DRAWS)
def test_one_protocol_alone_and_one_repetition_can_be_drawn(name: str, found: Results) -> None:
    alone = [each for each in found.measurements if each.who is Who.TWO_PHASE and each.repetition == 0]
    assert DRAWS[name](results(*alone)) is not None


OF_FIGURES: Final = ("capacity", "contention", "anomalies", "clearing")


@pytest.mark.parametrize("name", OF_FIGURES)
@pytest.mark.parametrize("value", [0.0, math.inf])
def test_what_never_ended_and_what_is_zero_can_be_drawn(name: str, value: float, found: Results) -> None:
    emptied = [replace(each, figures=dict.fromkeys(each.figures, value)) for each in found.measurements]
    DRAWS[name](results(*emptied))


def test_a_series_that_is_missing_leaves_its_panel_out(found: Results) -> None:
    cut = [
        replace(each, series={}) if each.who is Who.SAGA and each.section is Section.CRASH else each
        for each in found.measurements
    ]
    plot = DRAWS["crash-goodput"](results(*cut))
    assert plot is not None
    assert "an outage of 10 s" in plot.svg


def test_nobody_is_told_apart_by_colour_alone() -> None:
    assert set(LOOKS) == set(Who)
    for shape in (lambda look: look.marker, lambda look: look.sign, lambda look: str(look.line)):
        assert len({shape(look) for look in LOOKS.values()}) == len(Who)
    assert len({look.hatch for look in LOOKS.values()}) == len(Who)


@pytest.mark.parametrize("places", [[0.5, 0.5, 0.5], [0.0, 1.0], [1.0, 0.99, 0.98], [], [0.2, 0.8, 0.21]])
def test_labels_are_moved_apart_and_keep_their_order(places: list[float]) -> None:
    moved = spread_apart(places, 0.1)
    assert all(abs(one - other) >= 0.1 - 1e-9 for one, other in itertools.combinations(moved, 2))
    assert all(height <= 1 + 1e-9 for height in moved)
    by_height = sorted(range(len(places)), key=lambda index: moved[index])
    assert [places[index] for index in by_height] == sorted(places)


def test_a_failure_that_lasts_beyond_the_end_is_named_within_what_is_drawn() -> None:
    axes = Figure().subplots()
    axes.set_xlim(-1, 2)
    hatched_span(axes, 0, 50, "dead")
    assert axes.get_xlim() == (-1, 2)
    assert 0 < axes.texts[0].get_position()[0] < 2
