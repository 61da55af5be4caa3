"""What a client reads when the answer is no: over real gRPC and real Postgres, in the classes of `AsyncClient`.

Every transaction here has a first branch that would have been fine. So each case also shows that nothing of it stays.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import grpc
import psycopg
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from fixtures.clusters import Database, MakeCluster
from twophase.contract.addresses import Address
from twophase.coordinator import server
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    InvalidRequest,
    NotFound,
    Operation,
    RequestIdReused,
    TransactionAborted,
    operation,
)
from twophase.participant import Participant, Refused
from twophase.participant.migrations import migrate
from twophase.participant.server import ParticipantServer
from twophase.sandbox.postgres import Cluster
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

SCHEMA = b"""
CREATE TABLE written (value int);
CREATE TABLE late (value int CONSTRAINT once UNIQUE DEFERRABLE INITIALLY DEFERRED);
"""


@dataclass(frozen=True)
class Charge:
    """Something with a type."""

    customer_id: str
    amount: Decimal


def make_participant(name: str) -> Participant:
    participant = Participant(name)

    @participant.operation
    def write(connection: psycopg.Connection, value: int) -> None:
        connection.execute("INSERT INTO written VALUES (%s)", [value])

    @participant.operation
    def run(connection: psycopg.Connection, statements: list[str]) -> None:
        connection.execute("INSERT INTO written VALUES (0)")
        for statement in statements:
            connection.execute(statement.encode())

    @participant.operation
    def charge(connection: psycopg.Connection, wanted: Charge) -> None:
        connection.execute("INSERT INTO written VALUES (1)")
        raise Refused("NO_FUNDS", f"{wanted.customer_id} has less than {wanted.amount}")

    return participant


@dataclass(frozen=True)
class Shop:
    """A coordinator with two participants, and a client of it."""

    client: AsyncClient
    address: str
    databases: dict[str, Database]

    async def is_untouched(self) -> bool:
        """True as soon as nothing is prepared any more; and nothing was written, now or then."""
        while any(database.prepared() for database in self.databases.values()):
            await asyncio.sleep(0.01)
        return [_rows(database) for database in self.databases.values()] == [(0, 0)] * len(self.databases)


def _rows(database: Database) -> tuple[int, int]:
    with database.connect() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM written),"
            " (SELECT count(*) FROM twophase.ledger WHERE outcome::text = 'applied')"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


@asynccontextmanager
async def opened(directory: Path, databases: dict[str, Database]) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        settings = server.Settings(directory / "journal", Address("127.0.0.1", 0))
        coordinator = await stack.enter_async_context(server.running(settings))
        client = await stack.enter_async_context(AsyncClient(coordinator.address))
        for name, database in databases.items():
            participant = ParticipantServer(make_participant(name), dsn=database.dsn)
            await client.register(name, (await stack.enter_async_context(participant)).address)
        yield Shop(client, coordinator.address, databases)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[dict[str, Database]]:
    databases = {name: made(cluster, f"{name}_of_the_system", name) for name in ("fine", "other")}
    yield databases
    for database in databases.values():
        cluster.drop_database(database.name)


def made(cluster: Cluster, name: str, participant: str) -> Database:
    database = Database(cluster, name, cluster.create_database(name))
    migrate(database.dsn, participant)
    with database.connect() as connection:
        connection.execute(SCHEMA)
    return database


@pytest.fixture
async def shop(tmp_path: Path, shared: dict[str, Database]) -> AsyncIterator[Shop]:
    for database in shared.values():
        with database.connect() as connection:
            connection.execute("TRUNCATE written, late, twophase.ledger")
    async with opened(tmp_path, shared) as shop:
        yield shop


def fine() -> Operation:
    return operation("fine", "write", 1)


def run(*statements: str) -> Operation:
    return operation("other", "run", list(statements))


async def refusal(shop: Shop, *operations: Operation, deadline: float = 20) -> TransactionAborted:
    """The error of a transaction that must be aborted and leave nothing, which is asked for once more by its id."""
    with pytest.raises(TransactionAborted) as caught:
        await shop.client.execute(*operations, deadline=deadline)
    aborted = caught.value
    assert aborted.outcome_known
    recorded = await shop.client.outcome(aborted.request_id)
    assert recorded is None or recorded.outcome.value == "aborted"
    assert await shop.is_untouched()
    return aborted


# What is asked of the second participant: kind, code, worth another attempt, what the message says.
NOES: dict[str, tuple[Callable[[], Operation], tuple[str, str, bool, str]]] = {
    "the service's own rule": (
        lambda: operation("other", "charge", {"customer_id": "Ünal", "amount": "19.90"}),
        ("BUSINESS", "NO_FUNDS", False, r"^Ünal has less than 19\.90$"),
    ),
    "a constraint that is checked at PREPARE": (
        lambda: run("INSERT INTO late VALUES (7)", "INSERT INTO late VALUES (7)"),
        ("CONSTRAINT", "23505", False, r"violates unique constraint.*\(constraint once, table late\)"),
    ),
    "a temporary table": (
        lambda: run("CREATE TEMP TABLE scratch (value int)"),
        ("UNPREPARABLE", "0A000", False, r"^cannot PREPARE.* temporary .*: use no temporary tables"),
    ),
    "a notification": (
        lambda: run("NOTIFY told"),
        ("UNPREPARABLE", "0A000", False, r"^cannot PREPARE.* NOTIFY.*: send the notification after the commit"),
    ),
    "a lock that somebody else has": (
        lambda: run("SET LOCAL lock_timeout = '50ms'", "LOCK TABLE late IN EXCLUSIVE MODE"),
        ("CONFLICT", "55P03", True, r"^canceling statement due to lock timeout$"),
    ),
    "SQL that fails": (
        lambda: run("SELECT 1/0"),
        ("INTERNAL", "22012", False, r"^Postgres refused a statement of the operation: division by zero$"),
    ),
    "an end of its own": (
        lambda: run("ROLLBACK"),
        ("INTERNAL", "INTERNAL", False, r"ended the branch's transaction with SQL of its own"),
    ),
}


@pytest.mark.parametrize("case", NOES)
async def test_a_no_comes_with_its_reason_and_nothing_stays(shop: Shop, case: str) -> None:
    asked, (kind, code, retryable, said) = NOES[case]
    with shop.databases["other"].connect(autocommit=False) as rival:
        if kind == "CONFLICT":
            rival.execute(b"LOCK TABLE late IN EXCLUSIVE MODE")
        aborted = await refusal(shop, fine(), asked())
    assert (aborted.kind, aborted.code, aborted.retryable) == (kind, code, retryable)
    reason = aborted.refusals[0]
    assert (reason.participant, reason.operation) == ("other", asked().name if reason.operation else "")
    assert re.search(said, reason.message), reason.message
    assert reason.message in str(aborted)


async def test_a_deadline_that_passes_at_the_participant_ends_the_work_there(shop: Shop) -> None:
    aborted = await refusal(shop, fine(), run("SELECT pg_sleep(60)"), deadline=0.5)
    assert (aborted.kind, aborted.retryable) == ("DEADLINE", True)
    with shop.databases["other"].connect() as connection:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        while connection.execute(asleep).fetchone() != (0,):
            await asyncio.sleep(0.01)


async def test_a_full_slot_table_is_a_no_that_may_be_tried_again(tmp_path: Path, make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_prepared_transactions=1)
    databases = {name: made(cluster, name, name) for name in ("fine", "other")}
    async with opened(tmp_path, databases) as shop:
        aborted = await refusal(shop, fine(), run())
        assert (aborted.kind, aborted.code, aborted.retryable) == ("RESOURCE", "53200", True)
        assert "every slot for prepared transactions is taken; raise max_prepared_transactions" in str(aborted)


async def test_after_a_no_the_same_request_can_be_a_new_attempt(shop: Shop) -> None:
    with shop.databases["other"].connect(autocommit=False) as rival:
        rival.execute(b"LOCK TABLE late IN EXCLUSIVE MODE")
        work = (fine(), run("SET LOCAL lock_timeout = '50ms'", "INSERT INTO late VALUES (1)"))
        with pytest.raises(TransactionAborted) as caught:
            await shop.client.execute(*work, request_id="order/1")
    done = await shop.client.execute(*work, request_id="order/1", attempt=caught.value.attempt + 1)
    again = await shop.client.execute(*work, request_id="order/1", attempt=caught.value.attempt + 1)
    assert again.txid == done.txid
    assert [_rows(database) for database in shop.databases.values()] == [(1, 1), (1, 1)]


async def test_a_request_id_stands_for_one_piece_of_business(shop: Shop) -> None:
    await shop.client.execute(fine(), run(), request_id="order/1")
    with pytest.raises(RequestIdReused, match=r"^request id 'order/1' was used with other content; use a new request"):
        await shop.client.execute(fine(), run("SELECT 1"), request_id="order/1")
    assert [_rows(database) for database in shop.databases.values()] == [(1, 1), (1, 1)]


WRONG: dict[str, tuple[Callable[[], Operation], dict[str, Any], type[CallRejected], str, str]] = {
    "an unknown participant": (
        lambda: operation("nobody", "write", 1),
        {},
        NotFound,
        "operations[1].participant",
        r"^no participant 'nobody' is registered; register it",
    ),
    "an unknown operation": (
        lambda: operation("other", "burn", 1),
        {},
        NotFound,
        "operations[1].name",
        r"^participant 'other' has no operation 'burn'; use one of: charge, run, write$",
    ),
    "a payload without a field": (
        lambda: operation("other", "charge", {"customer_id": "Ann"}),
        {},
        InvalidRequest,
        "operations[1].payload",
        r"^the payload of other\.charge is not of the operation's type: .*amount",
    ),
    "a payload with a field of another type": (
        lambda: operation("other", "charge", {"customer_id": "Ann", "amount": "a lot"}),
        {},
        InvalidRequest,
        "operations[1].payload",
        r"^the payload of other\.charge is not of the operation's type: .*amount",
    ),
    "a message where JSON is wanted": (
        lambda: operation("other", "charge", duration_pb2.Duration(seconds=1)),
        {},
        InvalidRequest,
        "operations[1].payload",
        r"takes JSON, not the protobuf message google\.protobuf\.Duration; send JSON$",
    ),
    "a deadline over the cap": (
        run,
        {"deadline": 61.0},
        InvalidRequest,
        "deadline",
        r"^deadline 61 s 0 ns is over the cap of 60 s; give more than 0 and at most 60 s",
    ),
    "no deadline at all": (run, {"deadline": 0.0}, InvalidRequest, "deadline", r"^deadline: deadline 0\.0 is not"),
    "odd characters": (
        lambda: Operation("other; DROP", "write", types_pb2.Payload()),
        {},
        InvalidRequest,
        "operations[1].participant",
        r"other; DROP",
    ),
    "a request id with odd characters": (run, {"request_id": "a\nb"}, InvalidRequest, "request_id", r"request_id"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_as_such_names_field_value_and_remedy(shop: Shop, case: str) -> None:
    asked, options, kind, field, said = WRONG[case]
    with pytest.raises(CallRejected) as caught:
        await shop.client.execute(fine(), asked(), **options)
    error = caught.value
    assert type(error) is kind
    assert error.field == field
    assert re.search(said, str(error), re.DOTALL), str(error)
    assert error.value
    assert error.remedy
    assert await shop.is_untouched()


async def test_no_operations_are_no_transaction(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match=r"^operations is missing; give 1 to 256 operations$"):
        await shop.client.execute()


async def test_other_languages_read_the_same_in_the_details_of_the_status(shop: Shop) -> None:
    async with grpc.aio.insecure_channel(shop.address) as channel:
        stub: coordinator_pb2_grpc.CoordinatorAsyncStub = coordinator_pb2_grpc.CoordinatorStub(channel)
        bad = types_pb2.Operation(
            participant="other", name="charge", payload=types_pb2.Payload(json='{"customer_id": "Ann", "amount": []}')
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Execute(coordinator_pb2.ExecuteRequest(request_id="order/1", operations=[bad]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(cast(grpc.Call, caught.value))
    assert status is not None
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert [status.details[0].Unpack(info), status.details[1].Unpack(request)] == [True, True]
    assert dict(info.metadata) == {
        "field": "operations[0].payload",
        "value": "other.charge",
        "remedy": "send a payload of the type the operation declares, under a new request id",
        "outcome_known": "true",
    }
    assert [violation.field for violation in request.field_violations] == ["operations[0].payload"]
    assert "amount" in request.field_violations[0].description
    assert await shop.is_untouched()
