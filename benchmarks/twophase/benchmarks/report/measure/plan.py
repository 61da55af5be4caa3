"""How much is measured in each suite: every level of every factor, every duration, in one table.

Lives here: values. Must not live here: measuring. The quick suite samples the factors, the full one crosses more of
them; durations are in seconds, rates a second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from twophase.benchmarks.report.measure.business import Workload
from twophase.benchmarks.report.values import Section, Suite, Who

_FEW: Final = 8
EVERYONE: Final = tuple(who for who in Who if who is not Who.IN_TURN)
OURS: Final = (Who.TWO_PHASE, Who.SAGA)


@dataclass(frozen=True, slots=True)
class Cell:
    """A combination of workload, clients and share (percent) meant to be refused."""

    workload: Workload
    clients: int
    refused_percent: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One suite. `whos` by section; `repetitions` of everything that has no number of its own.

    `isolation` has workloads with the percentage meant to be refused, and the rate offered. The outage None: nobody
    starts the coordinator again, for the `never_seconds` that are measured.
    """

    repetitions: int
    seconds: float
    warm_up: float
    accounts: int
    capacity: Sequence[Cell]
    latency: Sequence[tuple[Workload, float]]
    latency_seconds: float
    hot_rows: Sequence[int]
    contention_clients: int
    crash_points: Mapping[Who, Sequence[str]]
    outages: Sequence[float | None]
    crash_repetitions: int
    crash_rate: float
    crash_before: float
    crash_after: float
    never_seconds: float
    slow_ms: Sequence[int]
    slow_seconds: float
    cuts: Sequence[float]
    network_rate: float
    network_repetitions: int
    isolation: Sequence[tuple[Workload, int, float]]
    isolation_seconds: float
    fan_out: Sequence[int]
    fan_seconds: float
    clearing: Sequence[int]
    clearing_repetitions: int
    whos: Mapping[Section, Sequence[Who]]

    def fan_seconds_among(self, participants: int) -> float:
        """Longer for many: a transaction among them takes longer, and a percentile wants a number of them."""
        return self.fan_seconds * max(1.0, participants / _FEW)

    def without(self, whos: Collection[Who]) -> Plan:
        """The same without these contenders."""
        kept = {section: tuple(who for who in every if who not in whos) for section, every in self.whos.items()}
        return replace(self, whos=kept)


_BEFORE_COMMIT: Final = "coordinator.before-commit"
_AFTER_VOTE: Final = "coordinator.after-vote"
_AFTER_STEP: Final = "saga.after-step"
_BEFORE_STEP: Final = "saga.before-step"
_POINTS: Final = {Who.TWO_PHASE: (_BEFORE_COMMIT, _AFTER_VOTE), Who.SAGA: (_AFTER_STEP, _BEFORE_STEP)}
_WHOS: Final = {
    Section.CAPACITY: EVERYONE,
    Section.LATENCY: EVERYONE,
    Section.CONTENTION: tuple(Who),
    Section.CRASH: OURS,
    Section.SLOW: OURS,
    Section.PARTITION: OURS,
    Section.ISOLATION: EVERYONE,
    Section.FAN_OUT: (Who.LOCAL, Who.LOOP, Who.TWO_PHASE, Who.SAGA),
    Section.CLEARING: (Who.TWO_PHASE,),
}

QUICK: Final = Plan(
    repetitions=2,
    seconds=0.7,
    warm_up=0.25,
    accounts=10_000,
    capacity=(Cell(Workload.UNIFORM, 1), Cell(Workload.UNIFORM, 16), Cell(Workload.ORDER, 16, 10)),
    latency=((Workload.UNIFORM, 50.0), (Workload.ZIPF, 100.0)),
    latency_seconds=1.2,
    hot_rows=(0, 8, 1),
    contention_clients=16,
    crash_points={who: points[:1] for who, points in _POINTS.items()},
    outages=(0.0, 1.0, 10.0, None),
    crash_repetitions=2,
    crash_rate=80.0,
    crash_before=1.5,
    crash_after=2.5,
    never_seconds=3.0,
    slow_ms=(0, 100),
    slow_seconds=1.5,
    cuts=(2.0,),
    network_rate=60.0,
    network_repetitions=2,
    isolation=((Workload.UNIFORM, 20, 50.0), (Workload.ORDER, 10, 20.0)),
    isolation_seconds=1.3,
    fan_out=(2, 8, 32),
    fan_seconds=0.6,
    clearing=(1, 100, 1_000),
    clearing_repetitions=1,
    whos=_WHOS,
)
FULL: Final = Plan(
    repetitions=4,
    seconds=1.2,
    warm_up=0.4,
    accounts=10_000,
    capacity=(
        *(Cell(Workload.UNIFORM, clients) for clients in (1, 4, 16, 64)),
        Cell(Workload.UNIFORM, 16, 10),
        *(Cell(Workload.ZIPF, clients) for clients in (16, 64)),
        *(Cell(Workload.ORDER, 16, percent) for percent in (0, 10, 30)),
    ),
    latency=(
        *((Workload.UNIFORM, rate) for rate in (50.0, 100.0, 200.0)),
        (Workload.ZIPF, 100.0),
        (Workload.ORDER, 25.0),
    ),
    latency_seconds=1.6,
    hot_rows=(0, 64, 16, 4, 1),
    contention_clients=16,
    crash_points=_POINTS,
    outages=(0.0, 1.0, 10.0, None),
    crash_repetitions=3,
    crash_rate=80.0,
    crash_before=2.5,
    crash_after=3.5,
    never_seconds=8.0,
    slow_ms=(0, 20, 100, 500),
    slow_seconds=4.0,
    cuts=(1.0, 5.0),
    network_rate=60.0,
    network_repetitions=3,
    isolation=(
        *((Workload.UNIFORM, percent, 50.0) for percent in (0, 20)),
        *((Workload.ORDER, percent, 20.0) for percent in (0, 20)),
    ),
    isolation_seconds=2.0,
    fan_out=(2, 4, 8, 16, 32),
    fan_seconds=1.2,
    clearing=(1, 10, 100, 1_000),
    clearing_repetitions=3,
    whos=_WHOS,
)
PLANS: Final[Mapping[Suite, Plan]] = {Suite.QUICK: QUICK, Suite.FULL: FULL}
