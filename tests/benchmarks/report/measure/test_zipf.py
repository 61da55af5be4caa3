"""Drawing rows: how often each comes up, and that a seed repeats it."""

# ruff: noqa: S311 - no secrets, and it must be repeatable

from __future__ import annotations

import random
from collections import Counter

import pytest

from twophase.benchmarks.report.measure.zipf import Zipf


def test_ranks_come_up_as_often_as_the_distribution_says() -> None:
    zipf, chance, draws = Zipf(20, 1.0), random.Random(7), 40_000
    found = Counter(zipf.draw(chance) for _ in range(draws))
    assert set(found) == set(range(1, 21))
    for rank in (1, 2, 10, 20):
        expected = draws * zipf.share(rank)
        assert abs(found[rank] - expected) < 5 * expected**0.5
    assert sum(zipf.share(rank) for rank in range(1, 21)) == pytest.approx(1)
    assert zipf.share(1) == pytest.approx(10 * zipf.share(10))


def test_the_same_seed_draws_the_same() -> None:
    zipf = Zipf(1_000, 0.9)

    def draws(seed: str) -> list[int]:
        chance = random.Random(seed)
        return [zipf.draw(chance) for _ in range(100)]

    assert draws("a") == draws("a") != draws("b")


def test_an_exponent_of_nothing_is_uniform_and_one_row_is_always_it() -> None:
    assert Zipf(4, 0.0).share(1) == Zipf(4, 0.0).share(4) == 0.25
    assert Zipf(1, 1.0).draw(random.Random(1)) == 1


@pytest.mark.parametrize(("size", "exponent"), [(0, 1.0), (5, -1.0)])
def test_what_cannot_be_drawn_from_is_refused(size: int, exponent: float) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Zipf(size, exponent)


def test_no_draw_lies_beyond_the_last_rank() -> None:
    class Highest(random.Random):
        def random(self) -> float:
            return 1.0

    assert Zipf(3, 1.0).draw(Highest()) == 3
