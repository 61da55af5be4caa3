"""`execute` against a coordinator that loses, restarts and refuses: nothing twice, and never a guess (R6)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from client.scripted import Fault, Scripted, problem, refusal, serving
from twophase.coordinator import reasons
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    InvalidRequest,
    NotFound,
    Operation,
    OutcomeUnknown,
    Protocol,
    RequestIdReused,
    TransactionAborted,
    TwophaseError,
    Wait,
    operation,
)
from twophase.coordinator.client.requests import execute_request
from twophase.v1 import coordinator_pb2, types_pb2

RESERVE = operation("inventory", "reserve", {"sku": "A-1"})
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_committed_transaction_is_returned(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.results = [
        types_pb2.OperationResult(participant="inventory", name="reserve", result=types_pb2.Payload(json="[7]"))
    ]
    done = await client.execute(RESERVE, deadline=5.0, request_id="order-1", wait=Wait.DECIDED, in_turn=True)

    assert (done.txid, done.request_id, done.attempt, done.applied) == ("T1", "order-1", 1, True)
    assert [result.value for result in done.results] == [[7]]
    [sent] = coordinator.executed
    assert (sent.deadline.seconds, sent.wait, sent.in_turn) == (5, coordinator_pb2.WAIT_DECIDED, True)


async def test_r6_the_first_copy_only_learns_the_epoch_and_later_ones_name_it(
    client: AsyncClient, coordinator: Scripted
) -> None:
    await client.execute(RESERVE)
    await client.execute(RESERVE)

    assert [copy.seen_epoch.number for copy in coordinator.copies] == [0, 1, 1]
    assert all(copy.HasField("seen_epoch") for copy in coordinator.copies)
    assert len({copy.request_id for copy in coordinator.executed}) == 2


@pytest.mark.parametrize(
    ("faults", "copies"),
    [
        ([Fault.LOSE_REQUEST], 2),
        ([Fault.LOSE_ANSWER], 2),
        ([Fault.LOSE_ANSWER, Fault.LOSE_ANSWER, Fault.LOSE_REQUEST], 4),
        ([Fault.RESTART_THEN_ANSWER], 2),
        ([Fault.RESTART_AND_LOSE], 2),
        ([Fault.LOSE_REQUEST, Fault.RESTART_THEN_ANSWER], 3),
        ([Fault.PENDING, Fault.PENDING], 3),
    ],
)
async def test_r6_whatever_is_lost_it_is_executed_once_and_the_outcome_comes(
    client: AsyncClient, coordinator: Scripted, faults: list[Fault], copies: int
) -> None:
    await client.execute(RESERVE, request_id="warm-up")
    coordinator.copies.clear()
    coordinator.faults = list(faults)

    done = await client.execute(RESERVE, request_id="order-1")

    assert done.txid == "T2"
    assert [request.request_id for request in coordinator.executed] == ["warm-up", "order-1"]
    assert len(coordinator.copies) == copies
    assert {copy.attempt for copy in coordinator.copies} == {1}
    assert len({copy.operations[0].SerializeToString(deterministic=True) for copy in coordinator.copies}) == 1


async def test_r6_a_coordinator_that_is_killed_under_the_call_is_asked_again_when_it_is_back() -> None:
    first = Scripted(faults=[Fault.RESTART_THEN_ANSWER, Fault.HANG])
    async with serving(first) as port:
        client = AsyncClient(f"127.0.0.1:{port}")
        call = asyncio.create_task(client.execute(RESERVE, deadline=5.0, request_id="order-1"))
        while not first.records:
            await asyncio.sleep(0)
    second = Scripted(epoch=first.epoch + 1, records=first.records)
    async with client, serving(second, port):
        done = await call

    assert done.txid == "T1"
    assert second.executed == []


async def test_r6_without_an_answer_in_time_the_outcome_is_unknown(client: AsyncClient, coordinator: Scripted) -> None:
    await client.execute(RESERVE)
    coordinator.faults = [Fault.LOSE_ANSWER] * 1000

    with pytest.raises(OutcomeUnknown) as caught:
        await client.execute(RESERVE, request_id="order-1", give_up_after=0.5)

    assert not caught.value.outcome_known
    assert caught.value.request_id == "order-1"
    assert "client.outcome('order-1')" in str(caught.value)
    assert "Connection reset by peer" in str(caught.value)


async def test_r6_what_stays_undecided_is_unknown_and_says_who_is_waited_for(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.faults = [Fault.PENDING] * 1000

    with pytest.raises(OutcomeUnknown, match="waiting for payment"):
        await client.execute(RESERVE, give_up_after=0.5)


async def test_r6_an_answer_that_does_not_come_is_unknown(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.faults = [Fault.RESTART_THEN_ANSWER, Fault.HANG]

    with pytest.raises(OutcomeUnknown, match="DEADLINE_EXCEEDED"):
        await client.execute(RESERVE, give_up_after=0.5)


async def test_a_coordinator_that_cannot_be_reached_started_nothing(client: AsyncClient) -> None:
    async with serving(Scripted()) as port:
        pass
    async with AsyncClient(f"127.0.0.1:{port}") as lonely:
        with pytest.raises(CoordinatorUnavailable, match="started nothing") as caught:
            await lonely.execute(RESERVE, deadline=0.2)

    assert caught.value.outcome_known


async def test_a_lost_copy_that_names_no_epoch_is_known_not_to_run(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.faults = [Fault.LOSE_REQUEST] * 1000

    with pytest.raises(CoordinatorUnavailable):
        await client.execute(RESERVE, deadline=0.5)

    assert {copy.seen_epoch.number for copy in coordinator.copies} == {0}


async def test_a_coordinator_that_is_full_or_stopping_is_tried_again(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.faults = [problem(UNAVAILABLE, "STOPPING"), problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL")]

    await client.execute(RESERVE)

    assert len(coordinator.executed) == 1


async def test_one_that_stays_full_started_nothing(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.faults = [problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL")] * 1000

    with pytest.raises(CoordinatorUnavailable, match="said FULL"):
        await client.execute(RESERVE, deadline=0.5)


async def test_r6_after_a_lost_answer_a_coordinator_that_takes_nothing_new_proves_nothing(
    client: AsyncClient, coordinator: Scripted
) -> None:
    await client.execute(RESERVE)
    coordinator.faults = [Fault.LOSE_ANSWER, *[problem(UNAVAILABLE, "STOPPING")] * 1000]

    with pytest.raises(OutcomeUnknown):
        await client.execute(RESERVE, deadline=0.2, give_up_after=1.0)


async def test_r6_after_a_lost_answer_a_rejection_proves_nothing(client: AsyncClient, coordinator: Scripted) -> None:
    await client.execute(RESERVE)
    coordinator.faults = [Fault.LOSE_ANSWER, problem(grpc.StatusCode.INVALID_ARGUMENT, "OVER_LIMIT")]

    with pytest.raises(OutcomeUnknown, match="rejects"):
        await client.execute(RESERVE, give_up_after=5)


async def test_a_rejection_that_is_the_outcome_is_one_after_a_lost_answer_too(
    client: AsyncClient, coordinator: Scripted
) -> None:
    await client.execute(RESERVE)
    coordinator.faults = [
        Fault.LOSE_ANSWER,
        problem(grpc.StatusCode.INVALID_ARGUMENT, reasons.PAYLOAD_REFUSED, field="operations[0].payload"),
    ]

    with pytest.raises(InvalidRequest) as caught:
        await client.execute(RESERVE, give_up_after=5)

    assert caught.value.field == "operations[0].payload"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, RequestIdReused),
        (grpc.StatusCode.UNIMPLEMENTED, CallRejected),
        (grpc.StatusCode.FAILED_PRECONDITION, CallRejected),
    ],
)
async def test_a_rejection_becomes_its_class_and_is_not_repeated(
    client: AsyncClient, coordinator: Scripted, code: grpc.StatusCode, kind: type[CallRejected]
) -> None:
    coordinator.faults = [problem(code, "SO", field="f", value="v", remedy="r")]

    with pytest.raises(kind) as caught:
        await client.execute(RESERVE)

    error = caught.value
    assert (error.outcome_known, error.reason, error.field, error.value, error.remedy) == (True, "SO", "f", "v", "r")
    assert len(coordinator.copies) == 1


async def test_a_defect_of_the_coordinator_is_a_lost_answer(client: AsyncClient, coordinator: Scripted) -> None:
    await client.execute(RESERVE)
    coordinator.faults = [problem(grpc.StatusCode.INTERNAL, "INTERNAL", outcome_known=False)]

    assert (await client.execute(RESERVE)).txid == "T2"


async def test_r6_an_answer_that_nobody_can_read_is_a_lost_one() -> None:
    async def garbage(request: bytes, _context: Any) -> bytes:
        asked = coordinator_pb2.ExecuteRequest.FromString(request)
        if asked.seen_epoch.number == 0:
            epoch = types_pb2.Epoch(number=1, nonce="00000001")
            not_seen = coordinator_pb2.ExecuteResponse(outcome=coordinator_pb2.OUTCOME_NOT_SEEN, epoch=epoch)
            return not_seen.SerializeToString()
        return b"\xff\xff\xff"

    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(garbage) for name in ("Execute", "Get")}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("twophase.v1.Coordinator", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(OutcomeUnknown, match="no message of this call"):
            await client.execute(RESERVE, give_up_after=0.5)
    await server.stop(None)


async def test_a_server_that_is_no_coordinator_is_told_at_once() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(CallRejected):
            await client.execute(RESERVE)
    await server.stop(None)


async def test_a_refusal_is_raised_with_all_its_reasons(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal(participant="inventory", operation="reserve")]

    with pytest.raises(TransactionAborted) as caught:
        await client.execute(RESERVE, request_id="order-1")

    error = caught.value
    assert (error.outcome_known, error.kind, error.code, error.retryable) == (True, "BUSINESS", "OUT_OF_STOCK", False)
    assert (error.request_id, error.txid, error.attempt, len(error.refusals)) == ("order-1", "T1", 1, 1)
    assert "OUT_OF_STOCK: none left (inventory.reserve)" in str(error)


async def test_no_new_attempt_is_made_unless_it_was_asked_for(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal(retryable=True)]

    with pytest.raises(TransactionAborted):
        await client.execute(RESERVE)

    assert len(coordinator.executed) == 1


async def test_retries_are_new_attempts_at_the_same_request(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.refusals = [refusal(retryable=True), refusal(retryable=True)]

    done = await client.execute(RESERVE, retries=2, attempt=4)

    assert [request.attempt for request in coordinator.executed] == [4, 5, 6]
    assert len({request.request_id for request in coordinator.executed}) == 1
    assert done.attempt == 6


@pytest.mark.parametrize("kind", [types_pb2.REFUSAL_KIND_CONFLICT, types_pb2.REFUSAL_KIND_INVALID_PAYLOAD])
async def test_r11_what_is_aborted_and_applied_somewhere_all_the_same_is_said_and_not_tried_again(
    client: AsyncClient, coordinator: Scripted, kind: types_pb2.RefusalKind.ValueType
) -> None:
    coordinator.refusals = [refusal("LATER", kind=kind, retryable=True)]
    coordinator.heuristic = ["payment"]

    with pytest.raises(TransactionAborted, match="all the same it is applied at payment") as mixed:
        await client.execute(RESERVE, retries=5)

    assert len(coordinator.executed) == 1
    assert (mixed.value.code, mixed.value.heuristic, mixed.value.retryable) == ("LATER", ("payment",), False)


async def test_retries_end_with_the_last_refusal_and_stop_at_a_final_one(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.refusals = [refusal(retryable=True), refusal(retryable=True), refusal("NO_FUNDS"), refusal("LATER")]

    with pytest.raises(TransactionAborted) as exhausted:
        await client.execute(RESERVE, retries=1)
    with pytest.raises(TransactionAborted) as final:
        await client.execute(RESERVE, retries=5)

    assert (exhausted.value.attempt, final.value.code) == (2, "NO_FUNDS")
    assert len(coordinator.executed) == 3


async def test_r6_what_an_earlier_attempt_committed_is_the_answer(client: AsyncClient, coordinator: Scripted) -> None:
    await client.execute(RESERVE, request_id="order-1", attempt=2)

    done = await client.execute(RESERVE, request_id="order-1", attempt=3)

    assert (done.attempt, done.txid) == (2, "T1")


@pytest.mark.parametrize(
    ("kind", "error"),
    [(types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, InvalidRequest), (types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION, NotFound)],
)
async def test_a_recorded_abort_that_blames_the_request_is_its_error(
    client: AsyncClient, coordinator: Scripted, kind: types_pb2.RefusalKind.ValueType, error: type[TwophaseError]
) -> None:
    coordinator.refusals = [refusal(kind=kind, participant="inventory", operation="reserve")]

    with pytest.raises(error):
        await client.execute(RESERVE)


async def test_a_cancelled_call_is_cancelled_and_its_transaction_is_not(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.faults = [Fault.RESTART_THEN_ANSWER, Fault.HANG]
    call = asyncio.create_task(client.execute(RESERVE, request_id="order-1"))
    while not coordinator.records:
        await asyncio.sleep(0)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call

    assert (await client.execute(RESERVE, request_id="order-1")).txid == "T1"


async def test_closing_the_client_under_a_call_is_an_unknown_outcome_and_no_cancellation(
    client: AsyncClient, coordinator: Scripted
) -> None:
    coordinator.faults = [Fault.RESTART_THEN_ANSWER, Fault.HANG]
    call = asyncio.create_task(client.execute(RESERVE))
    while not coordinator.records:
        await asyncio.sleep(0)
    await client.close()

    with pytest.raises(OutcomeUnknown, match="closed"):
        await call


async def test_closing_the_client_while_it_connects_started_nothing() -> None:
    async with serving(Scripted()) as port:
        pass
    client = AsyncClient(f"127.0.0.1:{port}")
    call = asyncio.create_task(client.execute(RESERVE))
    read = asyncio.create_task(client.outcome("order-1"))
    await asyncio.sleep(0)
    await client.close()

    with pytest.raises(CoordinatorUnavailable, match="closed"):
        await call
    with pytest.raises(CoordinatorUnavailable, match="closed"):
        await read


async def test_the_largest_request_there_may_be_is_taken(client: AsyncClient, coordinator: Scripted) -> None:
    def given(length: int) -> Operation:
        return operation("inventory", "reserve", "x" * length)

    def size(length: int) -> int:
        request = execute_request(
            [given(length)],
            protocol=Protocol.TWO_PHASE,
            deadline=None,
            wait=Wait.APPLIED,
            request_id="order-1",
            attempt=1,
            in_turn=False,
        )
        return request.ByteSize()

    nearly = (16 << 20) - 1000
    largest = nearly + (16 << 20) - size(nearly)
    assert size(largest) == 16 << 20

    await client.execute(given(largest), request_id="order-1", give_up_after=10)
    assert len(coordinator.executed) == 1


async def test_bad_arguments_are_refused_before_anything_is_sent(client: AsyncClient, coordinator: Scripted) -> None:
    large = operation("inventory", "reserve", "x" * (16 << 20))
    for field, call in (
        ("request_id", client.execute(RESERVE, request_id="order 1")),
        ("attempt", client.execute(RESERVE, attempt=0)),
        ("deadline", client.execute(RESERVE, deadline=0.0)),
        ("deadline", client.execute(RESERVE, deadline=float("nan"))),
        ("deadline", client.execute(RESERVE, deadline=-1)),
        ("operations", client.execute(large)),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert caught.value.field == field
    with pytest.raises(InvalidRequest, match="host:port"):
        AsyncClient("nowhere")

    assert coordinator.copies == []
