"""Sagas from the client through the service to the engine, over fake participants."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from fixtures.fakes import Refuse
from fixtures.world import World, until_true
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    InvalidRequest,
    NotFound,
    Outcome,
    Protocol,
    RequestIdReused,
    Resolution,
    SagaCompensated,
    operation,
    step,
)
from twophase.coordinator.service import CoordinatorService, Guard
from twophase.v1 import coordinator_pb2_grpc
from twophase.v1 import types_pb2 as types

TAKE = operation("stock", "write", 1)
PAY = operation("payment", "write", 2)
REFUSED = operation("payment", "refuse")
BOOK = operation("order", "write", 3)
SAGA = Protocol.SAGA


@pytest.fixture
def world() -> World:
    world = World()
    world.stock.operations["sell"] = lambda payload: payload  # what is sold stays sold: it has no compensation
    return world


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with (
        world.coordinator() as engine,
        _serving(CoordinatorService(engine)) as address,
        AsyncClient(address, timeout=5.0) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def _serving(service: CoordinatorService) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=[Guard()])
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_saga_is_done_and_read_as_one(client: AsyncClient) -> None:
    take = step("take", TAKE)
    book = step("book", BOOK, after=())
    pay = step("pay", PAY, after=(take, book), pivot=True)

    done = await client.execute(take, book, pay, protocol=SAGA, request_id="r-1")
    read = await client.outcome("r-1", events=True)

    assert [result.value for result in done.results] == [1, 3, 2]
    assert read is not None
    assert (read.protocol, read.outcome, read.decision) == (SAGA, Outcome.COMMITTED, "SAGA")
    assert [(one.step, one.operation, one.state) for one in read.branches] == [
        ("take", "write", "APPLIED"),
        ("book", "write", "APPLIED"),
        ("pay", "write", "APPLIED"),
    ]
    assert [event.kind for event in read.events] == ["DECIDED", "FINISHED", "FINISHED", "FINISHED", "ENDED"]
    assert read.events[-2].step == "pay"


async def test_a_saga_that_is_undone_is_raised_read_and_final_for_its_attempt(
    client: AsyncClient, world: World
) -> None:
    steps = (step("take", TAKE), step("pay", REFUSED), step("book", BOOK))

    with pytest.raises(SagaCompensated):
        await client.execute(*steps, protocol=SAGA, request_id="r-1")
    with pytest.raises(SagaCompensated) as caught:
        await client.execute(*steps, protocol=SAGA, request_id="r-1")
    read = await client.get(caught.value.txid, events=True)

    assert (caught.value.code, caught.value.pending) == ("NO_FUNDS", ())
    assert (read.outcome, read.applied) == (Outcome.COMPENSATED, True)
    assert [one.state for one in read.branches] == ["COMPENSATED", "REFUSED", "ABORTED"]
    kinds = [event.kind for event in read.events]
    assert "TURNED" in kinds
    assert (kinds[-1], read.events[-1].outcome) == ("ENDED", Outcome.COMPENSATED)
    assert len(world.stock.undone) == 1


async def test_r6_an_undone_saga_goes_on_under_its_id_as_a_new_attempt_by_either_protocol(
    client: AsyncClient, world: World
) -> None:
    with pytest.raises(SagaCompensated) as caught:
        await client.execute(TAKE, REFUSED, protocol=SAGA, request_id="r-1")
    done = await client.execute(TAKE, PAY, request_id="r-1", attempt=caught.value.attempt + 1)
    again = await client.execute(TAKE, PAY, request_id="r-1", attempt=2)

    assert (done.attempt, again.txid) == (2, done.txid)
    assert len(world.payment.applied) == 1


async def test_r6_a_copy_by_the_other_protocol_is_other_content(client: AsyncClient) -> None:
    await client.execute(TAKE, PAY, protocol=SAGA, request_id="r-1")

    with pytest.raises(RequestIdReused):
        await client.execute(TAKE, PAY, request_id="r-1")


async def test_steps_that_make_no_saga_are_refused_before_anything_runs(client: AsyncClient, world: World) -> None:
    circle = (step("a", TAKE, after=("b",)), step("b", PAY, after=("a",)))

    for protocol in Protocol:
        with pytest.raises(InvalidRequest, match="'a' after 'b', 'b' after 'a'"):
            await client.execute(*circle, protocol=protocol)

    assert not world.stock.applied


@pytest.mark.parametrize("pivot", [True, False])
async def test_a_step_that_cannot_be_undone_is_refused_before_anything_runs(
    client: AsyncClient,
    world: World,
    pivot: bool,  # noqa: FBT001
) -> None:
    steps = (step("sell", operation("stock", "sell")), step("pay", PAY, pivot=pivot))

    with pytest.raises(InvalidRequest, match="'sell'") as caught:
        await client.execute(*steps, protocol=SAGA)
    assert not world.stock.calls["apply"]
    await client.execute(*steps)

    assert (caught.value.reason, caught.value.field) == ("NO_COMPENSATION", "operations[0]")


async def test_a_dead_letter_is_found_tried_again_and_resolved_by_name(client: AsyncClient, world: World) -> None:
    def never(_: types.Payload) -> types.Payload:
        raise Refuse("BROKEN")

    world.stock.compensations["write"] = never
    world.stock.retry.first_pause.FromNanoseconds(1)
    world.stock.retry.longest_pause.FromNanoseconds(1)
    with pytest.raises(SagaCompensated) as caught:
        await client.execute(step("take", TAKE), step("pay", REFUSED), protocol=SAGA, deadline=0.2)
    txid = caught.value.txid
    assert caught.value.pending == ("stock",)

    async def is_dead() -> bool:
        return bool(await client.dead_letters())

    await until_true(is_dead)
    [letter] = await client.dead_letters()
    stands = await client.get(txid)
    await client.retry_dead_letter(txid, "take")
    resolution = await client.resolve_dead_letter(txid, "take", actor="ada", reason="put back by hand")

    async def is_over() -> bool:
        return (await client.get(txid)).applied

    await until_true(is_over)
    read = await client.get(txid, events=True)
    assert (letter.step, letter.kind, letter.refusal.code) == ("take", "COMPENSATION", "BROKEN")
    assert stands.branches[0].state == "DEAD_LETTER"
    assert resolution == Resolution(barred=True, done=False)
    assert (read.branches[0].state, read.outcome) == ("RESOLVED", Outcome.COMPENSATED)
    [resolved] = [event for event in read.events if event.kind == "RESOLVED"]
    assert (resolved.step, resolved.actor, resolved.reason) == ("take", "ada", "put back by hand")
    assert await client.dead_letters() == ()
    for again in (client.retry_dead_letter(txid, "take"), client.retry_dead_letter(txid, "nowhere")):
        with pytest.raises(NotFound):
            await again


async def test_a_dead_letter_is_not_resolved_behind_the_back_of_one_that_is_away(
    client: AsyncClient, world: World
) -> None:
    def never(_: types.Payload) -> types.Payload:
        raise Refuse("BROKEN")

    world.stock.compensations["write"] = never
    world.stock.retry.first_pause.FromNanoseconds(1)
    with pytest.raises(SagaCompensated) as caught:
        await client.execute(step("take", TAKE), step("pay", REFUSED), protocol=SAGA, deadline=0.2)

    async def is_dead() -> bool:
        return bool(await client.dead_letters())

    await until_true(is_dead)
    world.stock.down = True
    with pytest.raises(CallRejected, match="even_if_away") as refused:
        await client.resolve_dead_letter(caught.value.txid, "take", actor="ada", reason="gone")
    resolution = await client.resolve_dead_letter(
        caught.value.txid, "take", actor="ada", reason="gone", even_if_away=True
    )

    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert resolution == Resolution(barred=False, done=False)
