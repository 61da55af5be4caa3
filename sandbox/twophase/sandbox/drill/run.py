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

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.load import Told
from twophase.sandbox.drill.stage import NotHit, Skipped, Stage
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

    `skipped` is why it could not be run, or empty. `figures` are what it measured besides, by name.
    """

    drill: Drill
    violations: tuple[str, ...]
    told: dict[str, int]
    seconds: float
    recovery_ms: float | None
    skipped: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """What is wrong counts in a drill that was skipped, too."""
        if self.violations:
            return Verdict.FAILED
        return Verdict.SKIPPED if self.skipped else Verdict.PASSED


@dataclass(frozen=True, slots=True)
class Report:
    """How all of them ended. `wanted` are the points that these drills are to hit, those that were skipped apart."""

    outcomes: tuple[Outcome, ...]
    hit: frozenset[CrashPoint]
    wanted: frozenset[CrashPoint]
    in_doubt_left: int

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
            "in_doubt_left": self.in_doubt_left,
            "recovery_ms_median": round(statistics.median(times), 1) if times else None,
            "recovery_ms_max": round(max(times), 1) if times else None,
            "drills": [
                {
                    "name": outcome.drill.name,
                    "outcome": outcome.verdict.value,
                    "reason": outcome.skipped or None,
                    "violations": list(outcome.violations),
                    "seconds": round(outcome.seconds, 2),
                    "recovery_ms": None if outcome.recovery_ms is None else round(outcome.recovery_ms, 1),
                    "figures": {name: round(figure, 3) for name, figure in outcome.figures.items()},
                    **outcome.told,
                }
                for outcome in self.outcomes
            ],
        }


async def run_drills(stage: Stage, drills: Sequence[Drill], on_outcome: Callable[[Outcome], None]) -> Report:
    """Runs them in order. A drill that fails does not keep the next one from running."""
    outcomes = []
    for seed, drill in enumerate(drills, start=1):
        outcome = await _run(stage, drill, seed)
        outcomes.append(outcome)
        on_outcome(outcome)
    wanted = frozenset(point for each in outcomes if not each.skipped for point in each.drill.points)
    left = sum(len(gids) for gids in stage.left().values())
    return Report(tuple(outcomes), frozenset(stage.hit), wanted, left)


async def _run(stage: Stage, drill: Drill, seed: int) -> Outcome:
    started = time.monotonic()
    measured = len(stage.recoveries)
    wrong: list[str] = []
    skipped = ""
    async with stage.load(seed) as load:
        await _some_load()
        try:
            await drill.act(stage)
        except NotHit as error:
            wrong.append(f"not hit: {error}")
        except Skipped as reason:
            skipped = str(reason)
        except SandboxError as error:
            wrong.append(f"not done: {error}")
        await stage.disarm()
        await _some_load()
    await load.settle(stage.system.address)
    await stage.rest()
    wrong.extend(stage.verdict(load))
    stage.forget()
    told = {told.value: load.record.count()[told] for told in Told}
    recovery = max(stage.recoveries[measured:], default=None)
    return Outcome(drill, tuple(wrong), told, time.monotonic() - started, recovery, skipped, stage.take_figures())


async def _some_load() -> None:
    """A moment of load before anything happens, and after it, so that there is work under way."""
    await asyncio.sleep(_WARM_UP)
