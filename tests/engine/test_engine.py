"""The ways a transaction can go, over fake participants: what is told, to whom, and what is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fixtures.world import BOTH, World, submission, until
from twophase.coordinator.engine.api import (
    Outcome,
    Wait,
)
from twophase.coordinator.engine.running import Running
from twophase.coordinator.journal.events import Finished
from twophase.coordinator.journal.memory_state import Stamped
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.twophase import Standing
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2


@pytest.fixture
def world() -> World:
    return World()


async def test_r1_two_writers_are_applied_everywhere(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(submission(*BOTH))
    assert (answer.outcome, answer.applied) == (Outcome.COMMITTED, True)
    assert [(one.participant, one.operation, one.payload.json) for one in answer.results] == [
        ("order", "write", "1"),
        ("payment", "write", "2"),
    ]
    assert len(world.order.applied) == len(world.payment.applied) == 1
    assert world.nothing_prepared()


async def test_r1_one_refusal_leaves_nothing_anywhere(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(submission("order.write", "payment.refuse", "stock.write"))
    assert (answer.outcome, answer.applied) == (Outcome.ABORTED, True)
    assert [(reason.kind, reason.code, reason.participant) for reason in answer.reasons] == [
        ("BUSINESS", "NO_FUNDS", "payment")
    ]
    assert world.nothing_prepared()
    assert not world.order.applied | world.stock.applied


async def test_r12_operations_at_one_participant_are_one_branch_in_order(world: World) -> None:
    order: list[str] = []

    def note(payload: types_pb2.Payload) -> types_pb2.Payload:
        order.append(payload.json)
        return payload

    world.order.operations["note"] = note
    async with world.coordinator() as engine:
        answer = await engine.execute(submission("order.note=1", "payment.write=2", "order.note=3"))
    assert order == ["1", "3"]
    assert world.order.calls["prepare"] == 1
    assert [result.payload.json for result in answer.results] == ["1", "2", "3"]


async def test_a_participant_may_leave_out_the_results_of_operations_that_return_nothing(world: World) -> None:
    world.order._work = lambda _: []  # type: ignore[assignment,method-assign]
    async with world.coordinator() as engine:
        answer = await engine.execute(submission("order.write=1", "order.write=2", "payment.write=3"))
    assert [result.payload.json for result in answer.results] == ["", "", "3"]


@pytest.mark.parametrize(
    ("calls", "syncs", "messages"),
    [
        (BOTH, 1, {"prepare": 2, "commit": 2}),
        (("order.write", "payment.write", "stock.write"), 1, {"prepare": 3, "commit": 3}),
        (("order.write",), 1, {"apply": 1}),
        (("order.write", "payment.read"), 1, {"prepare": 1, "apply": 1}),
        (("order.read", "payment.read"), 1, {"prepare": 2}),  # the commit claims its request id
        (("order.write", "payment.refuse"), 0, {"prepare": 2, "abort": 1}),
    ],
    ids=["two writers", "three writers", "one writer", "one writer and a reader", "readers", "abort"],
)
async def test_r14_messages_and_forced_writes(
    world: World, calls: tuple[str, ...], syncs: int, messages: dict[str, int]
) -> None:
    async with world.coordinator() as engine:
        before = engine.journal.syncs
        counted = {name: participant.calls.copy() for name, participant in world.participants.items()}
        await engine.execute(submission(*calls))
        spent = engine.journal.syncs - before
    total = {
        call: sum(world.participants[name].calls[call] - counted[name][call] for name in world.participants)
        for call in ("prepare", "apply", "commit", "abort")
    }
    assert spent == syncs
    assert {call: count for call, count in total.items() if count} == messages


async def test_in_turn_branches_prepare_one_after_the_other_by_their_participants_names(world: World) -> None:
    """Whatever the order of the calls: else two requests could each hold what the other waits for."""
    async with world.coordinator() as engine:
        before = {name: participant.calls["prepare"] for name, participant in world.participants.items()}
        gate = world.order.hold("prepare")
        turned_round = submission("stock.write=3", "payment.write=2", "order.write=1")
        asking = asyncio.create_task(engine.execute(replace(turned_round, in_turn=True)))
        await until(lambda: world.order.calls["prepare"] == before["order"] + 1)
        for _ in range(100):
            await asyncio.sleep(0)
        for name in ("payment", "stock"):
            assert world.participants[name].calls["prepare"] == before[name], f"{name} was asked before its turn"
        gate.set()
        answer = await asking
    assert answer.outcome is Outcome.COMMITTED
    assert [result.payload.json for result in answer.results] == ["3", "2", "1"]
    assert world.nothing_prepared()


async def test_r4_nobody_hears_of_a_commit_before_it_is_durable(world: World) -> None:
    async with world.coordinator() as engine:
        gate = asyncio.Event()
        world.disk.sync = gate.wait  # type: ignore[assignment]
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.prepared) == len(world.payment.prepared) == 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert world.order.calls["commit"] == world.payment.calls["commit"] == 0
        assert not asking.done()
        gate.set()
        assert (await asking).outcome is Outcome.COMMITTED


async def test_wait_decided_answers_before_the_branches_are_applied(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("commit")
        answer = await engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED))
        assert (answer.outcome, answer.applied) == (Outcome.COMMITTED, False)
        assert "payment" in answer.pending
        gate.set()
        await until(world.nothing_prepared)


async def test_a_participant_that_is_down_aborts_at_once_and_keeps_nobody_waiting(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.down = True
        async with asyncio.timeout(20):  # sooner than the deadline
            answer = await engine.execute(submission(*BOTH, deadline=30.0))
        assert answer.outcome is Outcome.ABORTED
        assert (answer.reasons[0].kind, answer.reasons[0].retryable) == ("UNREACHABLE", True)
        assert answer.pending == ("payment",)
        assert not world.order.prepared
        world.payment.down = False
        await until(lambda: world.payment.calls["abort"] > 1)


async def test_a_participant_that_never_answered_aborts_without_sending_work(world: World) -> None:
    async with world.coordinator():
        pass
    world.payment.down = True
    async with world.coordinator(register=False) as engine:
        answer = await engine.execute(submission(*BOTH))
    assert (answer.outcome, answer.applied) == (Outcome.ABORTED, True)
    assert world.order.calls["prepare"] == 0


async def test_the_deadline_aborts_and_names_who_is_missing(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        answer = await engine.execute(submission(*BOTH, deadline=0.05))
        assert answer.outcome is Outcome.ABORTED
        assert answer.reasons[0].kind == "DEADLINE"
        assert "payment" in answer.reasons[0].message
        gate.set()
        await until(world.nothing_prepared)


async def test_r6_a_lost_answer_to_the_delegate_is_settled_by_its_ledger(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.lose_answers = {"apply"}
        answer = await engine.execute(submission("order.write=7"))
    assert answer.outcome is Outcome.COMMITTED
    assert [result.payload.json for result in answer.results] == ["7"]
    assert world.order.calls["abort"] == 1


async def test_a_delegate_that_refuses_is_an_abort_with_its_reason(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(submission("order.refuse", "payment.read"))
    assert answer.outcome is Outcome.ABORTED
    assert answer.reasons[0].code == "NO_FUNDS"


async def test_r13_a_lost_acknowledgement_is_asked_for_again(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.lose_answers = {"commit"}
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.order.calls["commit"] > 1)
        world.order.lose_answers = set()
        answer = await asking
    assert (answer.outcome, answer.applied) == (Outcome.COMMITTED, True)
    assert len(world.order.applied) == 1


async def test_r13_a_client_that_hangs_up_cancels_nothing(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        asking.cancel()
        gate.set()
        await until(lambda: bool(world.order.applied and world.payment.applied))


async def test_r11_a_branch_that_was_lost_is_named(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.order.hold("commit")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.order.calls["commit"] == 1)
        world.order.prepared.clear()
        gate.set()
        answer = await asking
    assert (answer.outcome, answer.heuristic) == (Outcome.COMMITTED, ("order",))


async def test_r11_the_record_of_a_heuristic_outcome_outlives_the_machine(world: World) -> None:
    """Somebody commits a branch by hand whose transaction is aborted. An abort alone would force nothing."""
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission("order.write=1", "payment.refuse=2")))
        await until(lambda: bool(world.order.prepared))
        (gid,) = world.order.prepared
        world.order._row(gid, pb.LEDGER_OUTCOME_APPLIED, world.order.prepared.pop(gid))
        gate.set()
        assert (await asking).outcome is Outcome.ABORTED

        def is_durable() -> bool:
            events = [entry.event for entry in world.disk.durable if isinstance(entry, Stamped)]
            return any(isinstance(event, Finished) and event.ending is Ending.APPLIED for event in events)

        await until(is_durable)
    async with world.coordinator(register=False) as engine:
        (record,) = await engine.journal.heuristics()
        assert str(record.txid) in gid


async def test_a_vote_from_another_database_does_not_count(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.identity = types_pb2.DatabaseIdentity(
            system_identifier=world.order.identity.system_identifier, timeline=2, database="order"
        )
        answer = await engine.execute(submission(*BOTH))
        assert answer.outcome is Outcome.ABORTED
        assert answer.reasons[0].code == "INVALID_VOTE"
        await until(world.nothing_prepared)
        again = await engine.execute(submission(*BOTH, attempt=2))
        assert again.outcome is Outcome.COMMITTED, "it shook hands again and is known on its new timeline"


@pytest.mark.parametrize("last", ["payment.write", "payment.read"], ids=["commit", "delegate"])
async def test_r3_a_vote_of_before_a_failover_does_not_count(world: World, last: str) -> None:
    """The standby that was promoted did not have the PREPARE, and the coordinator knows of it before it decides."""
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = ("order.write",) if last == "payment.write" else ("order.read", "stock.write")
        asking = asyncio.create_task(engine.execute(submission(*first, last)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        [running] = engine._live
        assert isinstance(running, Running)
        await until(lambda: running.state.standing(0) in (Standing.PREPARED, Standing.READ_ONLY))
        world.order.identity = types_pb2.DatabaseIdentity(
            system_identifier=world.order.identity.system_identifier, timeline=2, database="order"
        )
        world.order.prepared.clear()
        await until(lambda: engine._peers.get("order").record.timeline == 2)  # type: ignore[union-attr]
        gate.set()
        answer = await asking
        assert (answer.outcome, answer.heuristic) == (Outcome.ABORTED, ())
        assert [(reason.code, reason.participant, reason.retryable) for reason in answer.reasons] == [
            ("INVALID_VOTE", "order", True)
        ]
        again = await engine.execute(submission(*first, last, attempt=2))
    assert again.outcome is Outcome.COMMITTED
    assert world.nothing_prepared()


async def test_r11_a_participant_that_nobody_uses_and_that_failed_over_is_an_alarm(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.coordinator() as engine:
        assert (await engine.execute(submission(*BOTH))).outcome is Outcome.COMMITTED
        world.order.identity = types_pb2.DatabaseIdentity(
            system_identifier=world.order.identity.system_identifier, timeline=2, database="order"
        )
        await until(lambda: engine._peers.get("order").record.timeline == 2)  # type: ignore[union-attr]
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 2)
    alarms = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert [alarm.getMessage()[:54] for alarm in alarms] == ["participant 'order' answers on timeline 2, before on 1"]


async def test_r11_a_participant_that_failed_over_and_registers_is_an_alarm(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.coordinator(sweep_every=60) as engine:
        world.order.identity = types_pb2.DatabaseIdentity(
            system_identifier=world.order.identity.system_identifier, timeline=2, database="order"
        )
        peer = engine._peers.get("order")
        assert peer is not None
        await engine.register("order", peer.record.address)
    assert "'order' answers on timeline 2, before on 1" in caplog.text
