"""The section on blocking: the coordinator dies under load, and others do not stop for that.

Lives here: the load, the death at a named point, the outage, and what everybody noticed. Must not live here: which
points and outages (`plan`).

An open load of many customers on the hot rows of a few merchants goes on over the death. So whoever is in doubt holds a
hot row, and as two transactions hardly ever want the same two rows, who waits does so because of the death and not of a
deadlock. Clients try for two seconds. Beside it somebody updates the hot rows without any coordinator, and somebody
else rows that nobody wants. Where nobody starts the coordinator again, rows are locked and branches in doubt for ever:
the figures say for how long that was measured, so at least so long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from twophase.benchmarks.report.measure.area import area_lost, in_slots
from twophase.benchmarks.report.measure.bank import LEFT, RIGHT
from twophase.benchmarks.report.measure.bench import Bench, Load, Run
from twophase.benchmarks.report.measure.books import Page, holds_ms
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.probes import PreparedWatch, Victim
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import NEVER, Section, Who, percentile
from twophase.contract.crashpoints import VARIABLE
from twophase.sandbox.errors import ProcessFailed

HOT_ROWS: Final = 8
PATIENCE: Final = 2.0
VICTIM_RATE: Final = 20.0
_LATE: Final = 1.0
_TRIES: Final = 3
_CLEAR_SECONDS: Final = 30.0
# How much of what is asked for gets as far as the point, at least: the rest is in conflict, or still waiting.
_EXPECTED: Final = 0.6
# Only used by whoever asks for them: rows that are neither hot nor drawn by a transfer.
_KEPT: Final = 8
# How often a transaction of two branches passes a point, so that it is known which time to arm; and by which of them,
# if there were only one transaction at a time, the coordinator dies in the middle of it.
_PASSES: Final = {
    "coordinator.before-commit": 2,
    "coordinator.after-vote": 2,
    "saga.after-step": 2,
    "saga.before-step": 2,
}
_REST: Final = {
    "coordinator.before-commit": 1,
    "coordinator.after-vote": 2,
    "saga.after-step": 1,
    "saga.before-step": 2,
}


@dataclass(slots=True)
class _Death:
    """The coordinator's, in seconds since 1970; `ready` is None as long as nobody has started it again."""

    at: float = 0.0
    ready: float | None = None


@dataclass(slots=True)
class _Scene:
    """One death, and everybody who looks on."""

    bench: Bench
    outage: float | None
    watch: PreparedWatch
    victim: Victim
    control: Victim
    death: _Death = field(default_factory=_Death)

    async def dies(self, load: Load) -> None:
        """Waits for the death at the armed point, and for the outage; then starts the coordinator again."""
        coordinator = self.bench.system.coordinator
        await load.begun.wait()
        while coordinator.is_running:
            if load.ended.is_set():
                self.watch.stop()
                return
            await asyncio.sleep(0.002)
        self.death.at = time.time()
        await coordinator.wait()
        if self.outage is None:
            await load.ended.wait()
        else:
            await asyncio.sleep(max(0.0, self.death.at + self.outage - time.time()))
        await coordinator.start()
        if self.outage is not None:
            self.death.ready = time.time()
        await self.watch.until_none_of(self.death.at, within=_CLEAR_SECONDS)


async def crash(work: Work) -> None:
    """Every point, every outage."""
    plan, section = work.plan, Section.CRASH
    number_of_points = max(len(points) for points in plan.crash_points.values())
    levels = [(number, outage) for number in range(number_of_points) for outage in plan.outages]
    every = list(turns(plan.crash_repetitions, levels, plan.whos[section]))
    for number, (repetition, (point_number, outage), who) in enumerate(every):
        point = plan.crash_points[who][point_number]
        named = "never started again" if outage is None else f"{outage:g} s"
        work.progress(section, number, len(every), f"{who} dies at {point}, {named}")
        await _measure(work, who, point, outage, repetition)


async def _measure(work: Work, who: Who, point: str, outage: float | None, repetition: int) -> None:
    """Again with an earlier time, if on a busy machine the load does not get to the armed one."""
    plan, bench = work.plan, work.bench
    share = _EXPECTED
    for _ in range(_TRIES):
        expected = share * plan.crash_rate * (plan.warm_up + plan.crash_before)
        times = _PASSES[point] * max(1, round(expected)) + _REST[point]
        scene, run = await _one(work, who, f"{point}:{times}", outage, f"{work.seed}/{repetition}/{outage}")
        if scene.death.at:
            factors = {"point": point, "outage_s": NEVER if outage is None else outage}
            work.add(Section.CRASH, who, factors, repetition, _figures(scene, run), _series(scene, run))
            return
        share /= 3
    raise ProcessFailed(
        f"{bench.system.coordinator.name} was to die at {point} and lived on in {_TRIES} loads;"
        " this machine is too busy to measure on"
    )


