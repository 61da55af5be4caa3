"""Every section on real servers, as small as can be: it yields what the catalogue says, and a run with wrong books is
void.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.measure import measuring
from twophase.benchmarks.report.measure.bank import LEFT, RIGHT
from twophase.benchmarks.report.measure.bench import Load
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.plan import OURS, QUICK, Cell, Plan
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.measure.task import Task
from twophase.benchmarks.report.values import NEVER, Results, Section, Suite, Who
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.users import Account

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FAST: Final = {"fsync": "off"}
TINY: Final = replace(
    QUICK,
    repetitions=1,
    seconds=0.2,
    warm_up=0.1,
    accounts=200,
    capacity=(Cell(Workload.UNIFORM, 2, 20), Cell(Workload.ORDER, 2, 20)),
    latency=((Workload.ZIPF, 20.0),),
    latency_seconds=0.3,
    hot_rows=(0, 1),
    contention_clients=2,
    outages=(0.0, None),
    crash_repetitions=1,
    crash_rate=20.0,
    crash_before=0.5,
    crash_after=1.0,
    never_seconds=1.0,
    slow_ms=(50,),
    slow_seconds=0.5,
    cuts=(0.5,),
    network_rate=20.0,
    network_repetitions=1,
    isolation=((Workload.UNIFORM, 30, 20.0), (Workload.ORDER, 30, 20.0)),
    isolation_seconds=0.5,
    fan_out=(2, 3),
    fan_seconds=0.2,
    clearing=(1, 6),
    clearing_repetitions=1,
)
# Figures that only one of the two has.
_OF_BRANCHES: Final = {"in_doubt_p50_ms", "in_doubt_max_ms", "in_doubt_branches", "clear_ms"}
_OF_SAGAS: Final = {"unfinished", "consistent_ms"}


async def measured(guardian: Guardian, *sections: Section, plan: Plan = TINY) -> Results:
    return await measuring.measure(
        Suite.QUICK,
        seed=5,
        guardian=guardian,
        progress=lambda *_: None,
        plan=plan,
        postgres=FAST,
        sections=sections,
    )


def missing_figures(section: Section, who: Who) -> set[str]:
    """What a contender has no figure of, because there is no such thing."""
    match section, who:
        case (Section.CRASH, Who.TWO_PHASE):
            return _OF_SAGAS
        case (Section.CRASH, _):
            return _OF_BRANCHES
        case (Section.PARTITION, Who.SAGA):
            return {"in_doubt_max_ms"}
        case _:
            return set()


def check(results: Results, *sections: Section) -> None:
    """Everything the catalogue names is there, and nothing else."""
    assert results.problems == []
    assert {each.section for each in results.measurements} == set(sections)
    for each in results.measurements:
        entry = CATALOGUE[each.section]
        assert set(each.factors) == set(entry.factors)
        assert set(each.figures) == set(entry.figures) - missing_figures(each.section, each.who)
        left = {"in_doubt_ms"} if (each.section, each.who) == (Section.CRASH, Who.SAGA) else set()
        assert set(each.series) == set(entry.series) - left
        assert not any(math.isnan(value) for value in each.figures.values())
    assert Results.from_json(results.to_json()).measurements


async def test_without_failures(guardian: Guardian) -> None:
    sections = (Section.CAPACITY, Section.LATENCY, Section.CONTENTION)
    results = await measured(guardian, *sections)
    check(results, *sections)
    for section in sections:
        everyone = set(Who) - (set() if section is Section.CONTENTION else {Who.IN_TURN})
        assert set(results.whos(section)) | {Who(name) for name in results.left_out} == everyone
    assert results.setting["versions"]["Postgres"]


async def test_a_dead_coordinator(guardian: Guardian) -> None:
    results = await measured(guardian, Section.CRASH)
    check(results, Section.CRASH)
    for who in OURS:
        (never,) = results.of(Section.CRASH, who, outage_s=NEVER)
        assert len(never.series["down_ms"]) == 1
        (at_once,) = results.of(Section.CRASH, who, outage_s=0.0)
        dead, ready = at_once.series["down_ms"]
        assert ready > dead
    (blocked,) = results.of(Section.CRASH, Who.TWO_PHASE, outage_s=NEVER)
    assert blocked.figures["in_doubt_branches"] > 0
    assert blocked.figures["clear_ms"] == math.inf
    assert blocked.figures["in_doubt_max_ms"] > 1000 * TINY.never_seconds / 2


async def test_a_participant_that_is_slow_or_out_of_reach(guardian: Guardian) -> None:
    sections = (Section.SLOW, Section.PARTITION)
    results = await measured(guardian, *sections)
    check(results, *sections)
    for each in results.of(Section.SLOW):
        assert each.figures["with_it_p50_ms"] > 50
    for each in results.of(Section.PARTITION):
        assert each.figures["done_with_it_per_s"] == 0


async def test_what_others_saw(guardian: Guardian) -> None:
    plan = replace(TINY, whos={**TINY.whos, Section.ISOLATION: (Who.LOCAL, *OURS)})
    results = await measured(guardian, Section.ISOLATION, plan=plan)
    check(results, Section.ISOLATION)
    for workload in results.levels(Section.ISOLATION, "workload"):
        (local,), (two_phase,), (saga,) = (
            results.of(Section.ISOLATION, who, workload=workload) for who in (Who.LOCAL, *OURS)
        )
        assert local.figures["half_per_10000"] > 0
        assert two_phase.figures["half_per_10000"] == saga.figures["half_per_10000"] == 0
        assert saga.figures["compensated_per_10000"] > 0
        assert two_phase.figures["compensated_per_10000"] == 0
        assert math.isfinite(saga.figures["reservation_p50_ms"])


async def test_more_participants_and_more_in_doubt(guardian: Guardian) -> None:
    sections = (Section.FAN_OUT, Section.CLEARING)
    results = await measured(guardian, *sections)
    check(results, *sections)
    for each in results.of(Section.CLEARING):
        assert each.figures["clear_ms"] >= each.figures["ready_ms"] * 0.5


async def test_an_interrupted_run_leaves_nothing_behind() -> None:
    directories: list[Path] = []

    class Noting(Guardian):
        def directory(self, prefix: str = "twophase-", *, reachable_by: Account | None = None) -> Path:
            directories.append(super().directory(prefix, reachable_by=reachable_by))
            return directories[-1]

    with Noting() as mine:

        def interrupt(*_: object) -> None:
            task.cancel()

        task = asyncio.create_task(
            measuring.measure(
                Suite.QUICK,
                seed=5,
                guardian=mine,
                progress=interrupt,
                plan=TINY,
                postgres=FAST,
                sections=[Section.CAPACITY],
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await task
        started = dict(mine._started)
        assert started
    assert all(process.poll() is not None for process in started.values())
    assert directories
    assert not any(directory.exists() for directory in directories)


@pytest.mark.parametrize(
    ("planted", "problem"),
    [
        ("UPDATE account SET balance = balance + 1 WHERE id = 7", "account 7 of left holds"),
        ("DELETE FROM twophase.ledger", "of which its ledger knows nothing"),
        ("INSERT INTO movement (deed, account, amount, undo) VALUES ('r0/1', 7, 0, false)", "nobody sent it"),
    ],
)
async def test_a_planted_imbalance_makes_the_run_void(
    guardian: Guardian, monkeypatch: pytest.MonkeyPatch, planted: str, problem: str
) -> None:
    async def with_a_plant(work: Work) -> None:
        async def plant(load: Load) -> None:
            await load.ended.wait()
            with work.bench.connections((LEFT, RIGHT)) as connections:
                await asyncio.to_thread(connections[LEFT].execute, planted.encode())

        task = Task(work.bench.next_run(), Mix(Workload.UNIFORM, TINY.accounts), "seed", 0.2, 0.1, clients=2)
        await work.bench.load(Who.TWO_PHASE, task, plant)

    monkeypatch.setattr(measuring, "SECTIONS", {Section.CAPACITY: with_a_plant})
    results = await measured(guardian, Section.CAPACITY)
    assert results.is_void
    assert problem in results.problems[0]
    assert results.to_json()["void"] is True
