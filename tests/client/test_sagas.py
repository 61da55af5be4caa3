"""Sagas by the same call: their steps, how one that is undone is told, and dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from client.scripted import Fault, Scripted, problem, refusal, serving
from twophase.coordinator.client import (
    AsyncClient,
    Branch,
    CallRejected,
    CoordinatorUnavailable,
    DeadLetter,
    Event,
    InvalidRequest,
    NotFound,
    Outcome,
    Protocol,
    Refusal,
    Resolution,
    SagaCompensated,
    Step,
    TransactionAborted,
    operation,
    step,
)
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2

RESERVE = operation("inventory", "reserve", {"sku": "A-1"})
CHARGE = operation("payment", "charge")
BOOK = operation("delivery", "book")
TXID = "00000001-cafe0001-000000000001"


# --- steps


async def test_a_team_changes_one_argument(client: AsyncClient, coordinator: Scripted) -> None:
    steps = (step("reserve", RESERVE), step("pay", CHARGE, pivot=True), BOOK)

    await client.execute(*steps)
    await client.execute(*steps, protocol=Protocol.SAGA)

    two_phase, saga = coordinator.executed
    assert (two_phase.protocol, saga.protocol) == (pb.PROTOCOL_TWO_PHASE, pb.PROTOCOL_SAGA)
    assert two_phase.operations == saga.operations


async def test_steps_are_sent_as_they_were_made(client: AsyncClient, coordinator: Scripted) -> None:
    reserve = step("reserve", RESERVE, after=())
    pay = step("pay", CHARGE, after=(reserve, "draw"), pivot=True)

    await client.execute(reserve, step("draw", BOOK), pay, RESERVE, protocol=Protocol.SAGA)

    first, second, third, plain = coordinator.executed[0].operations
    assert (first.step, first.HasField("after"), list(first.after.steps)) == ("reserve", True, [])
    assert (second.step, second.HasField("after"), second.pivot) == ("draw", False, False)
    assert (third.step, list(third.after.steps), third.pivot) == ("pay", ["reserve", "draw"], True)
    assert (plain.step, plain.HasField("after"), plain.name) == ("", False, "reserve")
    assert first.payload.json == '{"sku":"A-1"}'


def test_a_step_is_a_plain_value() -> None:
    assert step("pay", CHARGE, after=["a", step("b", BOOK)]) == Step("pay", CHARGE, ("a", "b"), pivot=False)
    assert step("pay", CHARGE).after is None


@pytest.mark.parametrize("name", ["", "to pay", "x" * 65, "pay\n", "ü"])
def test_a_malformed_name_is_refused_where_it_is_written(name: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 64 characters") as caught:
        step(name, CHARGE)

    assert caught.value.field == "step"


def test_text_is_not_taken_for_its_letters() -> None:
    with pytest.raises(InvalidRequest, match=r"give \('reserve',\)"):
        step("pay", CHARGE, after="reserve")


# --- a saga that is undone


async def test_a_saga_that_is_undone_is_an_abort_to_code_that_knows_no_sagas(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.refusals = [refusal("NO_MONEY", participant="payment", operation="charge")]

    with pytest.raises(TransactionAborted) as caught:
        await client.execute(RESERVE, CHARGE, protocol=Protocol.SAGA, request_id="order-1")

    error = caught.value
    assert isinstance(error, SagaCompensated)
    assert (error.code, error.kind, error.retryable, error.outcome_known) == ("NO_MONEY", "BUSINESS", False, True)
    assert (error.request_id, error.txid, error.attempt, error.pending) == ("order-1", "T1", 1, ())
    assert str(error) == (
        "request order-1 is compensated: NO_MONEY: none left (payment.charge); what was done of it is undone"
    )


async def test_it_says_where_something_is_still_to_be_undone(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals, coordinator.pending = [refusal()], ["inventory", "delivery"]

    with pytest.raises(SagaCompensated, match="is being undone, still at inventory, delivery") as caught:
        await client.execute(RESERVE, protocol=Protocol.SAGA)

    assert caught.value.pending == ("inventory", "delivery")


async def test_an_abort_of_two_phase_commit_is_no_compensation(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal()]

    with pytest.raises(TransactionAborted, match="is aborted") as caught:
        await client.execute(RESERVE)

    assert not isinstance(caught.value, SagaCompensated)


@pytest.mark.parametrize("kind", [types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION])
async def test_a_saga_that_turned_for_a_wrong_request_is_told_as_undone_and_not_as_never_begun(
    client: AsyncClient, coordinator: Scripted, kind: types_pb2.RefusalKind.ValueType
) -> None:
    coordinator.refusals = [refusal(kind=kind)]

    with pytest.raises(SagaCompensated):
        await client.execute(RESERVE, protocol=Protocol.SAGA)


async def test_retries_make_new_attempts_of_an_undone_saga(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal(retryable=True), refusal(retryable=True), None]

    done = await client.execute(RESERVE, protocol=Protocol.SAGA, retries=2)

    assert done.attempt == 3
    assert [request.attempt for request in coordinator.executed] == [1, 2, 3]
    assert {request.protocol for request in coordinator.executed} == {pb.PROTOCOL_SAGA}


async def test_a_refusal_for_good_is_not_tried_again(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal(retryable=False)]

    with pytest.raises(SagaCompensated):
        await client.execute(RESERVE, protocol=Protocol.SAGA, retries=5)

    assert len(coordinator.executed) == 1


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.PENDING, Fault.RESTART_AND_LOSE])
async def test_r6_compensated_is_the_final_answer_of_its_attempt(
    client: AsyncClient, coordinator: Scripted, fault: Fault
) -> None:
    await client.execute(BOOK)
    coordinator.refusals, coordinator.faults = [refusal()], [fault]

    with pytest.raises(SagaCompensated):
        await client.execute(RESERVE, protocol=Protocol.SAGA, request_id="order-1")
    copies = len(coordinator.copies)
    with pytest.raises(SagaCompensated):
        await client.execute(RESERVE, protocol=Protocol.SAGA, request_id="order-1")

    assert len(coordinator.executed) == 2
    assert len(coordinator.copies) == copies + 1


async def test_r6_what_an_earlier_attempt_is_answered_with_says_nothing_of_a_lost_copy_of_this_one(
    client: AsyncClient, coordinator: Scripted
) -> None:
    """The lost copy may arrive once the earlier attempt is undone, and commit what was told as compensated."""
    await client.execute(BOOK)
    coordinator.faults = [Fault.LOSE_REQUEST, Fault.UNDOING]

    done = await client.execute(RESERVE, protocol=Protocol.SAGA, request_id="order-1", attempt=2)

    assert done.attempt == 2
    assert len(coordinator.copies) == 1 + 1 + 3  # the first call of all is sent again with the epoch that it learns


async def test_an_attempt_of_which_no_copy_is_lost_is_answered_for_the_earlier_one(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.faults = [Fault.UNDOING]

    with pytest.raises(SagaCompensated, match="still at payment") as caught:
        await client.execute(RESERVE, protocol=Protocol.SAGA, request_id="order-1", attempt=2)

    assert caught.value.attempt == 1


# --- reads


async def test_a_saga_is_read_with_its_steps_and_what_happened_to_them(
    client: AsyncClient, coordinator: Scripted
) -> None:
    event = pb.TransactionEvent(
        position=7, kind=pb.EVENT_KIND_RESOLVED, gid="G", participant="payment", step="pay", actor="ada", reason="paid"
    )
    event.at.FromSeconds(1_700_000_000)
    branch = pb.Branch(
        gid="G", participant="payment", state=pb.BRANCH_STATE_DEAD_LETTER, step="pay", operation="charge"
    )
    coordinator.transactions = [
        pb.Transaction(
            txid=TXID,
            request_id="order-1",
            protocol=pb.PROTOCOL_SAGA,
            outcome=pb.OUTCOME_COMPENSATED,
            decision=types_pb2.DECISION_SAGA,
            branches=[branch],
            events=[event],
        ),
        pb.Transaction(txid="T2", request_id="order-2"),
    ]

    saga = await client.outcome("order-1", events=True)
    plain = await client.outcome("order-2")

    assert saga is not None
    assert plain is not None
    assert (saga.protocol, saga.outcome, saga.decision) == (Protocol.SAGA, Outcome.COMPENSATED, "SAGA")
    assert saga.branches == (Branch("G", "payment", "DEAD_LETTER", "pay", "charge"),)
    assert saga.events == (
        Event(
            7,
            datetime.fromtimestamp(1_700_000_000, tz=UTC),
            "RESOLVED",
            gid="G",
            participant="payment",
            step="pay",
            actor="ada",
            reason="paid",
        ),
    )
    assert plain.protocol is Protocol.TWO_PHASE


# --- dead letters


def letter(**changes: Any) -> pb.DeadLetter:
    values: dict[str, Any] = {
        "txid": TXID,
        "request_id": "order-1",
        "step": "pay",
        "participant": "payment",
        "operation": "charge",
        "kind": types_pb2.BRANCH_KIND_COMPENSATION,
        "attempts": 10,
        "refusal": refusal("BROKEN"),
        "gid": "G",
    }
    made = pb.DeadLetter(**(values | changes))
    made.since.FromSeconds(1_700_000_000)
    return made


async def test_dead_letters_are_plain_values(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.dead_letters = [letter()]

    [found] = await client.dead_letters()

    assert found == DeadLetter(
        txid=TXID,
        request_id="order-1",
        step="pay",
        participant="payment",
        operation="charge",
        kind="COMPENSATION",
        attempts=10,
        refusal=Refusal("BUSINESS", "BROKEN", "none left", retryable=False, participant="", operation=""),
        since=datetime.fromtimestamp(1_700_000_000, tz=UTC),
        gid="G",
    )


async def test_a_dead_letter_is_tried_again_or_resolved_by_name(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.resolution = pb.ResolveDeadLetterResponse(done=True)

    await client.retry_dead_letter(TXID, "pay")
    resolution = await client.resolve_dead_letter(TXID, "pay", actor="ada", reason="paid", even_if_away=True)

    assert resolution == Resolution(barred=False, done=True)
    assert coordinator.reads == [
        pb.RetryDeadLetterRequest(txid=TXID, step="pay"),
        pb.ResolveDeadLetterRequest(txid=TXID, step="pay", actor="ada", reason="paid", even_if_away=True),
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, CallRejected),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
    ],
)
async def test_a_resolution_that_is_refused_is_told(
    client: AsyncClient, coordinator: Scripted, code: grpc.StatusCode, error: type[CallRejected]
) -> None:
    coordinator.read_faults = [problem(code)]

    with pytest.raises(error, match="said X"):
        await client.resolve_dead_letter(TXID, "pay", actor="ada", reason="paid")

    assert not coordinator.reads[0].even_if_away


async def test_the_calls_for_operators_are_repeated_until_the_coordinator_is_back(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.read_faults = [problem(grpc.StatusCode.UNAVAILABLE)]
    await client.retry_dead_letter(TXID, "pay")
    assert len(coordinator.reads) == 2


async def test_the_calls_for_operators_end_when_the_timeout_is_over(coordinator: Scripted) -> None:
    coordinator.read_faults = [problem(grpc.StatusCode.UNAVAILABLE)] * 1000
    async with serving(coordinator) as port, AsyncClient(f"127.0.0.1:{port}", timeout=0.3) as client:
        with pytest.raises(CoordinatorUnavailable):
            await client.dead_letters()
