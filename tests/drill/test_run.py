"""What a drill's end is called, and what a report makes of it; without any process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.business import Business
from twophase.sandbox.drill.load import Load
from twophase.sandbox.drill.run import Outcome, Report, Verdict, run_drills
from twophase.sandbox.drill.stage import NotHit, Skipped, Stage
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.system import System

POINT = CrashPoint.COORDINATOR_AFTER_DECIDE


@dataclass(slots=True)
class EmptyStage(Stage):
    """A stage without a system: nothing happens on it, and nothing is wrong in the end but what is given."""

    wrong: tuple[str, ...] = ()
    wrong_outside: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    ran: list[Business] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        yield

    @contextlib.asynccontextmanager
    async def load(self, seed: int, business: Business = Business.TRANSFERS) -> AsyncIterator[Load]:
        self.ran.append(business)
        yield Load("127.0.0.1:1", clients=0, seed=seed, work=iter(()))

    async def disarm(self) -> None: ...

    async def rest(self) -> tuple[str, ...]:
        return self.stuck

    def verdict(self, load: Load) -> tuple[str, ...]:
        return self.wrong

    async def outside_verdict(self) -> tuple[str, ...]:
        return self.wrong_outside

    def left(self) -> dict[str, tuple[str, ...]]:
        return {}

    def forget(self) -> None: ...


async def done(stage: Stage) -> None: ...


async def cannot(stage: Stage) -> None:
    raise Skipped("there is no strace here")


async def misses(stage: Stage) -> None:
    raise NotHit("it lived on")


async def breaks(stage: Stage) -> None:
    raise ProcessFailed("east did not start")


def in_doubt_for(milliseconds: float) -> Act:
    async def act(stage: Stage) -> None:
        stage.recoveries.append(milliseconds)

    return act


def empty_stage(
    *, wrong: tuple[str, ...] = (), outside: tuple[str, ...] = (), stuck: tuple[str, ...] = ()
) -> EmptyStage:
    system = cast("System", SimpleNamespace(address="127.0.0.1:1"))
    return EmptyStage(system, wrong=wrong, wrong_outside=outside, stuck=stuck)


async def report_of(*drills: Drill, on: EmptyStage | None = None) -> Report:
    stage = on or empty_stage()
    told: list[Outcome] = []
    report = await run_drills(stage, drills, told.append)
    assert tuple(told) == report.outcomes
    return report


async def test_a_drill_that_cannot_be_run_counts_neither_as_passed_nor_as_failed() -> None:
    report = await report_of(Drill("one", "", done), Drill("two", "", cannot, points=(POINT,)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.PASSED, Verdict.SKIPPED]
    assert report.passed
    said = report.to_json()
    assert (said["drills_passed"], said["drills_failed"], said["drills_skipped"]) == (1, 0, 1)
    assert (said["drills"][1]["outcome"], said["drills"][1]["reason"]) == ("skipped", "there is no strace here")
    assert said["points_missed"] == []


async def test_a_point_that_was_not_hit_is_wrong() -> None:
    report = await report_of(Drill("one", "", misses, points=(POINT,)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.FAILED]
    assert not report.passed
    assert report.to_json()["points_missed"] == [POINT.value]
    assert report.to_json()["drills"][0]["violations"] == ["not hit: it lived on"]


async def test_a_point_that_no_drill_hit_fails_the_run_even_if_every_drill_passed() -> None:
    report = await report_of(Drill("one", "", done, points=(POINT,)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.PASSED]
    assert not report.passed


async def test_what_is_wrong_fails_a_skipped_drill_too() -> None:
    report = await report_of(Drill("one", "", cannot), on=empty_stage(wrong=("R9: something",)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.FAILED]
    assert not report.passed


async def test_what_only_the_outside_checker_finds_fails_a_drill() -> None:
    report = await report_of(Drill("one", "", done), on=empty_stage(outside=("money is gone",)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.FAILED]
    assert report.to_json()["outside_violations"] == 1
    assert report.to_json()["drills"][0]["outside_violations"] == ["money is gone"]


async def test_a_drill_whose_system_fails_it_is_wrong_and_the_next_one_runs() -> None:
    report = await report_of(Drill("one", "", breaks), Drill("two", "", done))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.FAILED, Verdict.PASSED]
    assert report.outcomes[0].violations == ("not done: east did not start",)


async def test_a_recovery_that_takes_too_long_is_wrong() -> None:
    report = await report_of(Drill("one", "", in_doubt_for(9_999.0)), Drill("two", "", in_doubt_for(10_001.0)))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.PASSED, Verdict.FAILED]
    assert report.outcomes[1].violations == ("late: something of before was in doubt for 10001 ms, more than 10 s",)
    assert (report.to_json()["recovery_ms_max"], report.outcomes[0].recovery_ms) == (10_001.0, 9_999.0)


async def test_a_drill_of_sagas_has_its_own_load_and_its_own_bound() -> None:
    stage = empty_stage()
    sagas = Drill("two", "", in_doubt_for(3_001.0), business=Business.SAGAS, within=3.0)
    report = await report_of(Drill("one", "", in_doubt_for(3_001.0)), sagas, on=stage)
    assert stage.ran == [Business.TRANSFERS, Business.SAGAS]
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.PASSED, Verdict.FAILED]


async def test_a_saga_that_does_not_end_is_wrong() -> None:
    report = await report_of(Drill("one", "", done), on=empty_stage(stuck=("R8: saga 1-ab-2 has not ended",)))
    assert report.outcomes[0].violations == ("R8: saga 1-ab-2 has not ended",)
    assert not report.passed
