"""How sagas are told: their outcome, where each step stands, what happened, and their dead letters."""

from __future__ import annotations

from typing import Any

import pytest

from service.service_fakes import JOURNAL, Served, op, reason, request, txid, view
from twophase.coordinator.engine.api import Answer, DeadLetter, Outcome, Resolution
from twophase.coordinator.journal.events import (
    BranchRef,
    Compensated,
    DeadLettered,
    Decided,
    Definition,
    Ended,
    Event,
    Finished,
    Happening,
    Resolved,
    SagaStep,
    Turned,
)
from twophase.coordinator.protocol.decisions import ABORT, SAGA, Ending
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2

T = txid(1)
BRANCHES = tuple(BranchRef(number, name) for number, name in enumerate(("inventory", "payment", "delivery")))
DEFINITION = Definition(
    (
        SagaStep("reserve", "inventory", "take", b"", (), pivot=False),
        SagaStep("pay", "payment", "charge", b"", (0,), pivot=False),
        SagaStep("send", "delivery", "book", b"", (1,), pivot=False),
    ),
    10_000,
)
WAITING, WORKING, APPLIED = pb.BRANCH_STATE_WAITING, pb.BRANCH_STATE_WORKING, pb.BRANCH_STATE_APPLIED
REFUSED, ABORTED, COMPENSATED = pb.BRANCH_STATE_REFUSED, pb.BRANCH_STATE_ABORTED, pb.BRANCH_STATE_COMPENSATED
DEAD, RESOLVED = pb.BRANCH_STATE_DEAD_LETTER, pb.BRANCH_STATE_RESOLVED


def saga(outcome: Outcome = Outcome.PENDING, **changes: Any) -> Any:
    """Nothing of it is known but its definition, unless `changes` say more."""
    values: dict[str, Any] = {
        "branches": BRANCHES,
        "hearers": frozenset({0, 1, 2}),
        "decision": SAGA,
        "committed": None,
        "ended": False,
        "definition": DEFINITION,
    }
    return view(outcome=outcome, **(values | changes))


async def told(service: Served, found: Any) -> pb.Transaction:
    service.engine.found[T] = found
    return (await service.stub.Get(pb.GetRequest(txid=str(T), with_events=True))).transaction


async def test_a_saga_is_told_as_one_with_its_steps(service: Served) -> None:
    transaction = await told(service, saga())

    assert (transaction.protocol, transaction.decision) == (pb.PROTOCOL_SAGA, types_pb2.DECISION_SAGA)
    assert [(one.participant, one.step, one.operation) for one in transaction.branches] == [
        ("inventory", "reserve", "take"),
        ("payment", "pay", "charge"),
        ("delivery", "send", "book"),
    ]


async def test_two_phase_commit_and_an_attempt_that_never_began_are_told_as_two_phase(service: Served) -> None:
    plain = await told(service, view())
    never = await told(service, saga(Outcome.ABORTED, decision=ABORT, committed=False, ended=True, branches=()))

    assert (plain.protocol, plain.branches[0].step) == (pb.PROTOCOL_TWO_PHASE, "")
    assert (never.protocol, never.decision) == (pb.PROTOCOL_TWO_PHASE, types_pb2.DECISION_ABORT)


DEAD_AT_1 = {1: DeadLettered(T, 1, 10, reason("BUSINESS"))}
BY_HAND_AT_1 = {1: Resolved(T, 1, "ada", "paid")}
UNDONE = {"turned": True, "committed": False}


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, (WORKING, WAITING, WAITING)),
        ({"endings": {0: Ending.APPLIED}}, (APPLIED, WORKING, WAITING)),
        ({"endings": {0: Ending.APPLIED, 1: Ending.REFUSED}}, (APPLIED, REFUSED, WAITING)),
        ({"endings": {0: Ending.APPLIED, 1: Ending.ABORTED}, **UNDONE}, (APPLIED, ABORTED, WAITING)),
        ({"endings": {0: Ending.APPLIED}, "dead": DEAD_AT_1}, (APPLIED, DEAD, WAITING)),
        ({"endings": {0: Ending.APPLIED}, "resolved": BY_HAND_AT_1}, (APPLIED, RESOLVED, WORKING)),
        (
            {"endings": {0: Ending.APPLIED, 1: Ending.REFUSED}, "compensated": {0: False, 2: True}, **UNDONE},
            (COMPENSATED, REFUSED, ABORTED),
        ),
        # What only reads was done, and there is nothing to undo.
        ({"endings": {0: Ending.APPLIED}, "compensated": {0: True}, **UNDONE}, (COMPENSATED, WORKING, WAITING)),
        # It was not known to be done, and proved to be.
        ({"compensated": {0: False}, **UNDONE}, (COMPENSATED, WAITING, WAITING)),
        (
            {"endings": {0: Ending.APPLIED, 1: Ending.APPLIED}, "dead": DEAD_AT_1, "compensated": {2: True}, **UNDONE},
            (APPLIED, DEAD, ABORTED),
        ),
        ({"resolved": BY_HAND_AT_1, "ended": True, **UNDONE}, (COMPENSATED, RESOLVED, COMPENSATED)),
        ({"ended": True, "committed": True}, (APPLIED, APPLIED, APPLIED)),
    ],
)
async def test_where_each_step_stands(service: Served, changes: dict[str, Any], states: tuple[int, ...]) -> None:
    transaction = await told(service, saga(**changes))

    assert tuple(branch.state for branch in transaction.branches) == states


