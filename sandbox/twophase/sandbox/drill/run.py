"""Running drills: one system, one drill after the other, a verdict after each.

Lives here: the course, and the results as values. Must not live here: options and words (`twophase.sandbox.drill_cli`).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import psycopg

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.setting import Setting
from twophase.sandbox.drill.stage import NotHit, Skipped, Stage, Violated
from twophase.sandbox.drill.timeline import Timeline
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.errors import SandboxError

_WARM_UP: Final = 0.3


class Verdict(Enum):
    """How a drill ended. SKIPPED says nothing about the system, good or bad: the machine lacks what the drill needs."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one drill ended. `recovery_ms` is from the last ready line until nothing of before was in doubt.

    `violations` are what the checker found, and `outside` what the outside checker did. `skipped` is why it could not
    be run, or empty. `figures` are what it measured besides, by name.
    """

    drill: Drill
    violations: tuple[str, ...]
    told: dict[str, int]
    seconds: float
    recovery_ms: float | None
    skipped: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Everything that is wrong, in words."""
        return self.violations + tuple(f"outside: {each}" for each in self.outside)

    @property
    def verdict(self) -> Verdict:
        """What is wrong counts in a drill that was skipped, too."""
        if self.wrong:
            return Verdict.FAILED
        return Verdict.SKIPPED if self.skipped else Verdict.PASSED

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON can hold it."""
        return {
            "name": self.drill.name,
            "about": self.drill.about,
            "outcome": self.verdict.value,
            "reason": self.skipped or None,
            "violations": list(self.violations),
            "outside_violations": list(self.outside),
            "seconds": round(self.seconds, 2),
            "recovery_ms": None if self.recovery_ms is None else round(self.recovery_ms, 1),
            "figures": {name: round(figure, 3) for name, figure in self.figures.items()},
            **self.told,
            **self.timeline.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """How all of them ended. `wanted` are the points that these drills are to hit, those that were skipped apart."""

    outcomes: tuple[Outcome, ...]
    hit: frozenset[CrashPoint]
    wanted: frozenset[CrashPoint]
    in_doubt_left: int
    seconds: float = 0.0
    setting: Setting = field(default_factory=Setting)

    @property
    def passed(self) -> bool:
        """True if no drill failed, every wanted point was hit, and nothing is in doubt."""
        failed = any(outcome.verdict is Verdict.FAILED for outcome in self.outcomes)
        return not failed and self.wanted <= self.hit and not self.in_doubt_left

    def count(self, verdict: Verdict) -> int:
        """How many drills ended so."""
        return sum(outcome.verdict is verdict for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        times = [outcome.recovery_ms for outcome in self.outcomes if outcome.recovery_ms is not None]
        return {
            "points_registered": len(CrashPoint),
            "points_hit": len(self.hit),
            "points_missed": sorted(point.value for point in self.wanted - self.hit),
            "drills_passed": self.count(Verdict.PASSED),
            "drills_failed": self.count(Verdict.FAILED),
            "drills_skipped": self.count(Verdict.SKIPPED),
            "violations": sum(len(outcome.violations) for outcome in self.outcomes),
            "outside_violations": sum(len(outcome.outside) for outcome in self.outcomes),
            "in_doubt_left": self.in_doubt_left,
            "recovery_ms_median": round(statistics.median(times), 1) if times else None,
            "recovery_ms_max": round(max(times), 1) if times else None,
            "started": self.setting.started,
            "seconds": round(self.seconds, 1),
            "machine": self.setting.machine,
            "versions": dict(self.setting.versions),
            "drills": [outcome.to_json() for outcome in self.outcomes],
        }


async def run_drills(
    stage: Stage,
    drills: Sequence[Drill],
    on_outcome: Callable[[Outcome], None],
    *,
    on_begin: Callable[[Drill], None] = lambda _: None,
    setting: Setting | None = None,
) -> Report:
    """Runs them in order. A drill that fails does not keep the next one from running."""
    started = time.monotonic()
    outcomes = []
    for seed, drill in enumerate(drills, start=1):
        on_begin(drill)
        outcome = await _run(stage, drill, seed)
        outcomes.append(outcome)
        on_outcome(outcome)
    wanted = frozenset(point for each in outcomes if not each.skipped for point in each.drill.points)
    left = sum(len(gids) for gids in stage.left().values())
    took = time.monotonic() - started
    return Report(tuple(outcomes), frozenset(stage.hit), wanted, left, took, setting or Setting())


async def _run(stage: Stage, drill: Drill, seed: int) -> Outcome:
    started = time.monotonic()
    measured = len(stage.recoveries)
    wrong: list[str] = []
    skipped = ""
    async with stage.recording():
        async with stage.load(seed, drill.business) as load:
            await _some_load()
            try:
                await drill.act(stage)
            except NotHit as error:
                wrong.append(f"not hit: {error}")
            except Skipped as reason:
                skipped = str(reason)
            except Violated as found:
                wrong.extend(found.violations)
            except (SandboxError, psycopg.Error) as error:
                wrong.append(f"not done: {error}")
            await stage.disarm()
            await _some_load()
        await load.settle(stage.system.address)
        wrong.extend(await stage.rest())
        timeline = stage.recorder.timeline(load.record.answers)
    wrong.extend(stage.verdict(load))
    recovery = max(stage.recoveries[measured:], default=None)
    if recovery is not None and recovery > drill.within * 1000:
        wrong.append(f"late: something of before was in doubt for {recovery:.0f} ms, more than {drill.within:g} s")
    outside = await stage.outside_verdict()
    stage.forget()
    return Outcome(
        drill,
        tuple(wrong),
        {told.value: load.record.count()[told] for told in Told},
        time.monotonic() - started,
        recovery,
        skipped,
        stage.take_figures(),
        outside,
        timeline,
    )


async def _some_load() -> None:
    """A moment of load before anything happens, and after it, so that there is work under way."""
    await asyncio.sleep(_WARM_UP)
