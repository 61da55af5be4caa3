"""Every section on real servers, as small as can be: it yields what the catalogue says, and wrong books are found."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Final

import pytest

from benchmarks.report.measure.watching import Watching
from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.measure.bank import LEFT
from twophase.benchmarks.report.measure.bench import Bench, Load, Void
from twophase.benchmarks.report.measure.business import Mix, Workload, participants_of
from twophase.benchmarks.report.measure.measuring import measure
from twophase.benchmarks.report.measure.plan import OURS, QUICK, Cell
from twophase.benchmarks.report.measure.task import Task
from twophase.benchmarks.report.values import NEVER, Results, Section, Suite, Who
from twophase.sandbox.guardian import Guardian

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
    hot_rows=(1,),
    contention_clients=2,
    outages=(0.0, None),
    crash_repetitions=1,
    crash_rate=20.0,
    crash_before=0.5,
    crash_after=0.8,
    never_seconds=0.8,
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
    # Everybody in one section; elsewhere those whose figures are looked at.
    whos={
        **QUICK.whos,
        Section.CAPACITY: (Who.LOCAL, *OURS),
        Section.LATENCY: (Who.LOOP, *OURS),
        Section.ISOLATION: (Who.LOCAL, *OURS),
        Section.FAN_OUT: (Who.LOOP, *OURS),
    },
)
# Figures that only one of the two has.
_OF_BRANCHES: Final = {"in_doubt_p50_ms", "in_doubt_max_ms", "in_doubt_branches", "clear_ms"}
_OF_SAGAS: Final = {"unfinished", "consistent_ms"}


async def measured(guardian: Guardian, *sections: Section) -> Results:
    return await measure(
        Suite.QUICK,
        seed=5,
        guardian=guardian,
        watcher=Watching(),
        plan=TINY,
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
    assert results.problems == ()
    assert results.is_whole
    assert {each.section for each in results.measurements} == set(sections)
    for each in results.measurements:
        entry = CATALOGUE[each.section]
        assert set(each.factors) == set(entry.factors)
        assert set(each.figures) == set(entry.figures) - missing_figures(each.section, each.who)
        left = {"in_doubt_ms"} if (each.section, each.who) == (Section.CRASH, Who.SAGA) else set()
        assert set(each.series) == set(entry.series) - left
        assert not any(math.isnan(value) for value in each.figures.values())
    assert Results.from_json(results.to_json()).measurements


# On one system each: starting one takes longer than measuring on it.
FOR_EVERYBODY: Final = (Section.CAPACITY, Section.LATENCY, Section.CONTENTION, Section.ISOLATION)
FOR_TWO: Final = (Section.SLOW, Section.PARTITION, Section.CLEARING, Section.FAN_OUT)


@pytest.mark.long
async def test_sections_for_everybody_yield_what_the_catalogue_says(guardian: Guardian) -> None:
    results = await measured(guardian, *FOR_EVERYBODY)
    check(results, *FOR_EVERYBODY)
    assert results.setting["versions"]["Postgres"]
    assert set(results.setting["seconds_by_section"]) == set(FOR_EVERYBODY)
    for section in FOR_EVERYBODY:
        assert {*results.whos(section), *map(Who, results.left_out)} >= set(TINY.whos[section])
    assert {*results.whos(Section.CONTENTION), *map(Who, results.left_out)} == set(Who)
    only_local_commits_stay_half_done_and_only_sagas_undo(results)


@pytest.mark.long
async def test_a_dead_coordinator_yields_what_the_catalogue_says(guardian: Guardian) -> None:
    results = await measured(guardian, Section.CRASH)
    check(results, Section.CRASH)
    a_dead_coordinator_leaves_branches_in_doubt(results)


@pytest.mark.long
async def test_sections_for_our_own_yield_what_the_catalogue_says(guardian: Guardian) -> None:
    results = await measured(guardian, *FOR_TWO)
    check(results, *FOR_TWO)
    a_slow_participant_is_slow_and_one_cut_off_does_nothing(results)
    for each in results.of(Section.CLEARING):
        assert each.figures["clear_ms"] >= each.figures["ready_ms"] * 0.5


def test_no_section_is_forgotten() -> None:
    assert {*FOR_EVERYBODY, Section.CRASH, *FOR_TWO} == set(Section)


def a_dead_coordinator_leaves_branches_in_doubt(results: Results) -> None:
    for who in OURS:
        for point in TINY.crash_points[who]:
            (never,) = results.of(Section.CRASH, who, point=point, outage_s=NEVER)
            assert len(never.series["down_ms"]) == 1
            (at_once,) = results.of(Section.CRASH, who, point=point, outage_s=0.0)
            dead, ready = at_once.series["down_ms"]
            assert ready > dead
    for blocked in results.of(Section.CRASH, Who.TWO_PHASE, outage_s=NEVER):
        assert blocked.figures["in_doubt_branches"] > 0
        assert blocked.figures["clear_ms"] == math.inf
        assert blocked.figures["in_doubt_max_ms"] > 1000 * TINY.never_seconds / 2


def a_slow_participant_is_slow_and_one_cut_off_does_nothing(results: Results) -> None:
    for each in results.of(Section.SLOW):
        assert each.figures["with_it_p50_ms"] > 50
    for each in results.of(Section.PARTITION):
        assert each.figures["done_with_it_per_s"] == 0


def only_local_commits_stay_half_done_and_only_sagas_undo(results: Results) -> None:
    for workload in results.levels(Section.ISOLATION, "workload"):
        (local,), (two_phase,), (saga,) = (
            results.of(Section.ISOLATION, who, workload=workload) for who in (Who.LOCAL, *OURS)
        )
        assert local.figures["half_per_10000"] > 0
        assert two_phase.figures["half_per_10000"] == saga.figures["half_per_10000"] == 0
        assert saga.figures["compensated_per_10000"] > 0
        assert two_phase.figures["compensated_per_10000"] == 0
        assert math.isfinite(saga.figures["reservation_p50_ms"])
    for each in results.of(Section.CAPACITY, Who.LOCAL):
        assert each.figures["half_per_10000"] > 0


PLANTED: Final = {
    "UPDATE account SET balance = balance + 1 WHERE id = 7": "account 7 of left holds",
    "DELETE FROM twophase.ledger": "of which its ledger knows nothing",
    "INSERT INTO movement (deed, account, amount, undo) VALUES ('r0/1', 7, 0, false)": "nobody sent it",
}


async def test_a_planted_imbalance_is_found(guardian: Guardian) -> None:
    async with Bench.running(guardian, accounts=TINY.accounts, postgres=FAST) as bench:
        for planted, problem in PLANTED.items():

            async def plant(load: Load, planted: str = planted) -> None:
                await load.ended.wait()
                with bench.connections((LEFT,)) as connections:
                    await asyncio.to_thread(connections[LEFT].execute, planted.encode())

            task = Task(bench.next_run(), Mix(Workload.UNIFORM, TINY.accounts), "seed", 0.2, 0.1, clients=2)
            with pytest.raises(Void, match=problem):
                await bench.load(Who.TWO_PHASE, task, plant)
            bench._forget(participants_of(task.mix))