async def _one(work: Work, who: Who, armed: str, outage: float | None, seed: str) -> tuple[_Scene, Run]:
    plan, bench = work.plan, work.bench
    lasts = plan.never_seconds if outage is None else outage
    seconds = plan.crash_before + lasts + plan.crash_after
    mix = Mix(Workload.MERCHANTS, plan.accounts - _KEPT, hot_rows=HOT_ROWS)
    task = Task(bench.next_run(), mix, seed, seconds, plan.warm_up, rate=plan.crash_rate, timeout=PATIENCE)
    kept = range(plan.accounts - _KEPT + 1, plan.accounts + 1)
    scene = _Scene(
        bench,
        outage,
        PreparedWatch([bench.dsn(LEFT), bench.dsn(RIGHT)]),
        Victim(bench.dsn(LEFT), range(1, HOT_ROWS + 1), VICTIM_RATE, timeout=seconds),
        Victim(bench.dsn(LEFT), kept, VICTIM_RATE, timeout=seconds, connections=20),
    )
    coordinator = bench.system.coordinator
    await coordinator.stop()
    coordinator.environment[VARIABLE] = armed
    try:
        await coordinator.start()
    finally:
        del coordinator.environment[VARIABLE]
    run = await bench.load(who, task, scene.dies, scene.watch.watch, scene.victim.watch, scene.control.watch)
    if not scene.death.at:
        await coordinator.restart()  # it would die later
    return scene, run


def _figures(scene: _Scene, run: Run) -> dict[str, float]:
    crash, ready = _since(run, scene.death.at), _since(run, scene.death.ready)
    assert crash is not None  # noqa: S101 - it is dead
    done = in_slots(_done(run), run.task.seconds)
    slots_before = done[: max(1, int(crash * 10))]
    rate = sum(slots_before) / len(slots_before) * 10
    waits = [1000 * waited for _, waited in scene.victim.waits]
    late = sum(waited > 1000 * _LATE for waited in waits)
    held = holds_ms(run.books)
    doubts = _doubts(scene, run)
    at_death = scene.watch.left_at(scene.death.at)
    unfinished = _unfinished(scene, run)
    figures = {
        "goodput_before_per_s": rate,
        "lost": area_lost(done, rate=rate, crash=crash, ready=ready).lost,
        "victim_p99_ms": percentile(waits, 99),
        "victim_max_ms": max(waits),
        "victim_late_share": 100 * late / len(waits),
        "control_p99_ms": percentile([1000 * waited for _, waited in scene.control.waits], 99),
        "lock_hold_p50_ms": percentile(held, 50),
        "lock_hold_max_ms": max([*held, *(doubts if run.who is Who.TWO_PHASE else [])]),
    }
    if run.who is Who.TWO_PHASE:
        return figures | {
            "in_doubt_p50_ms": percentile(doubts, 50),
            "in_doubt_max_ms": max(doubts, default=0.0),
            "in_doubt_branches": len(at_death),
            "clear_ms": _after(scene, [each.last for each in at_death]),
        }
    return figures | {
        "unfinished": len(unfinished),
        "consistent_ms": _after(scene, [page.last_seen for page in unfinished]),
    }


def _series(scene: _Scene, run: Run) -> dict[str, list[float]]:
    seconds, ready = run.task.seconds, _since(run, scene.death.ready)
    failed = [answer.end for answer in run.log.answers if answer.told is not Told.OK]
    down = [_since(run, scene.death.at) or 0.0, *([ready] if ready is not None else [])]
    series = {
        "goodput_per_100_ms": in_slots(_done(run), seconds),
        "refused_per_100_ms": in_slots(failed, seconds),
        "victim_at_ms": [round(1000 * at, 1) for at, _ in scene.victim.waits],
        "victim_ms": [round(1000 * waited, 3) for _, waited in scene.victim.waits],
        "control_ms": [round(1000 * waited, 3) for _, waited in scene.control.waits],
        "lock_holds_ms": [round(each, 3) for each in holds_ms(run.books)],
        "down_ms": [round(1000 * each, 1) for each in down],
    }
    if run.who is Who.TWO_PHASE:
        series["in_doubt_ms"] = [round(each, 3) for each in _doubts(scene, run)]
    return series


def _done(run: Run) -> list[float]:
    return [answer.end for answer in run.log.answers if answer.told is Told.OK]


def _since(run: Run, moment: float | None) -> float | None:
    return None if moment is None else moment - run.log.begin


def _doubts(scene: _Scene, run: Run) -> list[float]:
    """How long each branch was in doubt, in milliseconds.

    Of those that were seen, from their own time stamp of PREPARE; of the others, too short to be seen every time, from
    the ledger row, which is written in the same round trip. To the commit, or to the last look that saw it.
    """
    found = []
    for gid, (recorded, committed) in run.doubts.items():
        seen = scene.watch.seen.get(gid)
        found.append(1000 * (committed - (seen.prepared if seen else recorded)))
    found += [1000 * (seen.last - seen.prepared) for gid, seen in scene.watch.seen.items() if gid not in run.doubts]
    return [max(0.0, each) for each in found]


def _unfinished(scene: _Scene, run: Run) -> list[Page]:
    """Sagas of which others could see something, and not all of it or its end, when the coordinator died."""
    return [page for page in run.books.values() if page.first_seen <= scene.death.at < page.last_seen]


def _after(scene: _Scene, moments: Sequence[float]) -> float:
    """From when the coordinator was ready again to the last of these, in milliseconds; infinite if it never was."""
    if scene.death.ready is None:
        return float("inf")
    return max([0.0, *(1000 * (moment - scene.death.ready) for moment in moments)])
