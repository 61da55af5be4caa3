"""Compensations as a coordinator asks for them, over a real Postgres: functions, payloads, redeployed services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import grpc
import psycopg
import pytest

from fixtures.clusters import Database
from twophase.participant import Participant, Refused, Retry
from twophase.participant.server import ParticipantServer
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import participant_pb2_grpc, types_pb2

JOURNAL = "0123456789abcdef"
GID = f"tp-{JOURNAL}-00000003-aabbccdd-000000000007-0001"
WORK, COMPENSATION = types_pb2.BRANCH_KIND_WORK, types_pb2.BRANCH_KIND_COMPENSATION
APPLIED, TOMBSTONE = pb.APPLY_OUTCOME_APPLIED, pb.APPLY_OUTCOME_TOMBSTONE
RETRY, REFUSED = pb.APPLY_OUTCOME_RETRY, pb.APPLY_OUTCOME_REFUSED
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])

Stub: TypeAlias = "participant_pb2_grpc.ParticipantAsyncStub"


@dataclass(frozen=True)
class Charge:
    customer: str
    amount: int

    def __post_init__(self) -> None:
        if not self.customer:
            raise LookupError(self.customer)


@dataclass(frozen=True)
class Charged:
    """The fee is known only to the operation: undoing it without the result loses it."""

    fee: Decimal


def make_payment() -> Participant:
    payment = Participant("payment")

    @payment.operation(retry=Retry(attempts=7), deadline=2)
    def charge(connection: psycopg.Connection, order: Charge) -> Charged:
        connection.execute("UPDATE purse SET funds = funds - %s - 0.5", (order.amount,))
        return Charged(Decimal("0.50"))

    @payment.compensation(charge)
    def refund(connection: psycopg.Connection, order: Charge, charged: Charged) -> None:
        if order.customer == "nobody":
            raise Refused("NO_ACCOUNT", "nobody has no account")
        connection.execute("UPDATE purse SET funds = funds + %s + %s", (order.amount, charged.fee))

    @payment.operation
    def tip(connection: psycopg.Connection, amount: int) -> None:
        connection.execute("UPDATE purse SET funds = funds - %s", (amount,))

    @payment.operation(read_only=True)
    def funds(connection: psycopg.Connection) -> Decimal:
        return left_in(connection.execute("SELECT funds FROM purse").fetchone())

    return payment


def make_async_payment() -> Participant:
    payment = Participant("payment")

    @payment.operation
    async def charge(connection: psycopg.AsyncConnection, order: Charge) -> Charged:
        await connection.execute("UPDATE purse SET funds = funds - %s - 0.5", (order.amount,))
        return Charged(Decimal("0.50"))

    @payment.compensation(charge)
    async def refund(connection: psycopg.AsyncConnection, order: Charge, charged: Charged) -> None:
        await connection.execute("UPDATE purse SET funds = funds + %s + %s", (order.amount, charged.fee))

    return payment


def left_in(row: tuple[Any, ...] | None) -> Decimal:
    assert row is not None
    left: Decimal = row[0]
    return left


@pytest.fixture
def purse(database: Database) -> Database:
    with database.connect() as connection:
        connection.execute("CREATE TABLE purse (funds numeric NOT NULL)")
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


def left(database: Database) -> Decimal:
    with database.connect() as connection:
        return left_in(connection.execute("SELECT funds FROM purse").fetchone())


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute("SELECT kind, outcome FROM twophase.ledger ORDER BY kind DESC").fetchall()


def operation(name: str = "charge", json: str = '{"customer": "c", "amount": 4}') -> pb.BranchOperation:
    payload = types_pb2.Payload(json=json) if json else types_pb2.Payload()
    return pb.BranchOperation(name=name, payload=payload)


def apply(*operations: pb.BranchOperation, kind: types_pb2.BranchKind.ValueType = WORK, **more: Any) -> pb.ApplyRequest:
    return pb.ApplyRequest(
        gid=GID, kind=kind, operations=operations, journal_position=42, fingerprint=bytes(32), **more
    )


def undo(*operations: pb.BranchOperation) -> pb.ApplyRequest:
    return apply(*operations, kind=COMPENSATION)


@COLOURS
async def test_a_step_is_undone_with_what_it_was_given_and_what_it_returned(
    purse: Database, *, asynchronous: bool
) -> None:
    payment = make_async_payment() if asynchronous else make_payment()
    async with connected(payment, purse) as stub:
        done = await stub.Apply(apply(operation()))
        assert (done.outcome, [each.json for each in done.results]) == (APPLIED, ['{"fee":"0.50"}'])
        assert left(purse) == Decimal("5.5")
        for _ in range(2):
            undone = await stub.Apply(undo(operation()))
            assert (undone.outcome, list(undone.results)) == (APPLIED, [])
            assert undone.identity.database == purse.name
    assert left(purse) == 10
    assert rows(purse) == [("work", "applied"), ("compensation", "applied")]


async def test_several_operations_of_one_step_are_undone_together(stub: Stub, purse: Database) -> None:
    both = (operation(), operation("funds", ""), operation(json='{"customer": "d", "amount": 1}'))
    assert (await stub.Apply(apply(*both))).outcome == APPLIED
    assert left(purse) == 4
    assert (await stub.Apply(undo(*both))).outcome == APPLIED
    assert left(purse) == 10


async def test_a_compensation_that_refuses_for_good_is_tried_again_and_names_its_operation(
    stub: Stub, purse: Database
) -> None:
    nobody = operation(json='{"customer": "nobody", "amount": 4}')
    await stub.Apply(apply(nobody))
    answer = await stub.Apply(undo(nobody))
    assert answer.outcome == RETRY
    assert answer.refusal == types_pb2.Refusal(
        kind=types_pb2.REFUSAL_KIND_BUSINESS,
        code="NO_ACCOUNT",
        message="nobody has no account",
        participant="payment",
        operation="charge",
    )
    assert rows(purse) == [("work", "applied")]


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        (operation(json='{"customer": "c"}'), types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "field 'amount' is missing"),
        (
            operation(json='{"customer": "", "amount": 4}'),
            types_pb2.REFUSAL_KIND_INVALID_PAYLOAD,
            "raised LookupError",
        ),
        (operation("pay"), types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION, "participant 'payment' has no operation 'pay'"),
    ],
    ids=["payload", "payload that its type stumbles over", "operation"],
)
async def test_a_step_that_never_could_be_done_has_nothing_to_undo_however_wrong_it_is(
    stub: Stub, purse: Database, wrong: pb.BranchOperation, kind: types_pb2.RefusalKind.ValueType, told: str
) -> None:
    for refused_first in (True, False):
        if refused_first:
            refused = await stub.Apply(apply(wrong))
            assert (refused.outcome, refused.refusal.kind) == (REFUSED, kind)
            assert (refused.refusal.operation, told in refused.refusal.message) == (wrong.name, True)
        assert (await stub.Apply(undo(wrong))).outcome == TOMBSTONE
        with purse.connect() as connection:
            connection.execute("TRUNCATE twophase.ledger")


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        (operation(json='{"customer": "c"}'), types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "field 'amount' is missing"),
        (
            operation(json='{"customer": "", "amount": 4}'),
            types_pb2.REFUSAL_KIND_INVALID_PAYLOAD,
            "raised LookupError",
        ),
        (operation("pay"), types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION, "participant 'payment' has no operation 'pay'"),
    ],
    ids=["payload", "payload that its type stumbles over", "operation"],
)
async def test_a_step_that_was_done_and_cannot_be_undone_with_this_is_tried_again(
    stub: Stub, purse: Database, wrong: pb.BranchOperation, kind: types_pb2.RefusalKind.ValueType, told: str
) -> None:
    await stub.Apply(apply(operation()))
    answer = await stub.Apply(undo(wrong))
    assert (answer.outcome, answer.refusal.kind, answer.refusal.operation) == (RETRY, kind, wrong.name)
    assert told in answer.refusal.message
    assert (await stub.Apply(undo(operation()))).outcome == APPLIED


async def test_an_operation_that_lost_its_compensation_is_tried_again_until_it_has_one(purse: Database) -> None:
    """The service was deployed without it, in the middle of a saga."""
    async with connected(make_payment(), purse) as stub:
        await stub.Apply(apply(operation("tip", "3")))
        answer = await stub.Apply(undo(operation("tip", "3")))
        assert (answer.outcome, answer.refusal.kind) == (RETRY, types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION)
        assert answer.refusal.operation == "tip"
        assert "has no compensation; declare one: @compensation(tip)" in answer.refusal.message
    repaired = make_payment()

    @repaired.compensation("tip")
    def give_back(connection: psycopg.Connection, amount: int) -> None:
        connection.execute("UPDATE purse SET funds = funds + %s", (amount,))

    async with connected(repaired, purse) as stub:
        assert (await stub.Apply(undo(operation("tip", "3")))).outcome == APPLIED
    assert left(purse) == 10


async def test_a_result_that_a_later_release_cannot_read_is_tried_again(purse: Database) -> None:
    async with connected(make_payment(), purse) as stub:
        await stub.Apply(apply(operation()))
    with purse.connect() as connection:
        kept = types_pb2.Payload(json='{"cost":"0.50"}').SerializeToString()
        connection.execute("UPDATE twophase.ledger SET results = %s", ([kept],))
    async with connected(make_payment(), purse) as stub:
        answer = await stub.Apply(undo(operation()))
        assert (answer.outcome, answer.refusal.kind) == (RETRY, types_pb2.REFUSAL_KIND_INTERNAL)
        assert "result of operation 'charge' cannot be read by its compensation" in answer.refusal.message
    assert left(purse) == Decimal("5.5")


async def test_another_number_of_operations_than_were_applied_is_tried_again(stub: Stub, purse: Database) -> None:
    await stub.Apply(apply(operation()))
    answer = await stub.Apply(undo(operation(), operation()))
    assert (answer.outcome, answer.refusal.kind) == (RETRY, types_pb2.REFUSAL_KIND_INTERNAL)
    assert "the ledger has 1 results of the branch, and 2 operations are to be undone" in answer.refusal.message
    assert left(purse) == Decimal("5.5")


async def test_a_step_that_only_read_is_undone_by_its_row_alone_and_barred_if_it_was_not_done(
    stub: Stub, purse: Database
) -> None:
    look = operation("funds", "")
    assert (await stub.Apply(undo(look))).outcome == TOMBSTONE
    assert (await stub.Apply(apply(look))).outcome == TOMBSTONE
    with purse.connect() as connection:
        connection.execute("TRUNCATE twophase.ledger")
    assert (await stub.Apply(apply(look))).outcome == APPLIED
    for _ in range(2):
        assert (await stub.Apply(undo(look))).outcome == APPLIED
    assert rows(purse) == [("work", "applied"), ("compensation", "applied")]


async def test_work_past_the_pivot_is_never_refused_for_good(stub: Stub, purse: Database) -> None:
    for wrong in (operation("pay"), operation(json='{"customer": "c"}')):
        answer = await stub.Apply(apply(wrong, must_succeed=True))
        assert (answer.outcome, answer.refusal.operation) == (RETRY, wrong.name)
    assert rows(purse) == []
    assert (await stub.Apply(apply(operation(), must_succeed=True))).outcome == APPLIED


async def test_how_a_compensation_ended_can_be_asked_for_and_settled(stub: Stub, purse: Database) -> None:
    """An operator resolves what cannot be undone: from then on nobody undoes it."""
    await stub.Apply(apply(operation()))
    ask = pb.AbortRequest(gid=GID, kind=COMPENSATION, decision=types_pb2.DECISION_DELEGATED)
    for _ in range(2):
        assert (await stub.Abort(ask)).outcome == pb.ABORT_OUTCOME_ABORTED
    answer = await stub.Apply(undo(operation()))
    assert (answer.outcome, answer.refusal.kind) == (RETRY, types_pb2.REFUSAL_KIND_ABORTED)
    inspected = await stub.Inspect(pb.InspectRequest(journal_id=JOURNAL, txid=GID[20:-5]))
    assert [(each.kind, each.outcome) for each in inspected.entries] == [
        (WORK, pb.LEDGER_OUTCOME_APPLIED),
        (COMPENSATION, pb.LEDGER_OUTCOME_TOMBSTONE),
    ]
    assert left(purse) == Decimal("5.5")


async def test_a_handshake_names_what_can_be_undone_and_how_often_it_is_tried(stub: Stub) -> None:
    epoch = types_pb2.Epoch(number=3, nonce="aabbccdd")
    met = await stub.Handshake(pb.HandshakeRequest(participant="payment", journal_id=JOURNAL, epoch=epoch))
    told = {each.name: each for each in met.operations}
    assert [name for name, each in told.items() if each.has_compensation] == ["charge"]
    assert (told["charge"].retry.attempts, told["charge"].attempt_deadline.seconds) == (7, 2)
    assert not told["tip"].HasField("retry")
