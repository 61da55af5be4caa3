"""When a difference is told: by medians, spreads and margins; and where two lines cross."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from benchmarks.report.made_up import measurement, repeated, results
from twophase.benchmarks.report.paper.compare import Comparison, Strength, combinations, compared, spread_of, turns
from twophase.benchmarks.report.paper.spreads import Spread, spread_among
from twophase.benchmarks.report.values import Level, Section, Who


def comparison(first: Sequence[float], second: Sequence[float], *, more: bool = True, level: float = 1) -> Comparison:
    one, other = (spread_among(each, [first, second]) for each in (first, second))
    assert one is not None
    assert other is not None
    return Comparison(one, other, more, {"hot_rows": level})


@pytest.mark.parametrize(
    ("first", "second", "strength"),
    [
        ([99, 100, 101], [119, 120, 121], Strength.CLEAR),
        ([95, 100, 105], [114, 120, 126], Strength.LIKELY),
        ([80, 100, 125], [110, 120, 130], Strength.NONE),
        ([99, 100, 101], [95, 120, 130], Strength.NONE),
        ([99.9, 100, 100.1], [103.9, 104, 104.1], Strength.NONE),
        ([90, 111], [111, 127], Strength.NONE),
        ([99, 101], [119, 121], Strength.CLEAR),
        ([100], [140], Strength.ONCE),
        ([100], [120], Strength.NONE),
        ([0, 0, 0], [0, 0, 0], Strength.NONE),
        ([0, 0, 0], [1, 1, 1], Strength.CLEAR),
        ([math.inf, math.inf], [math.inf, math.inf], Strength.NONE),
        ([5, 5], [math.inf, math.inf], Strength.CLEAR),
    ],
)
def test_a_difference_is_as_strong_as_the_spreads_allow(
    first: list[float], second: list[float], strength: Strength
) -> None:
    assert comparison(first, second).strength is strength
    assert comparison(second, first).strength is strength


def test_what_is_better_depends_on_what_is_wanted() -> None:
    assert comparison([1, 1], [2, 2], more=True).first_is_better is False
    assert comparison([1, 1], [2, 2], more=False).first_is_better is True
    assert comparison([1, 1], [1, 1]).first_is_better is None


def test_the_ratio_is_of_the_higher_to_the_lower() -> None:
    assert comparison([100], [400]).ratio == comparison([400], [100]).ratio == 4
    assert comparison([0], [400]).ratio == math.inf


def test_lines_cross_where_their_logarithms_do() -> None:
    line = [comparison([200, 200], [100, 100], level=100), comparison([50, 50], [100, 100], level=1)]
    (turn,) = turns(line, "hot_rows")
    assert turn.about == pytest.approx(10)


def test_a_difference_that_is_lost_is_a_turn_without_a_crossing() -> None:
    line = [comparison([200, 200], [100, 100], level=100), comparison([101, 101], [100, 100], level=1)]
    (turn,) = turns(line, "hot_rows")
    assert turn.about is None
    assert not list(turns(line[:1], "hot_rows"))


def test_there_is_no_crossing_on_the_way_to_no_shared_row() -> None:
    line = [comparison([200, 200], [100, 100], level=0), comparison([50, 50], [100, 100], level=1)]
    (turn,) = turns(line, "hot_rows")
    assert turn.about is None


def test_what_never_ended_counts_as_endless() -> None:
    found = results(*repeated(Section.CLEARING, Who.TWO_PHASE, {"branches": 1}, clear_ms=[10, math.inf, math.inf]))
    spread = spread_of(found, Section.CLEARING, Who.TWO_PHASE, "clear_ms", branches=1)
    assert spread is not None
    assert (spread.value, spread.repetitions) == (math.inf, 3)


def test_of_what_is_the_longest_all_repetitions_count() -> None:
    """Two of three crashes hit nobody's row: that is luck, and the third tells what may happen."""
    factors: dict[str, Level] = {"point": "before-commit", "outage_s": 10}
    found = results(*repeated(Section.CRASH, Who.TWO_PHASE, factors, victim_max_ms=[12, 10_400, 9]))
    spread = spread_of(found, Section.CRASH, Who.TWO_PHASE, "victim_max_ms", **factors)
    assert spread == Spread(10_400, 9, 10_400, 3)


def test_only_what_both_have_is_compared() -> None:
    found = results(
        *repeated(Section.FAN_OUT, Who.TWO_PHASE, {"participants": 2}, p50_ms=[3, 4]),
        *repeated(Section.FAN_OUT, Who.TWO_PHASE, {"participants": 4}, p50_ms=[5, 6]),
        *repeated(Section.FAN_OUT, Who.SAGA, {"participants": 4}, p50_ms=[7, 8]),
    )
    (only,) = compared(found, Section.FAN_OUT, "p50_ms")
    assert only.factors == {"participants": 4}
    assert combinations(found, Section.FAN_OUT) == [{"participants": 2}, {"participants": 4}]


def test_combinations_are_told_by_the_first_factor_then_by_the_next() -> None:
    taken = [("here", 0), ("here", 1), ("there", 1), ("there", 0)]
    found = results(
        *(measurement(Section.CRASH, Who.SAGA, {"point": point, "outage_s": outage}, lost=1) for point, outage in taken)
    )
    told = [(each["point"], each["outage_s"]) for each in combinations(found, Section.CRASH)]
    assert told == [("here", 0), ("here", 1), ("there", 0), ("there", 1)]
