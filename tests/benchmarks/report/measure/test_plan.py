"""The plan: every section in both suites, everyone in turn, and no more time than there is."""

from __future__ import annotations

from collections import Counter

import pytest

from twophase.benchmarks.report.measure.measuring import SECTIONS
from twophase.benchmarks.report.measure.method import method_of
from twophase.benchmarks.report.measure.plan import FULL, PLANS, QUICK, Plan
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import Section, Suite, Who


def test_every_section_can_be_measured_in_both_suites() -> None:
    assert set(SECTIONS) == set(Section)
    assert set(PLANS) == set(Suite)
    assert set(method_of(QUICK)) == set(Section)
    for plan in PLANS.values():
        assert set(plan.whos) == set(Section)


def test_everyone_has_a_turn_before_anyone_has_another_and_nobody_is_always_first() -> None:
    found = list(turns(2, ("a", "b"), (Who.LOOP, Who.SAGA, Who.DBOS)))
    firsts = [who for _, _, who in found[::3]]
    assert firsts == [Who.LOOP, Who.SAGA, Who.DBOS, Who.LOOP]
    assert Counter(found) == Counter(set(found))
    for start in range(0, 12, 3):
        assert {who for _, _, who in found[start : start + 3]} == {Who.LOOP, Who.SAGA, Who.DBOS}


def test_who_is_not_installed_is_left_out_everywhere() -> None:
    plan = QUICK.without({Who.DBOS})
    assert all(Who.DBOS not in whos for whos in plan.whos.values())
    assert Who.LOOP in plan.whos[Section.CAPACITY]


def seconds_of(plan: Plan) -> float:
    """What the loads alone take; the rest is starting, tidying and checking."""
    whos = {section: len(every) for section, every in plan.whos.items()}
    warm = plan.warm_up
    outages = [plan.never_seconds if outage is None else outage for outage in plan.outages]
    points = max(len(every) for every in plan.crash_points.values())
    return (
        plan.repetitions
        * (
            whos[Section.CAPACITY] * len(plan.capacity) * (plan.seconds + warm)
            + whos[Section.LATENCY] * len(plan.latency) * (plan.latency_seconds + warm)
            + whos[Section.CONTENTION] * len(plan.hot_rows) * (plan.seconds + warm)
            + whos[Section.ISOLATION] * len(plan.isolation) * (plan.isolation_seconds + warm)
            + whos[Section.FAN_OUT] * len(plan.fan_out) * (plan.fan_seconds + warm)
        )
        + plan.crash_repetitions
        * points
        * whos[Section.CRASH]
        * sum(plan.crash_before + each + plan.crash_after + warm for each in outages)
        + plan.network_repetitions
        * (
            whos[Section.SLOW] * len(plan.slow_ms) * (plan.slow_seconds + warm)
            + whos[Section.PARTITION] * sum(3 + each + warm for each in plan.cuts)
        )
    )


@pytest.mark.parametrize(("plan", "at_most"), [(QUICK, 390), (FULL, 2_650)])
def test_the_loads_of_a_suite_leave_time_for_the_rest(plan: Plan, at_most: float) -> None:
    assert seconds_of(plan) < at_most, seconds_of(plan)
