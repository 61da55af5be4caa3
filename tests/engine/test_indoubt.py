"""What the coordinator says is in doubt, and how it says that everything is: over fake participants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fixtures.fakes import FakeLinks, FakeParticipant
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine import diagnosis as diagnosing
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.api import Call, Limits, Submission
from twophase.coordinator.engine.diagnosis import Diagnosis
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.indoubt import Doubt, Survey
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.journal.events import Begun, BranchRef, Ended, Finished, RequestRef, Voted
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote, delegated
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

JOURNAL_OF_ANOTHER = "fedcba9876543210"
OK, WARNING, PROBLEM = (
    types_pb2.CHECK_RESULT_OK,
    types_pb2.CHECK_RESULT_WARNING,
    types_pb2.CHECK_RESULT_PROBLEM,
)


class World:
    """Two participants, and a coordinator that never sweeps by itself."""

    def __init__(self) -> None:
        self.order = FakeParticipant("order")
        self.payment = FakeParticipant("payment")
        self.links = FakeLinks(self.order, self.payment)
        self.disk = MemoryDisk()

    @asynccontextmanager
    async def coordinator(
        self, *, journal: MemoryJournal | SqliteJournal | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Engine]:
        engine = Engine(journal or await MemoryJournal.open(self.disk), self.links, limits=limits or Limits())
        # What is prepared behind its back stays as it is: it looks at nothing by itself.
        for participant in (self.order, self.payment):
            participant.hold("list_prepared")
        await engine.start()
        for participant in (self.order, self.payment):
            await engine.register(participant.name, f"{participant.name}:1")
        try:
            yield engine
            assert not engine.failed.done()
        finally:
            await engine._tasks.cancel()


@pytest.fixture
def world() -> World:
    return World()


def submission() -> Submission:
    payload = types_pb2.Payload(json="1")
    return Submission("r-1", 1, None, (Call("order", "write", payload), Call("payment", "write", payload)), 5.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def of(survey: Survey, participant: str) -> Doubt:
    [found] = [doubt for doubt in survey.branches if doubt.participant == participant]
    return found


async def decide(engine: Engine, txid: Txid, decision: Decision, *participants: str) -> None:
    branches = tuple(BranchRef(number, name) for number, name in enumerate(participants))
    request = RequestRef(f"r-{txid.sequence}", 1, bytes(32))
    await engine.journal.decide(Proposal(txid, decision, engine.journal.epoch, request, branches))


# --- what is in doubt -------------------------------------------------------------------------------------------------


async def test_nothing_is_in_doubt(world: World) -> None:
    async with world.coordinator() as engine:
        await engine.execute(submission())
        assert await engine.in_doubt() == Survey((), (), "")


async def test_a_branch_that_waits_for_the_others_is_told_with_whose_vote(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: bool(world.order.prepared) and world.payment.calls["prepare"] == 1)
        [doubt] = (await engine.in_doubt()).branches
        gate.set()
        await running
    assert (doubt.participant, doubt.doing) == ("order", "waits for the vote of payment")
    assert doubt.seen is not None
    assert (doubt.seen.owner, doubt.age) == ("order", 1.0)
    assert doubt.record is not None
    assert doubt.record.request is not None
    assert (doubt.record.request.request_id, doubt.record.decision) == ("r-1", None)


async def test_a_decided_branch_is_told_with_every_attempt_and_the_last_error(world: World) -> None:
    commit = world.payment.commit
    asked, busy = asyncio.Event(), asyncio.Event()

    async def refuse(request: pb.CommitRequest, *, timeout: float) -> pb.CommitResponse:
        asked.set()
        await busy.wait()
        raise LinkLost("payment is busy")

    world.payment.commit = refuse  # type: ignore[method-assign]
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await asked.wait()
        first = of(await engine.in_doubt(), "payment")
        busy.set()
        [transaction] = engine._live
        await until(lambda: transaction.parts[1].attempts >= 2)
        later = of(await engine.in_doubt(), "payment")
        world.payment.commit = commit  # type: ignore[method-assign]
        await running
    assert (first.doing, first.attempts, first.last_error) == ("commits it", 0, "")
    assert first.record is not None
    assert first.record.decision == COMMIT
    assert later.attempts >= 2
    assert later.doing.startswith("commits it")
    assert later.doing.endswith(f": {later.attempts} attempts in vain")
    assert later.last_error == "payment is busy"


async def test_a_branch_at_a_participant_that_is_away_is_told_by_the_journal(world: World) -> None:
    gate = world.payment.hold("commit")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["commit"] == 1)
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
        gate.set()
        await running
    assert [(one.participant, one.error) for one in survey.unanswered] == [("payment", "payment is down")]
    doubt = of(survey, "payment")
    assert (doubt.seen, doubt.age) == (None, 0.0)
    assert doubt.doing.startswith("commits it")


async def test_a_participant_that_is_away_is_waited_for_and_told_so(world: World) -> None:
    gate = world.payment.hold("commit")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["commit"] == 1)
        world.payment.down = True
        gate.set()
        [peer] = [peer for peer in engine._peers if peer.name == "payment"]
        world.payment.gates["list_prepared"].set()  # its watcher notices
        await until(lambda: peer.away)
        doubt = of(await engine.in_doubt(), "payment")
        world.payment.down = False
        await running
    assert (doubt.doing, doubt.attempts) == ("commits it as soon as payment is back: 1 attempt in vain", 1)
    assert "payment went down" in doubt.last_error


async def test_the_branch_that_all_wait_for_is_told_so(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["prepare"] == 1 and bool(world.order.prepared))
        world.payment.down = True
        doubt = of(await engine.in_doubt(), "payment")
        world.payment.down = False
        gate.set()
        await running
    assert doubt.doing == "waits for its vote"


async def test_what_is_undecided_at_a_participant_that_is_away_is_told_too(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["prepare"] == 1 and bool(world.order.prepared))
        world.order.down = True
        doubt = of(await engine.in_doubt(), "order")
        world.order.down = False
        gate.set()
        await running
    assert (doubt.seen, doubt.doing) == (None, "waits for the vote of payment")


async def test_an_older_participant_is_asked_what_it_has_prepared(world: World) -> None:
    world.order.not_offered.add("observe")
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: bool(world.order.prepared) and world.payment.calls["prepare"] == 1)
        world.order.gates["list_prepared"].set()
        doubt = of(await engine.in_doubt(), "order")
        gate.set()
        await running
    assert doubt.seen is not None
    assert list(doubt.seen.locks) == []


async def test_an_answer_from_another_database_does_not_count(world: World) -> None:
    async with world.coordinator() as engine:
        other = types_pb2.DatabaseIdentity(system_identifier="99", timeline=1, database="order")
        world.order.identity = other
        survey = await engine.in_doubt()
    [unanswered] = survey.unanswered
    assert unanswered.participant == "order"
    assert "another database" in unanswered.error


async def test_r9_a_foreign_name_is_not_told(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 9)
        world.order.seen_prepared = ["an_order", str(Gid(JOURNAL_OF_ANOTHER, txid, 1))]
        assert (await engine.in_doubt()).branches == ()


async def test_what_was_finished_while_it_was_looked_at_is_not_in_doubt(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        await decide(engine, txid, COMMIT, "order", "payment")
        engine.journal.append(Finished(txid, 0, Ending.APPLIED))
        gid = Gid(engine.journal.journal_id, txid, 0)
        world.order.seen_prepared = [str(gid)]
        world.order.gates["list_prepared"].set()
        gone = (await engine.in_doubt()).branches
        world.order.gates["list_prepared"].clear()
        engine.journal.append(Finished(txid, 1, Ending.APPLIED))
        engine.journal.append(Ended(txid, committed=True))
        world.order.seen_prepared, world.order.prepared = [], {str(gid): []}
        survey = asyncio.create_task(engine.in_doubt())
        await asyncio.sleep(0)
        world.order.gates["list_prepared"].set()
        [outlived] = (await survey).branches
    assert gone == ()
    assert outlived.doing == "finishes it at the next sweep: it was over"


@pytest.mark.parametrize(
    ("decision", "doing"),
    [
        (COMMIT, "commits it at the next sweep"),
        (ABORT, "rolls it back at the next sweep"),
        (delegated(0), "nothing: it is prepared although the decision was delegated to one branch; somebody must look"),
        (None, "nobody decided it: aborts it at the next sweep"),
    ],
)
async def test_a_branch_that_nobody_is_at_work_on_is_told_with_what_will_become_of_it(
    world: World, decision: Decision | None, doing: str
) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        if decision is not None:
            await decide(engine, txid, decision, "order", "payment")
        world.payment.prepared[str(Gid(engine.journal.journal_id, txid, 1))] = []
        [doubt] = (await engine.in_doubt()).branches
    assert doubt.doing == doing


async def test_a_branch_of_an_earlier_epoch_is_aborted_and_of_a_strange_one_is_not(world: World) -> None:
    first = await MemoryJournal.open(world.disk)
    epoch = first.epoch
    await first.close()
    async with world.coordinator() as engine:
        journal_id = engine.journal.journal_id
        for number, owner in enumerate((epoch, Epoch(epoch.number, "ffffffff"))):
            world.order.prepared[str(Gid(journal_id, Txid(owner, 1), number))] = []
        fenced, strange = (await engine.in_doubt()).branches
        await engine._peers.quarantine.prove("payment has seen epoch 9")
        quarantined = await engine.in_doubt()
    assert fenced.doing == "nobody decided it: aborts it at the next sweep"
    assert strange.doing == "settles it by evidence only: this journal never gave out its epoch"
    assert quarantined.quarantine == "payment has seen epoch 9"
    assert {doubt.doing for doubt in quarantined.branches} == {
        "settles it by evidence only: a decision on it may be lost with a newer journal"
    }


async def test_the_oldest_comes_first_and_what_nobody_saw_comes_last(world: World) -> None:
    async with world.coordinator() as engine:
        journal_id = engine.journal.journal_id
        await decide(engine, Txid(engine.journal.epoch, 1), COMMIT, "order", "payment")
        for sequence in (7, 3, 5):
            world.order.prepared[str(Gid(journal_id, Txid(engine.journal.epoch, sequence), 1))] = []
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert [(doubt.gid.txid.sequence, doubt.seen is not None) for doubt in survey.branches] == [
        (7, True),
        (3, True),
        (5, True),
        (1, False),
    ]
    assert survey.branches[-1].doing == "commits it at the next sweep"


@pytest.mark.parametrize(
    ("vote", "decision", "told"),
    [
        (Vote.YES, None, True),
        (Vote.LOST, None, True),
        (None, None, True),
        (Vote.READ_ONLY, None, False),
        (Vote.NO, None, False),
        (Vote.YES, COMMIT, True),
        (None, COMMIT, True),
    ],
)
async def test_at_a_participant_that_is_away_only_what_may_be_prepared_is_told(
    world: World,
    vote: Vote | None,
    decision: Decision | None,
    told: bool,  # noqa: FBT001
) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        branches = (BranchRef(0, "order"), BranchRef(1, "payment"))
        engine.journal.append(Begun(txid, None, branches))
        if vote is not None:
            engine.journal.append(Voted(txid, 1, vote))
        if decision is not None:
            await engine.journal.decide(Proposal(txid, decision, engine.journal.epoch, None, branches))
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert bool(survey.branches) is told


async def test_what_the_decision_did_not_concern_is_not_in_doubt_at_a_participant_that_is_away(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        branches = (BranchRef(0, "order"), BranchRef(1, "payment"))
        engine.journal.append(Begun(txid, None, branches))
        await engine.journal.decide(Proposal(txid, COMMIT, engine.journal.epoch, None, branches[:1]))
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert survey.branches == ()


# --- how everything is ------------------------------------------------------------------------------------------------


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
