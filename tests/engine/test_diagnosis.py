"""How the coordinator says that everything is, over fake participants."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fixtures.fakes import FakeLinks
from fixtures.unswept import World, decide, submission, until
from twophase.contract.names import Txid
from twophase.coordinator.engine import diagnosis as diagnosing
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.api import Limits
from twophase.coordinator.engine.diagnosis import Diagnosis
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.events import BranchRef, DeadLettered, Definition, Finished, Reason, SagaStep
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import COMMIT, SAGA, Ending
from twophase.v1 import types_pb2

OK, WARNING, PROBLEM = (
    types_pb2.CHECK_RESULT_OK,
    types_pb2.CHECK_RESULT_WARNING,
    types_pb2.CHECK_RESULT_PROBLEM,
)


@pytest.fixture
def world() -> World:
    return World()


def checks(diagnosis: Diagnosis) -> dict[str, types_pb2.Check]:
    for check in diagnosis.checks:
        assert bool(check.remedy) is (check.result != OK), check
        assert "\n" not in check.finding
    return {check.subject: check for check in diagnosis.checks}


async def test_everything_is_as_it_should_be(world: World, tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db", label="shop")
    async with world.coordinator(journal=journal) as engine:
        await engine.execute(submission())
        diagnosis = await engine.diagnose()
        found = checks(diagnosis)
    await journal.close()
    assert list(found) == [
        "coordinator",
        "new transactions",
        "journal file",
        "journal writes",
        "quarantine",
        "unfinished transactions",
        "heuristic outcomes",
        "dead letters",
        "participants",
    ]
    assert {check.result for check in found.values()} <= {OK, WARNING}  # the disk of a test may be nearly full
    assert str(tmp_path / "journal.db") in found["journal file"].finding
    assert found["journal writes"].finding.startswith("the last forced write took ")
    assert found["participants"].finding == "2 registered"
    assert diagnosis.label == "shop"
    assert [one.record.name for one in diagnosis.participants] == ["order", "payment"]
    for one in diagnosis.participants:
        assert [(check.subject, check.result) for check in one.checks] == [("reachable", OK), ("server", OK)]
        assert one.checks[0].finding.startswith(f"at {one.record.name}:1, database ")


async def test_a_participant_that_is_away_is_a_problem_with_what_to_type(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.down = True
        order, payment = (await engine.diagnose()).participants
        world.payment.down = False
    assert order.checks[0].result == OK
    [check] = payment.checks
    assert (check.subject, check.result) == ("reachable", PROBLEM)
    assert check.finding == "not at payment:1: payment is down"
    assert "--listen payment:1" in check.remedy


async def test_a_participant_that_offers_no_diagnosis_is_one_warning(world: World) -> None:
    world.order.not_offered.add("diagnose")
    async with world.coordinator() as engine:
        order, _ = (await engine.diagnose()).participants
    assert [(check.subject, check.result) for check in order.checks] == [("reachable", OK), ("diagnosis", WARNING)]


async def test_a_participant_with_another_database_behind_it_is_a_problem(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.identity = types_pb2.DatabaseIdentity(system_identifier="99", timeline=1, database="order")
        order, _ = (await engine.diagnose()).participants
    assert order.checks[0].result == PROBLEM
    assert "another database" in order.checks[0].finding


async def test_a_coordinator_that_takes_nothing_new_says_why_and_what_to_do(world: World) -> None:
    async with world.coordinator(limits=Limits(running=0)) as engine:
        engine.refusal = rejections.no_room("12 MB are left", "96 MB")
        found = checks(await engine.diagnose())
        engine.refusal = None
    assert found["new transactions"].result == PROBLEM
    assert "12 MB are left" in found["new transactions"].finding
    assert "96 MB" in found["new transactions"].remedy
    assert found["coordinator"].result == PROBLEM  # as many as may be are under way


async def test_a_quarantine_is_a_problem(world: World) -> None:
    async with world.coordinator() as engine:
        await engine._peers.quarantine.prove("payment has seen epoch 9")
        check = checks(await engine.diagnose())["quarantine"]
    assert check.result == PROBLEM
    assert "payment has seen epoch 9" in check.finding


async def test_what_is_decided_and_waited_for_is_a_warning(world: World) -> None:
    world.payment.lose_answers.add("commit")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["commit"] >= 2)
        check = checks(await engine.diagnose())["unfinished transactions"]
        world.payment.lose_answers.clear()
        await running
    assert check.result == WARNING
    assert check.finding == "decided and not finished everywhere yet: 1; waited for: payment"


async def test_a_heuristic_outcome_is_a_warning(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        await decide(engine, txid, COMMIT, "order")
        engine.journal.append(Finished(txid, 0, Ending.LOST))
        check = checks(await engine.diagnose())["heuristic outcomes"]
    assert check.result == WARNING
    assert str(txid) in check.finding


async def test_a_dead_letter_is_a_warning(world: World) -> None:
    """On one line, and without the business code's own words, which could be anything."""
    reason = Reason("BUSINESS", "GONE", "two\nlines", retryable=False, participant="order")
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        definition = Definition((SagaStep("book", "order", "write", b"", (), pivot=False),), 1000)
        branches = (BranchRef(0, "order"),)
        await engine.journal.decide(Proposal(txid, SAGA, engine.journal.epoch, None, branches, definition=definition))
        engine.journal.append(DeadLettered(txid, 0, 10, reason))
        check = checks(await engine.diagnose())["dead letters"]
    assert check.result == WARNING
    assert f"1; the first is step 'book' of saga {txid} at order (GONE)" in check.finding
    assert "twophase saga dead list" in check.remedy


async def test_a_coordinator_without_participants_is_told_so() -> None:
    engine = Engine(await MemoryJournal.open(MemoryDisk()), FakeLinks())
    await engine.start()
    check = checks(await engine.diagnose())["participants"]
    await engine._tasks.cancel()
    assert check.result == WARNING


class Kept:
    """A journal's file, as `OnDisk` tells it."""

    def __init__(self, path: Path, sync_seconds: float | None = None) -> None:
        self.path = path
        self.label = ""
        self.sync_seconds = sync_seconds


@pytest.mark.parametrize(
    ("limit", "value", "result"),
    [("_LITTLE_SPACE", 1 << 60, WARNING), ("_NO_SPACE", 1 << 60, PROBLEM), ("_LONG_LOG", -1, WARNING)],
)
def test_a_disk_that_fills_up_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, result: int
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"x" * 1234)
    monkeypatch.setattr(diagnosing, "_LITTLE_SPACE", 1 << 60 if limit != "_LONG_LOG" else 0)
    monkeypatch.setattr(diagnosing, limit, value)

    check = diagnosing._file(Kept(path))

    assert check.result == result
    assert f"{path}: 1 kB and 0 bytes of log" in check.finding
    assert check.remedy


def test_a_journal_that_was_moved_away_is_a_problem(tmp_path: Path) -> None:
    check = diagnosing._file(Kept(tmp_path / "gone.db"))

    assert (check.result, "No such file" in check.finding) == (PROBLEM, True)


@pytest.mark.parametrize(("seconds", "result"), [(None, OK), (0.004, OK), (0.5, WARNING)])
def test_slow_forced_writes_are_a_warning(tmp_path: Path, seconds: float | None, result: int) -> None:
    assert diagnosing._writes(Kept(tmp_path, seconds)).result == result
