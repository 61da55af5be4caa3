"""What operators ask: the branches in doubt and the diagnosis, field by field."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from service.service_fakes import JOURNAL, Served, record
from twophase.contract.names import Gid
from twophase.coordinator.engine.diagnosis import Diagnosis, ParticipantDiagnosis
from twophase.coordinator.engine.indoubt import Doubt, Survey, Unanswered
from twophase.coordinator.journal.port import ParticipantRecord
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.v1 import coordinator_pb2, participant_pb2, types_pb2

RECORD = record(ended=False, endings={0: Ending.APPLIED}, votes={0: Vote.YES, 1: Vote.YES})
GID = Gid(JOURNAL, RECORD.txid, 1)


async def test_nothing_in_doubt_is_an_empty_answer(service: Served) -> None:
    answer = await service.stub.ListInDoubt(coordinator_pb2.ListInDoubtRequest())

    assert answer == coordinator_pb2.ListInDoubtResponse(epoch=types_pb2.Epoch(number=7, nonce="cafe0001"))


async def test_a_branch_that_was_seen_is_told_whole(service: Served) -> None:
    seen = participant_pb2.ObservedBranch(
        gid=str(GID),
        age=Duration(seconds=90),
        owner="app",
        locks=[types_pb2.HeldLock(target="public.purse", mode="RowExclusiveLock")],
        waiters=[types_pb2.Waiter(pid=4711, query="UPDATE purse")],
        horizon_age=12,
    )
    service.engine.doubts = Survey(
        (Doubt(GID, "payment", RECORD, "commits it", 14, "UNAVAILABLE", seen),), (), "seen epoch 9"
    )

    answer = await service.stub.ListInDoubt(coordinator_pb2.ListInDoubtRequest())

    [branch] = answer.branches
    assert branch == coordinator_pb2.InDoubtBranch(
        gid=str(GID),
        txid=str(RECORD.txid),
        request_id="order-1",
        participant="payment",
        state=coordinator_pb2.BRANCH_STATE_PREPARED,
        decision=types_pb2.DECISION_COMMIT,
        doing="commits it",
        attempts=14,
        last_error="UNAVAILABLE",
        observed=True,
        age=seen.age,
        owner="app",
        locks=seen.locks,
        waiters=seen.waiters,
        horizon_age=12,
    )
    assert answer.quarantine == "seen epoch 9"


async def test_a_branch_that_only_the_journal_tells_of_has_the_journals_state(service: Served) -> None:
    undecided = record(2, decision=None, committed=None, ended=False, hearers=None, request=None)
    service.engine.doubts = Survey(
        (
            Doubt(GID, "payment", RECORD, "commits it"),
            Doubt(Gid(JOURNAL, undecided.txid, 1), "payment", undecided, "waits"),
        ),
        (Unanswered("payment", "it is away"),),
        "",
    )

    answer = await service.stub.ListInDoubt(coordinator_pb2.ListInDoubtRequest())

    assert [
        (branch.state, branch.decision, branch.request_id, branch.observed, branch.HasField("age"))
        for branch in answer.branches
    ] == [
        (coordinator_pb2.BRANCH_STATE_PREPARED, types_pb2.DECISION_COMMIT, "order-1", False, False),
        (coordinator_pb2.BRANCH_STATE_WORKING, types_pb2.DECISION_UNSPECIFIED, "", False, False),
    ]
    assert list(answer.unanswered) == [coordinator_pb2.Unanswered(participant="payment", error="it is away")]


async def test_a_prepared_branch_without_any_record_is_told(service: Served) -> None:
    seen = participant_pb2.ObservedBranch(gid=str(GID))
    service.engine.doubts = Survey((Doubt(GID, "payment", None, "aborts it at the next sweep", seen=seen),), (), "")

    [branch] = (await service.stub.ListInDoubt(coordinator_pb2.ListInDoubtRequest())).branches

    assert (branch.state, branch.decision) == (coordinator_pb2.BRANCH_STATE_PREPARED, types_pb2.DECISION_UNSPECIFIED)
    assert (branch.txid, branch.request_id) == (str(RECORD.txid), "")


async def test_a_diagnosis_is_told_whole(service: Served) -> None:
    well = types_pb2.Check(subject="journal file", result=types_pb2.CHECK_RESULT_OK, finding="well")
    bad = types_pb2.Check(subject="reachable", result=types_pb2.CHECK_RESULT_PROBLEM, finding="no", remedy="start it")
    payment = ParticipantRecord("payment", "127.0.0.1:7401", "7312", 3, "money")
    service.engine.diagnosis = Diagnosis((well,), (ParticipantDiagnosis(payment, (bad,)),), "shop")

    answer = await service.stub.Diagnose(coordinator_pb2.CoordinatorDiagnoseRequest())

    assert answer == coordinator_pb2.CoordinatorDiagnoseResponse(
        checks=[well],
        participants=[
            coordinator_pb2.ParticipantDiagnosis(
                participant="payment",
                address="127.0.0.1:7401",
                identity=types_pb2.DatabaseIdentity(system_identifier="7312", timeline=3, database="money"),
                checks=[bad],
            )
        ],
        journal_id=JOURNAL,
        label="shop",
        epoch=types_pb2.Epoch(number=7, nonce="cafe0001"),
    )