async def test_what_happened_to_a_saga_is_told_with_its_steps(service: Served) -> None:
    events: tuple[Event, ...] = (
        Decided(T, SAGA, None, BRANCHES, definition=DEFINITION),
        Finished(T, 0, Ending.APPLIED),
        Turned(T, (reason("BUSINESS"),)),
        Compensated(T, 2, empty=True),
        DeadLettered(T, 0, 10, reason("INTERNAL", message="broken")),
        Resolved(T, 0, "ada", "put back by hand"),
        Compensated(T, 9, empty=False),
        Ended(T, committed=False),
    )
    history = tuple(Happening(10 + n, 1_700_000_000_000 + n, event) for n, event in enumerate(events))

    transaction = await told(service, saga(Outcome.COMPENSATED, history=history, ended=True, **UNDONE))

    decided, done, turned, undone, dead, resolved, stranger, ended = transaction.events
    assert (decided.kind, decided.decision, decided.step) == (pb.EVENT_KIND_DECIDED, types_pb2.DECISION_SAGA, "")
    # Not "against the decision", although the saga is undone: how its steps end is what decides.
    assert (done.kind, done.step, done.state) == (pb.EVENT_KIND_FINISHED, "reserve", APPLIED)
    assert (turned.kind, [one.code for one in turned.refusals]) == (pb.EVENT_KIND_TURNED, ["BUSINESS"])
    assert (undone.kind, undone.step, undone.participant) == (pb.EVENT_KIND_COMPENSATED, "send", "delivery")
    assert [undone.state, stranger.state] == [ABORTED, COMPENSATED]
    assert (dead.kind, dead.step, dead.refusals[0].message) == (pb.EVENT_KIND_DEAD_LETTER, "reserve", "broken")
    assert (resolved.kind, resolved.step) == (pb.EVENT_KIND_RESOLVED, "reserve")
    assert (resolved.actor, resolved.reason) == ("ada", "put back by hand")
    assert (stranger.step, stranger.participant) == ("", "")
    assert (ended.kind, ended.outcome) == (pb.EVENT_KIND_ENDED, pb.OUTCOME_COMPENSATED)


@pytest.mark.parametrize("kind", ["BUSINESS", "INVALID_PAYLOAD", "UNKNOWN_OPERATION"])
async def test_a_saga_that_is_undone_is_an_answer_whatever_it_was_refused_for(service: Served, kind: str) -> None:
    refused = reason(kind, participant="payment", operation="charge")
    service.engine.answer = Answer(Outcome.COMPENSATED, T, 1, reasons=(refused,), pending=("inventory",))

    response = await service.stub.Execute(request(operations=[op("inventory"), op("payment", "charge")]))

    assert (response.outcome, response.applied) == (pb.OUTCOME_COMPENSATED, False)
    assert ([one.code for one in response.refusals], list(response.pending)) == ([kind], ["inventory"])


# --- dead letters


async def test_dead_letters_are_told_whole(service: Served) -> None:
    broken = reason("INTERNAL", code="BROKEN", participant="payment")
    service.engine.letters = (
        DeadLetter(T, "order-1", "pay", "payment", "charge", True, 10, broken, 1_700_000_000_123, 1),  # noqa: FBT003
        DeadLetter(txid(2), "", "send", "delivery", "book", False, 12, broken, 1_700_000_000_124, 2),  # noqa: FBT003
    )

    response = await service.stub.ListDeadLetters(pb.ListDeadLettersRequest())

    first, second = response.dead_letters
    assert (first.txid, first.request_id, first.step, first.participant) == (str(T), "order-1", "pay", "payment")
    assert (first.operation, first.attempts, first.refusal.code) == ("charge", 10, "BROKEN")
    assert (first.gid, first.since.ToMilliseconds()) == (f"tp-{JOURNAL}-{T}-0001", 1_700_000_000_123)
    assert [first.kind, second.kind] == [types_pb2.BRANCH_KIND_COMPENSATION, types_pb2.BRANCH_KIND_WORK]
    assert response.epoch.number


async def test_retry_and_resolve_reach_the_engine_whole(service: Served) -> None:
    service.engine.resolution = Resolution(barred=False, done=True)
    long = f"{'p' * 63}.{'o' * 63}-256"

    await service.stub.RetryDeadLetter(pb.RetryDeadLetterRequest(txid=str(T), step=long))
    response = await service.stub.ResolveDeadLetter(
        pb.ResolveDeadLetterRequest(txid=str(T), step="pay", actor="a" * 128, reason="ü" * 1000, even_if_away=True)
    )

    assert service.engine.about_letters == [(T, long), (T, "pay", "a" * 128, "ü" * 1000, True)]
    assert (response.barred, response.done) == (False, True)
