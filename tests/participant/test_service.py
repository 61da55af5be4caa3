"""The gRPC service: every outcome as its message, every error as its status, over a fake resource manager; the same by
unary calls and on a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from fixtures.participants import DATABASE, FakeResources, make_participant
from fixtures.streaming import calls_of
from twophase.contract.names import Epoch, Gid, Txid
from twophase.contract.status import from_call
from twophase.participant import NotReady
from twophase.participant.bound import BoundUndo
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    CannotFinish,
    Committed,
    Diagnosis,
    Entry,
    Forgotten,
    Identity,
    Inspection,
    Lost,
    No,
    Observation,
    OutcomeUnknown,
    Prepared,
    PreparedBranch,
    PreparedBranches,
    ReadOnly,
    RefusedForGood,
    Remembered,
    Retry,
    StillRunning,
    Tombstoned,
)
from twophase.participant.service import ParticipantService
from twophase.participant.work import DEADLINE_CAP
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

JOURNAL = "0123456789abcdef"
TXID = "00000003-aabbccdd-000000000007"
GID = f"tp-{JOURNAL}-{TXID}-0001"
FINGERPRINT = bytes(range(32))
SESSION = Identity(system_identifier="7312", timeline=2, database="payment")
REFUSAL = types_pb2.Refusal(kind=types_pb2.REFUSAL_KIND_BUSINESS, code="NO_FUNDS", message="has not 2 left")
TOLD = types_pb2.Refusal(
    kind=types_pb2.REFUSAL_KIND_BUSINESS, code="NO_FUNDS", message="has not 2 left", participant="payment"
)
RESULTS = (types_pb2.Payload(json='"a"'), types_pb2.Payload())

Stub: TypeAlias = "participant_pb2_grpc.ParticipantAsyncStub"


@pytest.fixture
def resources() -> FakeResources:
    return FakeResources()


@pytest.fixture
def service(resources: FakeResources) -> ParticipantService:
    return ParticipantService(make_participant(), resources)


@pytest.fixture(params=["unary", "stream"])
async def stub(request: pytest.FixtureRequest, service: ParticipantService) -> AsyncIterator[Stub]:
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Stub = participant_pb2_grpc.ParticipantStub(channel)
        if request.param == "unary":
            yield stub
        else:
            # The largest requests go by the unary calls all the same.
            methods = {"prepare": stub.Prepare, "apply": stub.Apply, "commit": stub.Commit, "abort": stub.Abort}
            calls = calls_of(stub.Stream, participant_pb2.StreamRequest, **methods)
            for kind in methods:
                setattr(stub, kind.title(), partial(calls.call, kind, timeout=10))
            yield stub
            await calls.close()
    await server.stop(None)


def operation(name: str = "charge", json: str = "1") -> participant_pb2.BranchOperation:
    return participant_pb2.BranchOperation(name=name, payload=types_pb2.Payload(json=json))


def prepare(**fields: Any) -> participant_pb2.PrepareRequest:
    given: dict[str, Any] = {
        "gid": GID,
        "operations": [operation()],
        "time_left": Duration(seconds=5),
        "journal_position": 42,
        "fingerprint": FINGERPRINT,
    }
    return participant_pb2.PrepareRequest(**{**given, **fields})


def apply(**fields: Any) -> participant_pb2.ApplyRequest:
    given: dict[str, Any] = {
        "gid": GID,
        "kind": types_pb2.BRANCH_KIND_WORK,
        "operations": [operation()],
        "time_left": Duration(seconds=5),
        "journal_position": 42,
        "fingerprint": FINGERPRINT,
    }
    return participant_pb2.ApplyRequest(**{**given, **fields})


def handshake(**fields: Any) -> participant_pb2.HandshakeRequest:
    given: dict[str, Any] = {
        "participant": "payment",
        "journal_id": JOURNAL,
        "epoch": types_pb2.Epoch(number=3, nonce="aabbccdd"),
    }
    return participant_pb2.HandshakeRequest(**{**given, **fields})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Prepared(RESULTS), participant_pb2.PrepareResponse(vote=types_pb2.VOTE_YES, results=RESULTS)),
        (ReadOnly(RESULTS), participant_pb2.PrepareResponse(vote=types_pb2.VOTE_READ_ONLY, results=RESULTS)),
        (No(REFUSAL), participant_pb2.PrepareResponse(vote=types_pb2.VOTE_NO, refusal=TOLD)),
    ],
)
async def test_a_vote_is_told(
    stub: Stub, resources: FakeResources, answer: Any, told: participant_pb2.PrepareResponse
) -> None:
    resources.answer = answer
    told.identity.CopyFrom(DATABASE.message())
    assert await stub.Prepare(prepare()) == told
    [(gid, deadline, position, fingerprint)] = resources.asked
    assert (gid, position, fingerprint) == (Gid.parse(GID), 42, FINGERPRINT)
    assert 4 < deadline.left() <= 5


async def test_a_vote_carries_the_identity_of_its_session(stub: Stub, resources: FakeResources) -> None:
    resources.answer = Prepared((), identity=SESSION)
    assert (await stub.Prepare(prepare())).identity == SESSION.message()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, DEADLINE_CAP),
        (Duration(seconds=10**9), DEADLINE_CAP),
        (Duration(seconds=-3), 0),
        (Duration(nanos=500_000_000), 0.5),
    ],
)
async def test_the_time_left_is_capped(
    stub: Stub, resources: FakeResources, given: Duration | None, seconds: float
) -> None:
    resources.answer = Prepared(())
    await stub.Prepare(prepare(time_left=given))
    [(_, deadline, _, _)] = resources.asked
    assert seconds - 0.4 < deadline.left() <= seconds


@pytest.mark.parametrize(
    ("wrong", "kind", "name", "message"),
    [
        (operation(json='"x"'), types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "charge", "should be a valid integer"),
        (operation("refund"), types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION, "refund", "it has charge, balance"),
        (operation("balance"), types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "balance", "the protobuf message twophase.v1."),
    ],
)
async def test_a_misfit_payload_is_a_no_before_any_work(
    stub: Stub,
    resources: FakeResources,
    wrong: participant_pb2.BranchOperation,
    kind: types_pb2.RefusalKind.ValueType,
    name: str,
    message: str,
) -> None:
    answer = await stub.Prepare(prepare(operations=[operation(), wrong]))
    assert answer.vote == types_pb2.VOTE_NO
    assert (answer.refusal.kind, answer.refusal.participant, answer.refusal.operation) == (kind, "payment", name)
    assert message in answer.refusal.message
    assert not answer.refusal.retryable
    assert answer.identity == DATABASE.message()
    assert not resources.asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            Applied(RESULTS),
            participant_pb2.ApplyResponse(outcome=participant_pb2.APPLY_OUTCOME_APPLIED, results=RESULTS),
        ),
        (
            RefusedForGood(REFUSAL),
            participant_pb2.ApplyResponse(outcome=participant_pb2.APPLY_OUTCOME_REFUSED, refusal=TOLD),
        ),
        (Retry(REFUSAL), participant_pb2.ApplyResponse(outcome=participant_pb2.APPLY_OUTCOME_RETRY, refusal=TOLD)),
        (Tombstoned(), participant_pb2.ApplyResponse(outcome=participant_pb2.APPLY_OUTCOME_TOMBSTONE)),
    ],
)
async def test_a_local_commit_is_told(
    stub: Stub, resources: FakeResources, answer: Any, told: participant_pb2.ApplyResponse
) -> None:
    resources.answer = answer
    told.identity.CopyFrom(DATABASE.message())
    assert await stub.Apply(apply()) == told
    [(gid, _, position, fingerprint, must_succeed)] = resources.asked
    assert (gid, position, fingerprint, must_succeed) == (Gid.parse(GID), 42, FINGERPRINT, False)


async def test_work_past_the_pivot_must_succeed(stub: Stub, resources: FakeResources) -> None:
    resources.answer = Applied(RESULTS)
    await stub.Apply(apply(must_succeed=True))
    [(_, _, _, _, must_succeed)] = resources.asked
    assert must_succeed


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Applied(()), participant_pb2.APPLY_OUTCOME_APPLIED),
        (Tombstoned(), participant_pb2.APPLY_OUTCOME_TOMBSTONE),
        (Retry(REFUSAL), participant_pb2.APPLY_OUTCOME_RETRY),
    ],
)
async def test_a_compensation_undoes_the_operation_it_is_sent_with(
    stub: Stub, resources: FakeResources, answer: Any, outcome: participant_pb2.ApplyOutcome.ValueType
) -> None:
    resources.answer = answer
    resources.results = (types_pb2.Payload(json='"a"'),)
    told = await stub.Apply(apply(kind=types_pb2.BRANCH_KIND_COMPENSATION))
    assert told.outcome == outcome
    assert told.refusal == (TOLD if isinstance(answer, Retry) else types_pb2.Refusal())
    [(gid, _, position, fingerprint)] = resources.asked
    assert (gid, position, fingerprint) == (Gid.parse(GID), 42, FINGERPRINT)
    [work] = resources.works
    assert isinstance(work, BoundUndo)
    assert [(call.function.__name__, call.given()) for call in work.calls] == [("refund", (1, "a"))]


async def test_r7_a_misfit_payload_of_a_local_commit_is_refused_through_the_ledger(
    stub: Stub, resources: FakeResources
) -> None:
    resources.answer = RefusedForGood(REFUSAL)
    await stub.Apply(apply(operations=[operation(json='"x"')]))
    [work] = resources.works
    assert (work.running, work.asynchronous) == ("charge", False)
    with pytest.raises(Exception, match="should be a valid integer"):
        work.run(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Committed(), participant_pb2.COMMIT_OUTCOME_COMMITTED),
        (Lost(), participant_pb2.COMMIT_OUTCOME_LOST),
    ],
)
async def test_a_commit_is_told(
    stub: Stub, resources: FakeResources, answer: Any, outcome: participant_pb2.CommitOutcome.ValueType
) -> None:
    resources.answer = answer
    assert await stub.Commit(participant_pb2.CommitRequest(gid=GID)) == participant_pb2.CommitResponse(
        outcome=outcome, identity=DATABASE.message()
    )
    assert resources.asked == [(Gid.parse(GID),)]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Aborted(), participant_pb2.AbortResponse(outcome=participant_pb2.ABORT_OUTCOME_ABORTED)),
        (Tombstoned(), participant_pb2.AbortResponse(outcome=participant_pb2.ABORT_OUTCOME_ABORTED)),
        (
            RefusedForGood(REFUSAL),
            participant_pb2.AbortResponse(outcome=participant_pb2.ABORT_OUTCOME_REFUSED, refusal=TOLD),
        ),
        (
            Applied(RESULTS),
            participant_pb2.AbortResponse(outcome=participant_pb2.ABORT_OUTCOME_APPLIED, results=RESULTS),
        ),
    ],
)
async def test_an_abort_is_told(
    stub: Stub, resources: FakeResources, answer: Any, told: participant_pb2.AbortResponse
) -> None:
    resources.answer = answer
    told.identity.CopyFrom(DATABASE.message())
    assert await stub.Abort(participant_pb2.AbortRequest(gid=GID, decision=types_pb2.DECISION_DELEGATED)) == told
    assert resources.asked == [(Gid.parse(GID), types_pb2.BRANCH_KIND_WORK, types_pb2.DECISION_DELEGATED)]


async def test_prepared_branches_are_listed_with_their_age(stub: Stub, resources: FakeResources) -> None:
    resources.answer = PreparedBranches((PreparedBranch(Gid.parse(GID), 1.5), PreparedBranch(Gid.parse(GID), -0.1)))
    answer = await stub.ListPrepared(participant_pb2.ListPreparedRequest(journal_id=JOURNAL))
    assert [branch.gid for branch in answer.branches] == [GID, GID]
    assert [branch.age.ToNanoseconds() for branch in answer.branches] == [1_500_000_000, 0]
    assert answer.identity == DATABASE.message()
    assert resources.asked == [(JOURNAL,)]


async def test_what_an_operator_asks_is_told_as_it_was_seen(stub: Stub, resources: FakeResources) -> None:
    branch = participant_pb2.ObservedBranch(gid=GID, owner="app", horizon_age=7)
    resources.answer = Observation((branch,), identity=SESSION)
    observed = await stub.Observe(participant_pb2.ObserveRequest(journal_id=JOURNAL))
    check = types_pb2.Check(subject="server", result=types_pb2.CHECK_RESULT_OK, finding="well")
    resources.answer = Diagnosis((check,))
    diagnosed = await stub.Diagnose(participant_pb2.DiagnoseRequest(journal_id=JOURNAL))
    assert observed == participant_pb2.ObserveResponse(branches=[branch], identity=SESSION.message())
    assert diagnosed == participant_pb2.DiagnoseResponse(checks=[check], identity=DATABASE.message())
    assert resources.asked == [(JOURNAL,), (JOURNAL,)]


async def test_ledger_rows_are_told(stub: Stub, resources: FakeResources) -> None:
    gid = Gid.parse(GID)
    applied = Entry(
        gid=gid,
        kind=types_pb2.BRANCH_KIND_WORK,
        outcome=participant_pb2.LEDGER_OUTCOME_APPLIED,
        decision=types_pb2.DECISION_UNSPECIFIED,
        results=RESULTS,
        refusal=None,
        fingerprint=FINGERPRINT,
        position=42,
    )
    resources.answer = Inspection((applied,), (gid,), identity=SESSION)
    answer = await stub.Inspect(participant_pb2.InspectRequest(journal_id=JOURNAL, txid=TXID))
    assert answer == participant_pb2.InspectResponse(
        entries=[
            participant_pb2.LedgerEntry(
                gid=GID,
                kind=types_pb2.BRANCH_KIND_WORK,
                outcome=participant_pb2.LEDGER_OUTCOME_APPLIED,
                results=RESULTS,
                fingerprint=FINGERPRINT,
                journal_position=42,
            )
        ],
        prepared_gids=[GID],
        identity=SESSION.message(),
    )
    assert resources.asked == [(JOURNAL, Txid.parse(TXID))]


async def test_many_transactions_are_inspected_by_one_call(stub: Stub, resources: FakeResources) -> None:
    resources.answer = Inspection(entries=(), prepared=(Gid.parse(GID),), identity=SESSION)
    other = TXID[:-1] + "8"
    answer = await stub.Inspect(participant_pb2.InspectRequest(journal_id=JOURNAL, txids=[TXID, other]))
    assert list(answer.prepared_gids) == [GID]
    assert resources.asked == [(JOURNAL, frozenset({Txid.parse(TXID), Txid.parse(other)}))]


@pytest.mark.parametrize(("txids", "words"), [([TXID] * 1001, "more than 1000"), (["x"], "'x' is not")])
async def test_many_transactions_that_are_too_many_or_malformed_are_refused(
    stub: Stub, txids: list[str], words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Inspect(participant_pb2.InspectRequest(journal_id=JOURNAL, txids=txids))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refused.value.details() or "")


async def test_a_handshake_tells_who_this_is_and_what_it_offers(stub: Stub, resources: FakeResources) -> None:
    resources.answer = Remembered(Epoch(2, "11223344"), 41, pruning_left=True)
    old = types_pb2.Epoch(number=1, nonce="11223344")
    answer = await stub.Handshake(handshake(horizons=[participant_pb2.Horizon(epoch=old, sequence=9)]))
    assert answer == participant_pb2.HandshakeResponse(
        participant="payment",
        identity=DATABASE.message(),
        operations=[
            participant_pb2.OperationDescription(name="charge", has_compensation=True),
            participant_pb2.OperationDescription(name="balance", read_only=True, message_type="twophase.v1.Epoch"),
        ],
        last_epoch=types_pb2.Epoch(number=2, nonce="11223344"),
        highest_position=41,
        pruning_left=True,
        streams=True,
    )
    assert resources.asked == [(JOURNAL, Epoch(3, "aabbccdd"), {Epoch(1, "11223344"): 9})]
    resources.answer = Remembered(None, 0)
    assert not (await stub.Handshake(handshake())).HasField("last_epoch")


async def test_a_handshake_that_only_looks_remembers_nothing(stub: Stub, resources: FakeResources) -> None:
    resources.answer = Remembered(Epoch(2, "11223344"), 41)
    answer = await stub.Handshake(handshake(look_only=True))
    assert (answer.last_epoch.number, answer.highest_position) == (2, 41)
    assert resources.asked == [(JOURNAL,)]


async def test_a_handshake_with_somebody_else_is_refused(stub: Stub, resources: FakeResources) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="this is the participant 'payment', not 'stock'") as raised:
        await stub.Handshake(handshake(participant="stock"))
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert not resources.asked


Call: TypeAlias = Callable[[Stub], grpc.aio.UnaryUnaryCall[Any, Any]]
EPOCH = types_pb2.Epoch(number=1, nonce="11223344")


@pytest.mark.parametrize(
    ("call", "at", "message"),
    [
        (lambda stub: stub.Prepare(prepare(gid="")), "gid", "GID '' is not of the form"),
        (lambda stub: stub.Prepare(prepare(gid=f"{GID}'")), "gid", "is not of the form"),
        (lambda stub: stub.Prepare(prepare(gid="ü" * 100_000)), "gid", "is not of the form"),
        (lambda stub: stub.Prepare(prepare(operations=[])), "operations", "the branch has no operations"),
        (lambda stub: stub.Prepare(prepare(fingerprint=b"x")), "fingerprint", "has 1 bytes, not 32"),
        (lambda stub: stub.Prepare(prepare(journal_position=2**63)), "journal_position", "is over"),
        (lambda stub: stub.Apply(apply(gid=GID.upper())), "gid", "is not of the form"),
        (lambda stub: stub.Apply(apply(kind=9)), "kind", "9 is no kind of a branch"),
        (lambda stub: stub.Apply(apply(operations=[])), "operations", "the branch has no operations"),
        (lambda stub: stub.Commit(participant_pb2.CommitRequest(gid="x")), "gid", "GID 'x'"),
        (lambda stub: stub.Abort(participant_pb2.AbortRequest(gid="x")), "gid", "GID 'x'"),
        (lambda stub: stub.Abort(participant_pb2.AbortRequest(gid=GID)), "decision", "only under the decision"),
        (
            lambda stub: stub.Abort(participant_pb2.AbortRequest(gid=GID, decision=types_pb2.DECISION_COMMIT)),
            "decision",
            "only under the decision",
        ),
        (lambda stub: stub.ListPrepared(participant_pb2.ListPreparedRequest(journal_id="0" * 15)), "journal_id", "16"),
        (lambda stub: stub.Inspect(participant_pb2.InspectRequest(journal_id=JOURNAL, txid="x")), "txid", "'x' is not"),
        (lambda stub: stub.Observe(participant_pb2.ObserveRequest(journal_id="0" * 15)), "journal_id", "16"),
        (lambda stub: stub.Diagnose(participant_pb2.DiagnoseRequest(journal_id="%")), "journal_id", "16"),
        (lambda stub: stub.Handshake(handshake(journal_id="")), "journal_id", "'' is not 16"),
        (lambda stub: stub.Handshake(handshake(epoch=None)), "epoch", "epoch number 0"),
        (
            lambda stub: stub.Handshake(handshake(horizons=[participant_pb2.Horizon(sequence=1)])),
            "horizons[0].epoch",
            "epoch number 0",
        ),
        (
            lambda stub: stub.Handshake(handshake(horizons=[participant_pb2.Horizon(epoch=EPOCH)] * 2)),
            "horizons[1].epoch",
            "has two horizons",
        ),
        (
            lambda stub: stub.Handshake(handshake(horizons=[participant_pb2.Horizon(epoch=EPOCH, sequence=2**60)])),
            "horizons[0].sequence",
            "is over",
        ),
    ],
)
async def test_a_malformed_field_is_named(
    stub: Stub, resources: FakeResources, call: Call, at: str, message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(stub)
    problem = from_call(raised.value)
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
    assert (problem.field, problem.outcome_known) == (at, True)
    assert message in problem.message
    assert problem.remedy
    assert not resources.asked


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StillRunning("ask again"), grpc.StatusCode.UNAVAILABLE, "STILL_RUNNING"),
        (OutcomeUnknown("the connection was lost"), grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
        (NotReady("the database is a standby"), grpc.StatusCode.UNAVAILABLE, "NOT_READY"),
        (Forgotten("below the horizon"), grpc.StatusCode.FAILED_PRECONDITION, "FORGOTTEN"),
        (CannotFinish("SET ROLE owner"), grpc.StatusCode.FAILED_PRECONDITION, "CANNOT_FINISH"),
    ],
)
async def test_no_outcome_is_a_status_and_never_an_answer(
    stub: Stub, resources: FakeResources, error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    resources.answer = error
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Abort(participant_pb2.AbortRequest(gid=GID, decision=types_pb2.DECISION_ABORT))
    problem = from_call(raised.value)
    assert (problem.code, problem.reason, problem.message) == (code, reason, str(error))
    assert not problem.outcome_known


async def test_an_unexpected_error_tells_the_log_and_not_the_caller(
    stub: Stub, resources: FakeResources, caplog: pytest.LogCaptureFixture
) -> None:
    resources.answer = RuntimeError("password=hunter2")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Commit(participant_pb2.CommitRequest(gid=GID))
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(raised.value.details())
    assert "RuntimeError" in str(raised.value.details())
    assert "hunter2" in caplog.text


async def test_a_very_long_message_still_arrives(stub: Stub, resources: FakeResources) -> None:
    resources.answer = OutcomeUnknown("ü" * 100_000)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Commit(participant_pb2.CommitRequest(gid=GID))
    problem = from_call(raised.value)
    assert problem.reason == "OUTCOME_UNKNOWN"
    assert problem.message.endswith("ü...")


async def hang_up(service: ParticipantService, resources: FakeResources) -> None:
    """What gRPC does when the caller is gone: it cancels the handler."""
    resources.hold = asyncio.Event()
    handler = asyncio.create_task(service.Prepare(prepare(), cast(Any, None)))
    await resources.entered.wait()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler


async def test_r13_a_caller_that_hangs_up_cancels_nothing(
    service: ParticipantService, resources: FakeResources
) -> None:
    resources.answer = Prepared(())
    await hang_up(service, resources)
    assert not await service.drain(timeout=0)
    assert not resources.answered
    assert resources.hold is not None
    resources.hold.set()
    assert await service.drain(timeout=5)
    assert resources.answered == [Prepared(())]


async def test_an_error_that_nobody_waits_for_is_logged(
    service: ParticipantService, resources: FakeResources, caplog: pytest.LogCaptureFixture
) -> None:
    resources.answer = RuntimeError("nobody heard this")
    await hang_up(service, resources)
    assert resources.hold is not None
    resources.hold.set()
    assert await service.drain(timeout=5)
    await asyncio.sleep(0)
    assert [record.name for record in caplog.records] == ["twophase.participant.service"]
    assert "nobody heard this" in caplog.text


async def test_nothing_to_drain_is_drained_at_once(service: ParticipantService) -> None:
    assert await service.drain(timeout=0)
