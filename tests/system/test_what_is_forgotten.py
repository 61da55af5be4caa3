"""What is past retention, on real Postgres: forgotten by the coordinator and in the ledgers, and barred for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from fixtures.two_banks import BANKS, SECONDS, transfer, two_banks, until_true
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.contract.names import Gid, Txid
from twophase.coordinator.client import AsyncClient, Committed, NotFound
from twophase.sandbox.system import System
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

pytestmark = pytest.mark.integration
# The shortest memory that its deadlines allow.
_FORGETFUL = ("--deadline-cap", "3", "--default-deadline", "3", "--retention", "3.5s")


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks(options=_FORGETFUL) as system:
        yield system


async def execute(client: AsyncClient, request_id: str, booking: str) -> Committed:
    """Moves money, under one name in the coordinator's books and another one in the banks'."""
    return await client.execute(*transfer(booking), request_id=request_id, retries=20)


def rows(system: System, bank: str) -> set[str]:
    with system.connect(bank) as connection:
        return {gid for (gid,) in connection.execute("SELECT gid FROM twophase.ledger").fetchall()}


async def is_gone(client: AsyncClient, txid: str) -> bool:
    try:
        await client.get(txid)
    except NotFound:
        return True
    return False


async def test_r5_what_is_past_retention_is_forgotten_everywhere_and_its_branches_are_barred(system: System) -> None:
    async with AsyncClient(system.address) as client:
        done = await execute(client, "order-1", "first")
        last = await execute(client, "order-2", "second")
        assert all(any(done.txid in gid for gid in rows(system, bank)) for bank in BANKS)

        await until_true(lambda: is_gone(client, done.txid))

        assert await client.outcome("order-1") is None
        # The newest event holds the place of the highest position; its transaction stays.
        assert (await client.get(last.txid)).applied
        for bank in BANKS:

            async def only_the_last(bank: str = bank) -> bool:
                return all(last.txid in gid for gid in await asyncio.to_thread(rows, system, bank))

            await until_true(only_the_last)

        journal_id = next(iter(rows(system, "east"))).split("-")[1]
        late = str(Gid(journal_id, Txid.parse(done.txid), 0))
        async with grpc.aio.insecure_channel(system.participants["east"].address) as channel:
            stub = participant_pb2_grpc.ParticipantStub(channel)
            work = participant_pb2.PrepareRequest(gid=late, journal_position=1, fingerprint=bytes(32))
            work.time_left.FromSeconds(3)
            work.operations.add(
                name="move", payload=types_pb2.Payload(json='{"transfer": "late", "account": 1, "amount": "-10"}')
            )
            vote = await stub.Prepare(work)
            assert (vote.vote, vote.refusal.kind) == (types_pb2.VOTE_NO, types_pb2.REFUSAL_KIND_ABORTED)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Abort(participant_pb2.AbortRequest(gid=late, decision=types_pb2.DECISION_ABORT))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION

        # A repetition that comes after retention is a new request.
        anew = await execute(client, "order-1", "first-again")
        assert anew.txid != done.txid


async def test_r8_killed_between_the_journal_and_the_participants_they_hear_of_it_at_the_next_start(
    system: System,
) -> None:
    system.coordinator.environment[VARIABLE] = CrashPoint.COORDINATOR_AFTER_PRUNE.value
    await system.coordinator.stop()
    await system.coordinator.start()
    del system.coordinator.environment[VARIABLE]
    async with AsyncClient(system.address) as client:
        done = await execute(client, "order-1", "first")
        await execute(client, "order-2", "second")
    await system.coordinator.wait(timeout=SECONDS)
    assert all(any(done.txid in gid for gid in rows(system, bank)) for bank in BANKS)

    await system.coordinator.start()

    for bank in BANKS:

        async def gone(bank: str = bank) -> bool:
            return not any(done.txid in gid for gid in await asyncio.to_thread(rows, system, bank))

        await until_true(gone)
    async with AsyncClient(system.address) as client:
        assert await is_gone(client, done.txid)
