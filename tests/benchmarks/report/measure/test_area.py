"""Goodput in slots, and the work that an outage cost."""

from __future__ import annotations

import pytest

from twophase.benchmarks.report.measure.area import area_lost, in_slots

TEN = 10 * [10.0]


def test_moments_fall_into_slots_and_those_outside_into_none() -> None:
    assert in_slots([-0.01, 0.0, 0.0999, 0.1, 0.25, 0.3], 0.3) == [2, 1, 1]


def test_an_outage_costs_what_would_have_been_done_until_the_goodput_is_back() -> None:
    slots = TEN + 10 * [0.0] + TEN
    loss = area_lost(slots, rate=100, crash=1.0, ready=2.0)
    assert loss.lost == pytest.approx(100)
    assert loss.back == pytest.approx(2.0)


def test_being_ready_is_not_being_back() -> None:
    slots = TEN + 5 * [0.0] + 5 * [4.0] + TEN
    loss = area_lost(slots, rate=100, crash=1.0, ready=1.5)
    assert loss.lost == pytest.approx(80)
    assert loss.back == pytest.approx(2.0)


def test_a_backlog_that_is_worked_off_in_the_same_time_is_not_lost() -> None:
    slots = TEN + 2 * [0.0] + [30.0] + TEN
    assert area_lost(slots, rate=100, crash=1.0, ready=1.2).lost == 0


@pytest.mark.parametrize("ready", [None, 1.5])
def test_what_never_comes_back_costs_everything_to_the_end(ready: float | None) -> None:
    slots = TEN + 20 * [0.0]
    loss = area_lost(slots, rate=100, crash=1.0, ready=ready)
    assert loss.lost == pytest.approx(200)
    assert loss.back is None
