"""The machine's own pace is looked at around every measurement."""

from __future__ import annotations

from typing import cast

import pytest

from twophase.benchmarks.report.measure import pace
from twophase.benchmarks.report.measure.bench import Bench
from twophase.benchmarks.report.measure.plan import QUICK
from twophase.benchmarks.report.measure.sections import common
from twophase.benchmarks.report.values import Results, Section, Suite, Who


def test_the_work_takes_time() -> None:
    assert 10 < pace.pace_us() < 1e6


def test_a_measurement_has_the_pace_right_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([300.0, 200.0])
    monkeypatch.setattr(common, "pace_us", lambda: next(looks))
    work = common.Work(cast(Bench, None), QUICK, 1, lambda *_: None, pace_before=100.0)
    for repetition in range(2):
        work.add(Section.FAN_OUT, Who.SAGA, {}, repetition, {"p50_ms": 1.0})
    assert [each.pace_us for each in work.measurements] == [200.0, 250.0]
    found = Results(Suite.QUICK, 1, "now", 1.0, {}, work.measurements)
    assert found.pace_us(Section.FAN_OUT) == 225.0
    assert found.pace_us(Section.CRASH) is None
    assert Results.from_json(found.to_json()).pace_us(Section.FAN_OUT) == 225.0
