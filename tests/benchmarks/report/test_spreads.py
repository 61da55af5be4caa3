"""What few repetitions tell of another run: the interval holds what it promises, and says something."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from twophase.benchmarks.report.paper.spreads import Noise, Spread, spread_among


@pytest.mark.parametrize("repetitions", [2, 3, 4, 9])
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_of_twenty_medians_of_another_run_about_nineteen_lie_within(repetitions: int, noise: float) -> None:
    """Of 600 figures at settings that differ a thousandfold; few repetitions' least and most hold far fewer."""
    chance = random.Random(f"{repetitions}/{noise}")  # noqa: S311 - the same figures each time
    true = [10 ** chance.uniform(0, 3) for _ in range(600)]

    def run() -> list[list[float]]:
        return [[each * math.exp(chance.gauss(0, noise)) for _ in range(repetitions)] for each in true]

    first, second = run(), run()
    within = 0
    for one, other in zip(first, second, strict=True):
        spread = spread_among(one, first)
        assert spread is not None
        assert spread.low < spread.value < spread.high
        assert spread.high / spread.low < math.exp(12 * noise)
        within += spread.low <= statistics.median(other) <= spread.high
    assert 0.93 <= within / len(true) <= 0.995


def test_a_share_stays_one() -> None:
    """Rare events vary by far more than a factor, and never beyond none and all."""
    cells = [[0.0, 50.0, 150.0], [3_000.0, 2_500.0, 3_400.0], [9_900.0, 10_000.0, 9_700.0]]
    for cell in cells:
        spread = spread_among(cell, cells, whole=10_000)
        assert spread is not None
        assert 0 <= spread.low < spread.value < spread.high <= 10_000
        assert spread.high - spread.low < 3_000


def test_what_can_be_more_than_all_of_them_is_no_share() -> None:
    cells = [[12_000.0, 13_000.0], [900.0, 1_000.0]]
    assert spread_among(cells[0], cells, whole=10_000) == spread_among(cells[0], cells)


def test_a_figure_that_differs_more_than_the_others_has_a_wider_spread() -> None:
    calm, wild = [100.0, 101.0, 99.0], [100.0, 150.0, 60.0]
    cells = [calm, calm, calm, wild]
    one, other = spread_among(calm, cells), spread_among(wild, cells)
    assert one is not None
    assert other is not None
    assert one.high - one.low < other.high - other.low


def test_nothing_at_all_is_not_taken_for_the_noise_of_the_others() -> None:
    cells = [[0.0, 0.0], [0.0, 0.0], [100.0, 120.0]]
    assert Noise.among(cells) == Noise.among(cells[2:])
    nothing = spread_among(cells[0], cells)
    assert nothing is not None
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert 0 < nothing.high < 1


def test_what_is_lost_may_be_less_than_nothing() -> None:
    spread = spread_among([-5.0, 3.0], [[-5.0, 3.0], [100.0, 90.0]])
    assert spread is not None
    assert spread.low < -1 < spread.high


def test_what_never_ended_has_the_interval_that_was_seen() -> None:
    assert spread_among([10.0, math.inf], [[10.0, math.inf], [1.0, 2.0]]) == Spread(math.inf, 10.0, math.inf, 2)


def test_without_any_repetition_nobody_knows() -> None:
    assert spread_among([], [[1.0, 2.0]]) is None
    assert spread_among([7.0], [[7.0], [9.0]]) == Spread(7.0, 7.0, 7.0, 1)


def test_one_repetition_has_the_noise_of_those_that_were_repeated() -> None:
    spread = spread_among([10.0], [[10.0], [100.0, 120.0], [10.0, 11.0]])
    assert spread is not None
    assert spread.low < 10.0 < spread.high
