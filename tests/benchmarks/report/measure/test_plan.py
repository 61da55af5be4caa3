"""The plan: every section in both suites, everyone in turn, and no more time than there is."""

from __future__ import annotations

from collections import Counter

import pytest

from twophase.benchmarks.report.measure.budget import expected_seconds
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


@pytest.mark.parametrize(("plan", "minutes"), [(QUICK, 9), (FULL, 46)])
def test_a_suite_takes_no_longer_than_it_may(plan: Plan, minutes: float) -> None:
    expected = expected_seconds(plan)
    assert set(expected) == set(Section)
    assert all(seconds > 0 for seconds in expected.values())
    assert sum(expected.values()) < 60 * minutes, {str(section): round(took) for section, took in expected.items()}
