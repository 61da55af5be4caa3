"""The engine over the memory journal and fake participants: what is told, to whom, and what is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fixtures.fakes import FakeParticipant
from fixtures.world import BOTH, World, crash_while_deciding, submission, until, until_true
from twophase.contract.names import Epoch
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.api import (
    NEVER_SEEN,
    Answer,
    Call,
    Limits,
    Outcome,
    Rejected,
    Submission,
    Wait,
    Which,
)
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.v1 import types_pb2


@pytest.fixture
def world() -> World:
    return World()


# --- the ways a transaction can go ------------------------------------------------------------------------------------


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
        async with asyncio.timeout(1):
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


# --- request ids (R6) -------------------------------------------------------------------------------------------------


async def test_r6_a_duplicate_joins_the_running_one(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        second = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        gate.set()
        answers = await asyncio.gather(first, second)
    assert answers[0] == answers[1]
    assert world.order.calls["prepare"] == 1


async def test_r6_a_repetition_gets_the_recorded_outcome_and_the_results(world: World) -> None:
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*BOTH))
        again = await engine.execute(submission(*BOTH))
    assert again == first
    assert world.order.calls["prepare"] == 1


async def test_r6_a_repetition_after_a_crash_gets_the_recorded_outcome(world: World) -> None:
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*BOTH))
        old = engine.journal.epoch
    async with world.coordinator() as engine:
        await until_true(lambda: _applied(engine, "r-1"))
        again = await engine.execute(replace(submission(*BOTH), seen_epoch=old))
    assert (again.outcome, again.txid, again.results) == (first.outcome, first.txid, first.results)


async def _applied(engine: Engine, request_id: str) -> bool:
    view = await engine.view(request_id)
    return view is not None and view.applied


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "running"])
async def test_r6_the_same_id_with_other_content_is_refused(world: World, finished: bool) -> None:  # noqa: FBT001
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        if finished:
            gate.set()
            await first
        with pytest.raises(Rejected, match="other content") as refused:
            await engine.execute(submission("order.write=1", "payment.write=3"))
        assert refused.value.problem.field == "request_id"
        gate.set()
        await first


async def test_r6_after_an_abort_only_a_higher_attempt_runs(world: World) -> None:
    calls = ("order.write", "payment.maybe")
    world.payment.operations["maybe"] = world.payment.operations["refuse"]
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*calls))
        world.payment.operations["maybe"] = world.payment.operations["write"]
        same = await engine.execute(submission(*calls))
        higher = await engine.execute(submission(*calls, attempt=2))
        late_copy = await engine.execute(submission(*calls))
    assert (first.outcome, same.outcome) == (Outcome.ABORTED, Outcome.ABORTED)
    assert same.reasons == first.reasons
    assert (higher.outcome, higher.attempt) == (Outcome.COMMITTED, 2)
    assert (late_copy.outcome, late_copy.attempt) == (Outcome.COMMITTED, 2), "the id is committed, and that is told"


async def test_r6_a_copy_from_an_older_epoch_without_a_record_is_not_seen_and_not_run(world: World) -> None:
    async with world.coordinator() as engine:
        old = engine.journal.epoch
    async with world.coordinator() as engine:
        for seen in (old, NEVER_SEEN, Epoch(engine.journal.epoch.number, "00000000")):
            answer = await engine.execute(replace(submission(*BOTH), seen_epoch=seen))
            assert answer == Answer(Outcome.NOT_SEEN, None, 1)
        assert world.order.calls["prepare"] == 0
        again = await engine.execute(replace(submission(*BOTH), seen_epoch=engine.journal.epoch))
        assert again.outcome is Outcome.COMMITTED


async def test_r6_what_was_told_aborted_stays_aborted_for_its_copies_after_a_crash(world: World) -> None:
    calls = ("order.write", "payment.refuse")
    async with world.coordinator() as engine:
        old = engine.journal.epoch
        assert (await engine.execute(submission(*calls))).outcome is Outcome.ABORTED
    async with world.coordinator() as engine:
        copy = await engine.execute(replace(submission(*calls), seen_epoch=old))
    assert copy.outcome in (Outcome.ABORTED, Outcome.NOT_SEEN)
    assert world.order.calls["prepare"] == 1


async def test_r6_a_higher_attempt_waits_for_the_running_one(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        second = asyncio.create_task(engine.execute(submission(*BOTH, attempt=2)))
        gate.set()
        answers = await asyncio.gather(first, second)
    assert [answer.attempt for answer in answers] == [1, 1]
    assert len(world.order.applied) == 1


# --- bad input that depends on what is known --------------------------------------------------------------------------


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


async def test_an_operation_deployed_after_the_handshake_is_found(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.operations["fresh"] = world.order.operations["write"]
        answer = await engine.execute(submission("order.fresh", "payment.write"))
    assert answer.outcome is Outcome.COMMITTED


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


async def test_a_participant_that_does_not_answer_or_is_somebody_else_is_not_registered(world: World) -> None:
    async with world.coordinator(register=False) as engine:
        world.order.down = True
        with pytest.raises(Rejected, match="does not answer at order:1"):
            await engine.register("order", "order:1")
        with pytest.raises(Rejected, match="is 'payment', not 'stock'"):
            await engine.register("stock", "payment:1")
        assert await engine.journal.participants() == ()


# --- stop and crash ---------------------------------------------------------------------------------------------------


async def test_a_stopping_coordinator_takes_nothing_new_and_aborts_what_is_not_decided(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        await engine.stop(0)
        with pytest.raises(Rejected, match="stopping"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        answer = await asking
    assert (answer.outcome, answer.reasons[0].code) == (Outcome.ABORTED, "STOPPING")
    assert world.nothing_prepared()


async def test_a_stopping_coordinator_lets_what_is_prepared_finish_within_its_grace(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        stopping = asyncio.create_task(engine.stop(10))
        with pytest.raises(Rejected, match="stopping"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        assert not stopping.done()
        gate.set()
        answer = await asking
        await stopping
    assert (answer.outcome, answer.applied) == (Outcome.COMMITTED, True)


async def test_a_stopping_coordinator_does_not_wait_for_a_participant_that_does_not_answer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("commit")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.applied) == 1)
        await engine.stop(0)
        answer = await asking
        assert (answer.outcome, answer.applied, answer.pending) == (Outcome.COMMITTED, False, ("payment",))
        assert len(world.payment.prepared) == 1
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "transactions that the next start has to finish: 1, at payment"
    ]
    gate.set()
    async with world.coordinator(register=False):
        await until(lambda: len(world.payment.applied) == 1)


async def test_a_stopping_coordinator_says_that_a_delegated_branch_is_pending(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.order.hold("apply")
        asking = asyncio.create_task(engine.execute(submission("order.write=1")))
        higher = asyncio.create_task(engine.execute(submission("order.write=1", attempt=2)))
        await until(lambda: world.order.calls["apply"] == 1)
        await engine.stop(0)
        answer = await asking
        assert (answer.outcome, answer.pending) == (Outcome.PENDING, ("order",))
        with pytest.raises(Rejected, match="stopping"):
            await higher
    gate.set()


async def test_a_stopping_coordinator_answers_who_is_still_being_let_in(world: World) -> None:
    async with world.coordinator() as engine:
        engine._peers.changed(engine._peers.get("order"))  # type: ignore[arg-type]
        gate = world.order.hold("handshake")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.order.calls["handshake"] > 1)
        stopping = asyncio.create_task(engine.stop(10))
        await asyncio.sleep(0)
        assert not stopping.done()
        gate.set()
        with pytest.raises(Rejected, match="stopping"):
            await asking
        await stopping
    assert world.order.calls["prepare"] == 0


async def test_r10_without_room_nothing_new_is_begun_and_everything_else_goes_on(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        engine.refusal = rejections.no_room("1 MiB are free", "80 MiB")
        joining = asyncio.create_task(engine.execute(submission(*BOTH)))
        with pytest.raises(Rejected, match="1 MiB are free"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        with pytest.raises(Rejected, match="1 MiB are free"):
            await engine.register("unheard-of", "order:1")
        await engine.register("order", "order:1")
        gate.set()
        committed = await asking
        assert (committed.outcome, committed.applied) == (Outcome.COMMITTED, True)
        assert await joining == committed
        assert (await engine.execute(submission(*BOTH))).txid == committed.txid
        engine.refusal = None
        assert (await engine.execute(submission(*BOTH, request_id="r-2"))).outcome is Outcome.COMMITTED


async def test_r10_a_failed_journal_fails_the_engine_and_tells_nobody(world: World) -> None:
    journal = await MemoryJournal.open(world.disk)
    engine = Engine(journal, world.links, sweep_every=10)
    await engine.start()
    for name in world.participants:
        await engine.register(name, f"{name}:1")

    async def broken() -> None:
        raise OSError("no space left on device")

    world.disk.sync = broken
    asking = asyncio.create_task(engine.execute(submission(*BOTH)))
    await until(engine.failed.done)
    assert not asking.done()
    assert world.order.calls["commit"] == 0
    asking.cancel()
    await engine._tasks.cancel()


async def test_r9_what_was_not_decided_is_aborted_by_the_next_start(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    assert not world.nothing_prepared()
    async with world.coordinator(register=False) as engine:
        await until(world.nothing_prepared)
        assert not world.order.applied | world.payment.applied
        await until_true(lambda: _no_unfinished(engine))


async def _no_unfinished(engine: Engine) -> bool:
    return not await engine.views(limit=10, which=Which.UNFINISHED)


async def test_r8_what_was_decided_is_finished_by_the_next_start(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.hold("commit")
        world.payment.hold("commit")
        answer = await engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED))
        assert answer.outcome is Outcome.COMMITTED
    for participant in world.participants.values():
        participant.gates["commit"].set()
    assert not world.order.applied
    async with world.coordinator(register=False):
        await until(lambda: bool(world.order.applied and world.payment.applied))
        assert world.nothing_prepared()


async def test_r8_a_participant_that_comes_back_late_is_finished_then(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    world.payment.down = True
    async with world.coordinator(register=False):
        await until(lambda: not world.order.prepared)
        assert world.payment.prepared
        world.payment.down = False
        await until(world.nothing_prepared)


async def test_a_delegated_branch_of_before_the_crash_is_settled_by_its_ledger(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.lose_answers = {"apply"}
        world.order.hold("abort")
        asking = asyncio.create_task(engine.execute(submission("order.write=1")))
        await until(lambda: world.order.calls["abort"] == 1)
        asking.cancel()
    world.order.gates["abort"].set()
    async with world.coordinator(register=False) as engine:
        await until_true(lambda: _applied(engine, "r-1"))
        view = await engine.view("r-1")
    assert view is not None
    assert view.outcome is Outcome.COMMITTED


async def test_a_foreign_or_living_branch_is_left_alone(world: World) -> None:
    foreign = "tp-ffffffffffffffff-00000001-aaaaaaaa-000000000001-0000"
    world.order.prepared |= {foreign: [], "somebody else's": []}
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.prepared) == 3)
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 4)
        assert len(world.order.prepared) == 3
        gate.set()
        assert (await asking).outcome is Outcome.COMMITTED
    assert set(world.order.prepared) == {foreign, "somebody else's"}
