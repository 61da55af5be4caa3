"""What is refused before anything of it is sent, by what the coordinator knows: names, types, limits, registrations."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from unittest.mock import patch

import pytest

from fixtures.fakes import FakeParticipant
from fixtures.world import BOTH, World, submission, until
from twophase.coordinator.engine.api import (
    Call,
    Limits,
    Outcome,
    Rejected,
    Submission,
)
from twophase.coordinator.engine.peers import Peer
from twophase.v1 import participant_pb2, types_pb2


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("call", "field", "word"),
    [
        ("nobody.write", "operations[0].participant", "no participant 'nobody'"),
        ("order.nothing", "operations[0].name", "has no operation 'nothing'; use one of: read, refuse, write"),
    ],
)
async def test_unknown_names_are_refused_before_anything_is_sent(
    world: World, call: str, field: str, word: str
) -> None:
    async with world.coordinator() as engine:
        with pytest.raises(Rejected) as refused:
            await engine.execute(submission(call, "payment.write"))
        assert refused.value.problem.field == field
        assert word in refused.value.problem.message
        assert await engine.view("r-1") is None
    assert world.payment.calls["prepare"] == 0


async def test_a_protobuf_message_for_an_operation_that_takes_json_is_refused(world: World) -> None:
    payload = types_pb2.Payload()
    payload.message.Pack(types_pb2.Epoch(number=1))
    async with world.coordinator() as engine:
        with pytest.raises(Rejected, match=r"takes JSON, not the protobuf message twophase\.v1\.Epoch"):
            await engine.execute(Submission("r", 1, None, (Call("order", "write", payload),), 5.0))


async def test_a_participant_that_is_doubted_as_soon_as_it_has_shaken_hands_is_taken_at_its_word(world: World) -> None:
    """An answer that came at the same time was of another timeline: hands are shaken anew before the next use."""
    async with world.coordinator(sweep_every=1_000.0) as engine:
        peers = engine._peers
        [order] = [peer for peer in peers if peer.name == "order"]
        met = peers._met

        def doubted(peer: Peer, answer: participant_pb2.HandshakeResponse) -> Any:
            asyncio.get_running_loop().call_soon(peers.changed, peer)
            return met(peer, answer)

        with patch.object(peers, "_met", doubted):
            peers.changed(order)
            answer = await engine.execute(submission("order.write", "payment.write"))
            with pytest.raises(Rejected, match="use one of: read, refuse, write"):
                await engine.execute(submission("order.unknown", request_id="r-2"))
    assert answer.outcome is Outcome.COMMITTED


async def test_an_operation_deployed_after_the_handshake_is_found(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.operations["fresh"] = world.order.operations["write"]
        answer = await engine.execute(submission("order.fresh", "payment.write"))
    assert answer.outcome is Outcome.COMMITTED


async def test_an_operation_that_takes_something_else_since_it_was_deployed_anew_is_found(world: World) -> None:
    shake_hands, taken = world.order.handshake, "twophase.v1.Epoch"
    payload = types_pb2.Payload()
    payload.message.Pack(types_pb2.Epoch(number=1))

    async def handshake(request: participant_pb2.HandshakeRequest, *, timeout: float) -> Any:
        answer = await shake_hands(request, timeout=timeout)
        for operation in answer.operations:
            operation.message_type = taken
        return answer

    world.order.handshake = handshake  # type: ignore[method-assign]
    async with world.coordinator() as engine:
        with pytest.raises(Rejected, match=r"takes a protobuf message of type twophase\.v1\.Epoch"):
            await engine.execute(submission("order.write=1"))
        taken = ""
        assert (await engine.execute(submission("order.write=1"))).outcome is Outcome.COMMITTED
        taken = "twophase.v1.Epoch"
        by_message = Submission("r-2", 1, None, (Call("order", "write", payload),), 5.0)
        assert (await engine.execute(by_message)).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("reads", [True, False], ids=["it only reads now", "it writes now"])
async def test_an_operation_declared_otherwise_when_it_was_deployed_anew_fails_once(
    world: World,
    reads: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async with world.coordinator() as engine:
        world.order.read_only = {"read", "write"} if reads else set()
        call = "order.write" if reads else "order.read"
        others = ("payment.write", "stock.write")
        stale = await engine.execute(submission(call, *others))
        again = await engine.execute(submission(call, *others, attempt=2))
    assert [(reason.code, reason.retryable) for reason in stale.reasons] == [("INVALID_VOTE", True)]
    assert again.outcome is Outcome.COMMITTED
    assert world.nothing_prepared()


async def test_more_transactions_than_the_limit_are_refused(world: World) -> None:
    async with world.coordinator(limits=Limits(running=1)) as engine:
        gate = world.order.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.order.calls["prepare"] == 1)
        with pytest.raises(Rejected, match="the limit is 1"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        gate.set()
        await first


async def test_a_name_belongs_to_one_database_and_a_database_has_one_name(world: World) -> None:
    impostor = FakeParticipant("order")
    impostor.identity = types_pb2.DatabaseIdentity(system_identifier="1", timeline=1, database="other")
    alias = FakeParticipant("alias")
    alias.identity = world.order.identity
    world.links.at |= {"impostor:1": impostor, "alias:1": alias}
    async with world.coordinator() as engine:
        with pytest.raises(Rejected, match="belongs to database 'order'"):
            await engine.register("order", "impostor:1")
        with pytest.raises(Rejected, match="registered as participant 'order' already"):
            await engine.register("alias", "alias:1")


@pytest.mark.parametrize(
    ("name", "words"),
    [("order", "belongs to database"), ("alias", "registered as participant '.*' already")],
    ids=["two databases of one name", "two names of one database"],
)
async def test_of_two_that_register_at_the_same_time_one_is_refused(world: World, name: str, words: str) -> None:
    other = FakeParticipant(name)
    if name == "alias":
        other.identity = world.order.identity
    else:
        other.identity = types_pb2.DatabaseIdentity(system_identifier="1", timeline=1, database="other")
    world.links.at |= {"other:1": other}
    async with world.coordinator(register=False) as engine:
        both = (engine.register("order", "order:1"), engine.register(name, "other:1"))
        refused = [error for error in await asyncio.gather(*both, return_exceptions=True) if error is not None]
        assert [type(error) for error in refused] == [Rejected]
        assert re.search(words, str(refused[0]))
        assert len(await engine.journal.participants()) == 1


async def test_a_participant_that_does_not_answer_or_is_somebody_else_is_not_registered(world: World) -> None:
    async with world.coordinator(register=False) as engine:
        world.order.down = True
        with pytest.raises(Rejected, match="does not answer at order:1"):
            await engine.register("order", "order:1")
        with pytest.raises(Rejected, match="is 'payment', not 'stock'"):
            await engine.register("stock", "payment:1")
        assert await engine.journal.participants() == ()
