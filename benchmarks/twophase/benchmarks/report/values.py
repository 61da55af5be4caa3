"""What a report is made of: sections, measurements, and a run of them all.

Lives here: the values between measuring and writing, their medians and spreads, and `results.json` both ways. Must not
live here: measuring (`report.measure`), words and drawings (`report.paper`).

Measurements are long and narrow: one for each section, contender, combination of factors and repetition. Whoever draws
or concludes picks what it needs by name; the names of each section, with their units, are in `catalogue`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

VERSION: Final = 1
"""Of the form of `results.json`."""

Level: TypeAlias = str | int | float
"""What a factor is set to."""

NEVER: Final[Level] = "never"
"""The outage of a coordinator that was not started again while it was measured."""


class Suite(StrEnum):
    """How much is measured. Both have every section: the quick one samples the factors, the full one crosses them."""

    QUICK = "quick"
    FULL = "full"


class Section(StrEnum):
    """What is asked. The value is its name in `results.json` and in addresses within the report."""

    CAPACITY = "capacity"  # closed loop: how many a second at most
    LATENCY = "latency"  # open loop: how long at an offered rate
    CONTENTION = "contention"  # from no row shared to one row for all
    CRASH = "crash"  # the coordinator killed at a named point, for so long
    SLOW = "slow-participant"  # one participant is slow: what the others' transactions notice
    PARTITION = "partition"  # the coordinator and one participant cannot hear each other
    ISOLATION = "isolation"  # what others could see that was never whole
    FAN_OUT = "fan-out"  # 2 to 32 participants
    CLEARING = "clearing"  # 1 to 1,000 branches in doubt: until none is


class Who(StrEnum):
    """A contender. The value is its name in tables, drawings and `results.json`."""

    LOCAL = "local-commits"
    LOOP = "loop"
    SQLALCHEMY = "sqlalchemy"
    TWO_PHASE = "two-phase"
    IN_TURN = "two-phase-in-turn"
    SAGA = "saga"
    DBOS = "dbos"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One repetition of one contender at one combination of factors.

    `figures` are single numbers, `series` lists of them; `catalogue` says what each name means and its unit. `pace_us`
    is what a fixed piece of work took on this machine right before and after, in microseconds (on average); None where
    nobody looked.
    """

    section: Section
    who: Who
    factors: Mapping[str, Level]
    repetition: int
    figures: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pace_us: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """A run. It is void if there is any problem: money that is missing, a ledger that is not exact, a branch left.

    `setting` has machine, processors, versions, Postgres settings, revision and load; `seconds` is how long it took.
    `left_out` are contenders that were not there, `missing` sections that were not measured, or not to the end; both
    with the reason. `interrupted`: somebody ended it, or it is still under way.
    """

    suite: Suite
    seed: int
    started: str
    seconds: float
    setting: Mapping[str, Any]
    measurements: Sequence[Measurement]
    problems: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[Section, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def is_whole(self) -> bool:
        """True if every section was measured to its end, and everything was where it should be."""
        return not (self.problems or self.missing or self.interrupted)

    @property
    def is_void(self) -> bool:
        """True if the databases did not hold what they should at some point: then nothing was measured."""
        return bool(self.problems)

    def of(self, section: Section, who: Who | None = None, **factors: Level) -> list[Measurement]:
        """The measurements of a section: of everybody or of one, at all or at the given levels."""
        return [
            each
            for each in self.measurements
            if each.section is section
            and who in (None, each.who)
            and all(each.factors.get(name) == level for name, level in factors.items())
        ]

    def series(self, section: Section, who: Who, name: str, **factors: Level) -> list[Sequence[float]]:
        """A series of every repetition, in their order."""
        found = sorted(self.of(section, who, **factors), key=lambda each: each.repetition)
        return [each.series[name] for each in found if name in each.series]

    def levels(self, section: Section, factor: str) -> list[Level]:
        """What a factor was set to, in the order in which it was measured."""
        return list(dict.fromkeys(each.factors[factor] for each in self.of(section) if factor in each.factors))

    def pace_us(self, section: Section) -> float | None:
        """What the fixed piece of work took while a section was measured, in microseconds; None if nobody looked."""
        paces = [each.pace_us for each in self.of(section) if each.pace_us is not None]
        return statistics.fmean(paces) if paces else None

    def whos(self, section: Section) -> list[Who]:
        """Who was measured, in the contenders' order."""
        present = {each.who for each in self.of(section)}
        return [who for who in Who if who in present]

    def to_json(self) -> dict[str, Any]:
        """Everything, for `results.json`. What is not finite becomes null: JSON has no word for it."""
        return {
            "version": VERSION,
            "suite": self.suite,
            "void": self.is_void,
            "problems": list(self.problems),
            "left_out": dict(self.left_out),
            "missing": dict(self.missing),
            "interrupted": self.interrupted,
            "seed": self.seed,
            "started": self.started,
            "seconds": round(self.seconds, 1),
            "setting": dict(self.setting),
            "measurements": [_finite(asdict(each)) for each in self.measurements],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made. Raises ValueError for another version."""
        if found["version"] != VERSION:
            raise ValueError(f"results of version {found['version']}; this release reads version {VERSION}")
        return cls(
            suite=Suite(found["suite"]),
            seed=found["seed"],
            started=found["started"],
            seconds=found["seconds"],
            setting=found["setting"],
            measurements=[_measurement(each) for each in found["measurements"]],
            problems=found["problems"],
            left_out=found["left_out"],
            missing={Section(name): why for name, why in found["missing"].items()},
            interrupted=found["interrupted"],
        )


def _measurement(found: Mapping[str, Any]) -> Measurement:
    return Measurement(
        Section(found["section"]),
        Who(found["who"]),
        found["factors"],
        found["repetition"],
        {name: math.inf if value is None else value for name, value in found["figures"].items()},
        {
            name: _each(values, lambda value: math.inf if value is None else value)
            for name, values in found["series"].items()
        },
        found.get("pace_us"),
    )


def _each(values: Sequence[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [change(value) for value in values]


def _finite(measurement: dict[str, Any]) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    figures = {name: finite(value) for name, value in measurement["figures"].items()}
    series = {name: _each(values, finite) for name, values in measurement["series"].items()}
    pace = measurement["pace_us"]
    return {
        **measurement,
        "figures": figures,
        "series": series,
        "pace_us": None if pace is None else round(pace, 1),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank; infinite for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.inf
