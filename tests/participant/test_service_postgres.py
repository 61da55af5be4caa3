"""The service over a real Postgres: what a coordinator sees of a participant, from the first handshake to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import psycopg
import pytest

from fixtures.clusters import Database, MakeCluster
from twophase.participant import Participant, Refused
from twophase.participant.migrations import migrate
from twophase.participant.server import ParticipantServer
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

JOURNAL = "0123456789abcdef"
TXID = "00000003-aabbccdd-000000000007"

Stub: TypeAlias = "participant_pb2_grpc.ParticipantAsyncStub"


def make_payment() -> Participant:
    payment = Participant("payment")

    @payment.operation
    def charge(connection: psycopg.Connection, amount: int) -> int:
        row = connection.execute(
            "UPDATE purse SET funds = funds - %s WHERE funds >= %s RETURNING funds", (amount, amount)
        ).fetchone()
        if row is None:
            raise Refused("NO_FUNDS", f"there is not {amount} left")
        left: int = row[0]
        return left

    @payment.operation(read_only=True)
    def funds(connection: psycopg.Connection) -> int:
        return read(connection.execute("SELECT funds FROM purse").fetchone())

    return payment


def make_async_payment() -> Participant:
    payment = Participant("payment")

    @payment.operation
    async def charge(connection: psycopg.AsyncConnection, amount: int) -> int:
        rows = await connection.execute("UPDATE purse SET funds = funds - %s RETURNING funds", (amount,))
        return read(await rows.fetchone())

    return payment


def read(row: tuple[int] | None) -> int:
    assert row is not None
    return row[0]


@pytest.fixture
def purse(database: Database) -> Database:
    with database.connect() as connection:
        connection.execute("CREATE TABLE purse (funds integer NOT NULL)")
        connection.execute("INSERT INTO purse VALUES (10)")
    return database


@pytest.fixture
async def stub(purse: Database) -> AsyncIterator[Stub]:
    async with connected(make_payment(), purse) as stub:
        yield stub


@asynccontextmanager
async def connected(participant: Participant, database: Database) -> AsyncIterator[Stub]:
    async with (
        ParticipantServer(participant, dsn=database.dsn) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield participant_pb2_grpc.ParticipantStub(channel)


def left(database: Database) -> int:
    with database.connect() as connection:
        return read(connection.execute("SELECT funds FROM purse").fetchone())


def gid(branch: int = 1) -> str:
    return f"tp-{JOURNAL}-{TXID}-{branch:04x}"


def operation(name: str = "charge", json: str = "4") -> participant_pb2.BranchOperation:
    payload = types_pb2.Payload(json=json) if json else types_pb2.Payload()
    return participant_pb2.BranchOperation(name=name, payload=payload)


def prepare(*operations: participant_pb2.BranchOperation, branch: int = 1) -> participant_pb2.PrepareRequest:
    return participant_pb2.PrepareRequest(
        gid=gid(branch), operations=operations, journal_position=42, fingerprint=bytes(32)
    )


def apply(*operations: participant_pb2.BranchOperation, branch: int = 1) -> participant_pb2.ApplyRequest:
    return participant_pb2.ApplyRequest(
        gid=gid(branch), operations=operations, journal_position=42, fingerprint=bytes(32)
    )


def handshake(epoch: int = 3) -> participant_pb2.HandshakeRequest:
    return participant_pb2.HandshakeRequest(
        participant="payment", journal_id=JOURNAL, epoch=types_pb2.Epoch(number=epoch, nonce="aabbccdd")
    )


def inspect() -> participant_pb2.InspectRequest:
    return participant_pb2.InspectRequest(journal_id=JOURNAL, txid=TXID)


async def test_two_phases_from_the_handshake_to_the_ledger(stub: Stub, purse: Database) -> None:
    met = await stub.Handshake(handshake())
    assert (met.participant, met.identity.database) == ("payment", purse.name)
    assert [each.name for each in met.operations] == ["charge", "funds"]
    assert not met.HasField("last_epoch")

    vote = await stub.Prepare(prepare(operation(), operation(json="5")))
    assert vote.vote == types_pb2.VOTE_YES
    assert [result.json for result in vote.results] == ["6", "1"]
    assert vote.identity == met.identity
    listed = await stub.ListPrepared(participant_pb2.ListPreparedRequest(journal_id=JOURNAL))
    assert [branch.gid for branch in listed.branches] == [gid()]
    assert list((await stub.Inspect(inspect())).prepared_gids) == [gid()]
    assert left(purse) == 10

    for _ in range(2):
        ended = await stub.Commit(participant_pb2.CommitRequest(gid=gid()))
        assert ended.outcome == participant_pb2.COMMIT_OUTCOME_COMMITTED
        assert ended.identity == met.identity
    assert left(purse) == 1
    [entry] = (await stub.Inspect(inspect())).entries
    assert (entry.gid, entry.outcome) == (gid(), participant_pb2.LEDGER_OUTCOME_APPLIED)
    assert (entry.journal_position, entry.fingerprint) == (42, bytes(32))
    assert [result.json for result in entry.results] == ["6", "1"]

    again = await stub.Handshake(handshake(epoch=4))
    assert (again.last_epoch.number, again.highest_position) == (3, 42)


async def test_an_abort_undoes_what_was_prepared(stub: Stub, purse: Database) -> None:
    assert (await stub.Prepare(prepare(operation()))).vote == types_pb2.VOTE_YES
    abort = participant_pb2.AbortRequest(gid=gid(), decision=types_pb2.DECISION_ABORT)
    for _ in range(2):
        assert (await stub.Abort(abort)).outcome == participant_pb2.ABORT_OUTCOME_ABORTED
    assert purse.prepared() == []
    assert left(purse) == 10


async def test_a_refusal_names_its_operation_and_leaves_nothing(stub: Stub, purse: Database) -> None:
    answer = await stub.Prepare(prepare(operation(), operation(json="7")))
    assert answer.vote == types_pb2.VOTE_NO
    assert answer.refusal == types_pb2.Refusal(
        kind=types_pb2.REFUSAL_KIND_BUSINESS,
        code="NO_FUNDS",
        message="there is not 7 left",
        participant="payment",
        operation="charge",
    )
    assert answer.identity.database == purse.name
    assert purse.prepared() == []
    assert left(purse) == 10


async def test_r12_reading_votes_read_only(stub: Stub, purse: Database) -> None:
    answer = await stub.Prepare(prepare(operation("funds", "")))
    assert answer.vote == types_pb2.VOTE_READ_ONLY
    assert [result.json for result in answer.results] == ["10"]
    assert purse.prepared() == []
    assert not (await stub.Inspect(inspect())).entries


async def test_r7_a_local_commit_is_applied_once(stub: Stub, purse: Database) -> None:
    for _ in range(2):
        answer = await stub.Apply(apply(operation()))
        assert answer.outcome == participant_pb2.APPLY_OUTCOME_APPLIED
        assert [result.json for result in answer.results] == ["6"]
    assert left(purse) == 6
    delegated = participant_pb2.AbortRequest(gid=gid(), decision=types_pb2.DECISION_DELEGATED)
    too_late = await stub.Abort(delegated)
    assert too_late.outcome == participant_pb2.ABORT_OUTCOME_APPLIED
    assert [result.json for result in too_late.results] == ["6"]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (operation(json='"x"'), types_pb2.REFUSAL_KIND_INVALID_PAYLOAD),
        (operation("refund"), types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION),
    ],
)
async def test_r7_a_misfit_local_commit_is_refused_in_the_ledger(
    stub: Stub, purse: Database, wrong: participant_pb2.BranchOperation, kind: types_pb2.RefusalKind.ValueType
) -> None:
    answer = await stub.Apply(apply(operation(), wrong))
    assert (answer.outcome, answer.refusal.kind) == (participant_pb2.APPLY_OUTCOME_REFUSED, kind)
    assert answer.refusal.operation == wrong.name
    [entry] = (await stub.Inspect(inspect())).entries
    assert (entry.outcome, entry.refusal.kind) == (participant_pb2.LEDGER_OUTCOME_REFUSED, kind)
    assert left(purse) == 10


async def test_r13_a_vote_waits_for_the_caller_that_hung_up_on_it(stub: Stub, purse: Database) -> None:
    with purse.connect(autocommit=False) as rival:
        rival.execute("UPDATE purse SET funds = funds")
        call = stub.Prepare(prepare(operation()))
        await blocked(purse)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        rival.rollback()
    answer = await stub.Prepare(prepare(operation()))
    assert answer.vote == types_pb2.VOTE_YES
    assert purse.prepared() == [gid()]
    assert (await stub.Commit(participant_pb2.CommitRequest(gid=gid()))).outcome
    assert left(purse) == 6


async def test_an_operator_sees_who_waits_for_a_branch_and_its_commit_lets_them_go(stub: Stub, purse: Database) -> None:
    assert (await stub.Prepare(prepare(operation()))).vote == types_pb2.VOTE_YES
    async with await psycopg.AsyncConnection.connect(purse.dsn, autocommit=True) as rival:
        pid = rival.info.backend_pid
        waiting = asyncio.create_task(rival.execute("UPDATE purse SET funds = funds"))
        await blocked(purse)

        seen = await stub.Observe(participant_pb2.ObserveRequest(journal_id=JOURNAL))
        found = await stub.Diagnose(participant_pb2.DiagnoseRequest(journal_id=JOURNAL))

        await stub.Commit(participant_pb2.CommitRequest(gid=gid()))
        await waiting
    [branch] = seen.branches
    assert (branch.gid, seen.identity.database) == (gid(), purse.name)
    assert ("public.purse", "RowExclusiveLock") in [(lock.target, lock.mode) for lock in branch.locks]
    assert [waiter.pid for waiter in branch.waiters] == [pid]
    assert found.identity == seen.identity
    subjects = [check.subject for check in found.checks]
    assert subjects[:3] == ["server", "prepared slots", "ledger"]
    assert not (await stub.Observe(participant_pb2.ObserveRequest(journal_id=JOURNAL))).branches


async def test_an_operator_is_told_that_the_database_is_away(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    purse = Database(cluster, "postgres", cluster.dsn())
    migrate(purse.dsn, "payment")
    async with connected(make_payment(), purse) as stub:
        system = cluster.system_identifier()
        await asyncio.to_thread(cluster.stop)

        [check] = (answer := await stub.Diagnose(participant_pb2.DiagnoseRequest(journal_id=JOURNAL))).checks
        with pytest.raises(grpc.aio.AioRpcError) as unanswered:
            await stub.Observe(participant_pb2.ObserveRequest(journal_id=JOURNAL))

    assert (check.subject, check.result) == ("server", types_pb2.CHECK_RESULT_PROBLEM)
    assert answer.identity.system_identifier == system
    assert unanswered.value.code() is grpc.StatusCode.UNAVAILABLE


async def blocked(database: Database) -> None:
    """Waits until a session waits for a lock in this database."""
    with database.connect() as watcher:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while read(watcher.execute(query).fetchone()) == 0:
                await asyncio.sleep(0.01)


async def test_coroutines_take_part_too(purse: Database) -> None:
    async with connected(make_async_payment(), purse) as stub:
        vote = await stub.Prepare(prepare(operation(), operation(json="5")))
        assert vote.vote == types_pb2.VOTE_YES
        assert [result.json for result in vote.results] == ["6", "1"]
        await stub.Commit(participant_pb2.CommitRequest(gid=gid()))
        assert left(purse) == 1
        refused = await stub.Apply(apply(operation(json='"x"'), branch=2))
        assert refused.refusal.kind == types_pb2.REFUSAL_KIND_INVALID_PAYLOAD
