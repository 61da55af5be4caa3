"""Results that nobody measured: every section of the catalogue, seeded, with numbers as they might be.

Lives here: values for tests. What they show is chosen, so tests know what must be concluded from them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Final

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.values import NEVER, Level, Measurement, Results, Section, Suite, Who, percentile

REPETITIONS: Final = 3
SPEEDS: Final = {
    Who.LOCAL: 900.0,
    Who.LOOP: 420.0,
    Who.SQLALCHEMY: 300.0,
    Who.TWO_PHASE: 400.0,
    Who.IN_TURN: 380.0,
    Who.SAGA: 520.0,
    Who.DBOS: 90.0,
}
EVERYONE: Final = tuple(who for who in Who if who is not Who.IN_TURN)
OURS: Final = (Who.TWO_PHASE, Who.SAGA)
SETTING: Final = {
    "machine": "Linux 6.1, x86_64, 2 processors",
    "processors": 2,
    "versions": {"twophase": "0.1.0", "Python": "3.11.2", "Postgres": "18.1"},
    "postgres": {"fsync": "on", "synchronous_commit": "on"},
    "revision": "0123456789abcdef",
    "load": {"before": 0.1, "after": 1.9},
}


def measurement(
    section: Section,
    who: Who,
    factors: Mapping[str, Level] | None = None,
    repetition: int = 0,
    series: Mapping[str, Sequence[float]] | None = None,
    **figures: float,
) -> Measurement:
    """One, with the figures given."""
    return Measurement(section, who, factors or {}, repetition, figures, series or {})


def repeated(section: Section, who: Who, factors: Mapping[str, Level], **figures: Sequence[float]) -> list[Measurement]:
    """One for each value of the figures."""
    count = max(len(values) for values in figures.values())
    return [
        Measurement(section, who, factors, number, {name: values[number] for name, values in figures.items()})
        for number in range(count)
    ]


def results(*measurements: Measurement, problems: Sequence[str] = (), **left_out: str) -> Results:
    """A run of these measurements."""
    return Results(Suite.QUICK, 1, "2026-01-02T03:04:05+00:00", 480.0, SETTING, measurements, problems, left_out)


def whole(seed: int = 1, *, suite: Suite = Suite.QUICK) -> Results:
    """A run in which every section has every figure and series of the catalogue."""
    made = _Made(seed)
    measurements = [
        *made.capacity(),
        *made.latency(),
        *made.contention(),
        *made.crash(),
        *made.slow(),
        *made.partition(),
        *made.isolation(),
        *made.fan_out(),
        *made.clearing(),
    ]
    return Results(suite, seed, "2026-01-02T03:04:05+00:00", 480.0, SETTING, measurements)


class _Made:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret

    def about(self, value: float) -> float:
        return value * self._random.uniform(0.97, 1.03)

    def _each(self, whos: Sequence[Who], *levels: Sequence[Level]) -> list[tuple[int, Who, tuple[Level, ...]]]:
        return list(itertools.product(range(REPETITIONS), whos, itertools.product(*levels)))

    def capacity(self) -> list[Measurement]:
        found = []
        everyone = self._each(EVERYONE, ("transfer", "order"), (1, 16), (0, 10))
        for repetition, who, (workload, clients, refused) in everyone:
            assert isinstance(clients, int)
            assert isinstance(refused, int)
            speed = SPEEDS[who] * (0.2 if clients == 1 else 1) * (0.5 if workload == "order" else 1)
            p50 = self.about(1000 * clients / speed)
            found.append(
                measurement(
                    Section.CAPACITY,
                    who,
                    {"workload": workload, "clients": clients, "refused_share": refused},
                    repetition,
                    throughput_per_s=self.about(speed),
                    p50_ms=p50,
                    p99_ms=self.about(p50 * 3),
                    cpu_ms=self.about(900 / SPEEDS[who]),
                    refused_per_10000=100.0 * refused,
                    compensated_per_10000=100.0 * refused if who in (Who.SAGA, Who.DBOS) else 0.0,
                    half_per_10000=100.0 * refused if who is Who.LOCAL else 0.0,
                )
            )
        return found

    def latency(self) -> list[Measurement]:
        found = []
        for repetition, who, (workload, offered) in self._each(EVERYONE, ("transfer", "order"), (50, 200)):
            assert isinstance(offered, int)
            middle = 4_000 / SPEEDS[who] * (1 + offered / SPEEDS[who])
            values = sorted(self._random.lognormvariate(0, 0.4) * middle for _ in range(400))
            found.append(
                measurement(
                    Section.LATENCY,
                    who,
                    {"workload": workload, "offered_per_s": offered},
                    repetition,
                    {"latencies_ms": values},
                    throughput_per_s=self.about(min(offered, SPEEDS[who])),
                    p50_ms=percentile(values, 50),
                    p99_ms=percentile(values, 99),
                    late_per_10000=0.0 if SPEEDS[who] > offered else 900.0,
                )
            )
        return found

    def contention(self) -> list[Measurement]:
        """Two-phase commit is a little ahead without shared rows, the saga far ahead with one."""
        found = []
        for repetition, who, (hot, clients) in self._each(tuple(Who), (0, 100, 10, 1), (16,)):
            assert isinstance(hot, int)
            share = {0: 1.0, 100: 0.9, 10: 0.6, 1: 0.2}[hot]
            if who is Who.SAGA:
                share = {0: 0.6, 100: 0.65, 10: 0.6, 1: 0.5}[hot]
            speed = SPEEDS[who] * share
            found.append(
                measurement(
                    Section.CONTENTION,
                    who,
                    {"hot_rows": hot, "clients": clients},
                    repetition,
                    throughput_per_s=self.about(speed),
                    p99_ms=self.about(40_000 / speed),
                    refused_per_10000=0.0,
                    compensated_per_10000=0.0,
                    half_per_10000=0.0,
                    lock_hold_p50_ms=self.about(4.0 if who is Who.SAGA else 12.0),
                )
            )
        return found

    def crash(self) -> list[Measurement]:
        found = []
        points = {Who.TWO_PHASE: ("before-commit", "after-write"), Who.SAGA: ("after-step",)}
        for who in OURS:
            for repetition, _, (point, outage) in self._each((who,), points[who], (0, 1, 10, NEVER)):
                found.append(self._crashed(who, point, outage, repetition))
        return found

    def _crashed(self, who: Who, point: Level, outage: Level, repetition: int) -> Measurement:
        rate, died, window = 60.0, 3_000.0, 18_000.0
        back = window if outage == NEVER else died + 1_000 * float(outage) + 400
        blocked = who is Who.TWO_PHASE and point == "before-commit"
        at = [number * 50.0 for number in range(int(window / 50))]
        victims = [back - sent + self.about(20) if blocked and died <= sent < back else self.about(3) for sent in at]
        bins = [
            0.0 if died <= number * 100 < back else self._random.choice([5.0, 6.0, 7.0])
            for number in range(int(window / 100))
        ]
        holds = [self.about(4.0 if who is Who.SAGA else 11.0) for _ in range(200)]
        doubts = [self.about(6.0) for _ in range(200)] if who is Who.TWO_PHASE else []
        if blocked:
            holds += [back - died] * 8
            doubts += [back - died] * 8
        figures = {
            "goodput_before_per_s": self.about(rate),
            "lost": rate * (back - died) / 1_000,
            "victim_p99_ms": percentile(victims, 99),
            "victim_max_ms": max(victims),
            "victim_late_share": 100 * sum(each > 1_000 for each in victims) / len(victims),
            "control_p99_ms": self.about(4.0),
            "lock_hold_p50_ms": percentile(holds, 50),
            "lock_hold_max_ms": max(holds),
        }
        if who is Who.TWO_PHASE:
            figures |= {
                "in_doubt_p50_ms": percentile(doubts, 50),
                "in_doubt_max_ms": max(doubts),
                "in_doubt_branches": 8.0 if blocked else 0.0,
            }
        else:
            figures["unfinished"] = 9.0
        if outage != NEVER:
            figures["clear_ms" if who is Who.TWO_PHASE else "consistent_ms"] = self.about(120.0)
        series: dict[str, Sequence[float]] = {
            "goodput_per_100_ms": bins,
            "refused_per_100_ms": [6.0 - min(done, 6.0) for done in bins],
            "victim_at_ms": at,
            "victim_ms": victims,
            "control_ms": [self.about(3) for _ in at],
            "lock_holds_ms": holds,
            "in_doubt_ms": doubts,
            "down_ms": [died] if outage == NEVER else [died, back],
        }
        return Measurement(Section.CRASH, who, {"point": point, "outage_s": outage}, repetition, figures, series)

    def slow(self) -> list[Measurement]:
        return [
            measurement(
                Section.SLOW,
                who,
                {"delay_ms": delay},
                repetition,
                others_p50_ms=self.about(8.0),
                others_p99_ms=self.about(20.0),
                with_it_p50_ms=self.about(10.0 + 2 * float(delay)),
                lock_hold_p50_ms=self.about(10.0 + (2 * float(delay) if who is Who.TWO_PHASE else 0)),
            )
            for repetition, who, (delay,) in self._each(OURS, (0, 50, 200))
        ]

    def partition(self) -> list[Measurement]:
        return [
            measurement(
                Section.PARTITION,
                who,
                {"seconds": seconds},
                repetition,
                {"goodput_per_100_ms": [6.0] * 30 + [3.0] * 30 + [6.0] * 30, "cut_ms": [3_000.0, 6_000.0]},
                done_without_it_per_s=self.about(30.0),
                done_with_it_per_s=0.0,
                refused_with_it_share=100.0 if who is Who.TWO_PHASE else 0.0,
                victim_max_ms=self.about(3_100.0 if who is Who.TWO_PHASE else 12.0),
                in_doubt_max_ms=self.about(3_100.0 if who is Who.TWO_PHASE else 0.0),
                consistent_ms=self.about(200.0),
            )
            for repetition, who, (seconds,) in self._each(OURS, (3,))
        ]

    def isolation(self) -> list[Measurement]:
        seen = {Who.TWO_PHASE: 3.0, Who.SAGA: 180.0, Who.DBOS: 400.0, Who.LOCAL: 150.0, Who.LOOP: 9.0}
        return [
            measurement(
                Section.ISOLATION,
                who,
                {"workload": "transfer", "refused_share": refused},
                repetition,
                seen_half_per_10000=self.about(seen.get(who, 5.0)),
                undone_seen_per_10000=self.about(60.0) if refused and who in (Who.SAGA, Who.DBOS) else 0.0,
                half_per_10000=100.0 * float(refused) if who is Who.LOCAL else 0.0,
                reservation_p50_ms=self.about(20.0),
                reservation_max_ms=self.about(200.0),
                compensated_per_10000=100.0 * float(refused) if who in (Who.SAGA, Who.DBOS) else 0.0,
                throughput_per_s=self.about(SPEEDS[who]),
            )
            for repetition, who, (refused,) in self._each(tuple(Who), (0, 10))
        ]

    def fan_out(self) -> list[Measurement]:
        """A saga asks one after the other, two-phase commit all at once: they cross between 2 and 8."""
        found = []
        for repetition, who, (participants,) in self._each(OURS, (2, 8, 32)):
            count = float(participants)
            p50 = 3.0 * count if who is Who.SAGA else 8.0 + count
            found.append(
                measurement(
                    Section.FAN_OUT,
                    who,
                    {"participants": participants},
                    repetition,
                    p50_ms=self.about(p50),
                    p99_ms=self.about(2.5 * p50),
                    throughput_per_s=self.about(4_000 / p50),
                )
            )
        return found

    def clearing(self) -> list[Measurement]:
        return [
            measurement(
                Section.CLEARING,
                Who.TWO_PHASE,
                {"branches": branches, "decided": decided},
                repetition,
                clear_ms=self.about(300 + 2 * float(branches)),
                ready_ms=self.about(250),
            )
            for repetition, _, (branches, decided) in self._each((Who.TWO_PHASE,), (1, 100, 1_000), ("yes", "no"))
        ]


def names_missing(found: Results) -> list[str]:
    """What the catalogue promises and no measurement has."""
    missing = []
    for section, entry in CATALOGUE.items():
        of_it = found.of(section)
        missing += [f"{section}: {name}" for name in entry.figures if not any(name in each.figures for each in of_it)]
        missing += [f"{section}: {name}" for name in entry.series if not any(name in each.series for each in of_it)]
        missing += [f"{section}: {name}" for name in entry.factors if not any(name in each.factors for each in of_it)]
    return missing
