"""How long a plan will take, by section: what a reader is told before it begins, and how far it is.

Lives here: arithmetic on the plan's durations. Must not live here: durations (`plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twophase.benchmarks.report.measure.plan import Plan
from twophase.benchmarks.report.measure.sections import network
from twophase.benchmarks.report.values import Section

# Beside each load: a checkpoint before it, the wait for rest and the check of the books after it. As seen on two cores.
_BESIDE: Final = 0.7
_BESIDE_MANY: Final = 1.2  # at up to 32 banks
_RESTART: Final = 1.5  # of a coordinator, and what its death left
_CLEARING: Final = 3.0  # preparing them, clearing, checking
_MANY_BANKS: Final = 15.0  # their start


def expected_seconds(plan: Plan) -> Mapping[Section, float]:
    """Of each section, in the order of the catalogue, on a machine that does nothing else."""
    whos = {section: len(every) for section, every in plan.whos.items()}

    def loads(section: Section, levels: int, seconds: float, beside: float = _BESIDE) -> float:
        return plan.repetitions * whos[section] * levels * (plan.warm_up + seconds + beside)

    points = max(len(every) for every in plan.crash_points.values())
    outages = [plan.never_seconds if outage is None else outage for outage in plan.outages]
    around = plan.warm_up + plan.crash_before + plan.crash_after + _RESTART + _BESIDE
    slow = plan.network_repetitions * whos[Section.SLOW] * len(plan.slow_ms)
    cuts = [network.BEFORE + cut + network.AFTER for cut in plan.cuts]
    return {
        Section.CAPACITY: loads(Section.CAPACITY, len(plan.capacity), plan.seconds),
        Section.LATENCY: loads(Section.LATENCY, len(plan.latency), plan.latency_seconds),
        Section.CONTENTION: loads(Section.CONTENTION, len(plan.hot_rows), plan.seconds),
        Section.CRASH: plan.crash_repetitions * points * whos[Section.CRASH] * sum(each + around for each in outages),
        Section.SLOW: slow * (plan.warm_up + plan.slow_seconds + _BESIDE),
        Section.PARTITION: plan.network_repetitions
        * whos[Section.PARTITION]
        * sum(plan.warm_up + each + _BESIDE for each in cuts),
        Section.ISOLATION: loads(Section.ISOLATION, len(plan.isolation), plan.isolation_seconds),
        Section.FAN_OUT: _MANY_BANKS
        + sum(loads(Section.FAN_OUT, 1, plan.fan_seconds_among(each), _BESIDE_MANY) for each in plan.fan_out),
        Section.CLEARING: plan.clearing_repetitions * 2 * len(plan.clearing) * _CLEARING,
    }
