"""The client's other calls: asking, listing, registering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import pytest

from client.scripted import Scripted, problem, refusal, serving
from twophase.contract.status import Problem
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Event,
    InvalidRequest,
    NotFound,
    Outcome,
)
from twophase.v1 import coordinator_pb2, types_pb2


def transaction(number: int) -> coordinator_pb2.Transaction:
    return coordinator_pb2.Transaction(
        txid=f"T{number}",
        request_id=f"order-{number}",
        attempt=1,
        outcome=coordinator_pb2.OUTCOME_ABORTED,
        decision=types_pb2.DECISION_ABORT,
        applied=True,
        branches=[coordinator_pb2.Branch(gid="g", participant="p", state=coordinator_pb2.BRANCH_STATE_REFUSED)],
        refusals=[refusal()],
    )


async def test_get_and_outcome_tell_a_transaction(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.transactions = [transaction(1)]

    found = await client.get("T1")

    assert found == await client.outcome("order-1")
    assert (found.outcome, found.decision, found.applied) == (Outcome.ABORTED, "ABORT", True)
    assert (found.branches[0].state, found.refusals[0].code) == ("REFUSED", "OUT_OF_STOCK")


async def test_get_and_outcome_ask_for_events_and_for_a_moment(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.transactions = [transaction(1)]
    moment = datetime(2026, 11, 21, 12, 3, 4, 500_000, tzinfo=timezone(timedelta(hours=2)))

    await client.get("T1")
    await client.get("T1", events=True, at=moment)
    await client.outcome("order-1", at=moment)

    asked = [(read.with_events, read.at.ToJsonString() if read.HasField("at") else None) for read in coordinator.reads]
    assert asked == [
        (False, None),
        (True, "2026-11-21T10:03:04.500Z"),
        (False, "2026-11-21T10:03:04.500Z"),
    ]


async def test_events_are_told_as_plain_values(client: AsyncClient, coordinator: Scripted) -> None:
    told = transaction(1)
    events = (
        coordinator_pb2.TransactionEvent(position=3, kind=coordinator_pb2.EVENT_KIND_BEGUN),
        coordinator_pb2.TransactionEvent(
            position=4, kind=coordinator_pb2.EVENT_KIND_VOTED, gid="g", participant="p", vote=types_pb2.VOTE_NO
        ),
        coordinator_pb2.TransactionEvent(
            position=5,
            kind=coordinator_pb2.EVENT_KIND_DECIDED,
            decision=types_pb2.DECISION_ABORT,
            refusals=[refusal()],
        ),
        coordinator_pb2.TransactionEvent(
            position=6,
            kind=coordinator_pb2.EVENT_KIND_FINISHED,
            gid="g",
            participant="p",
            state=coordinator_pb2.BRANCH_STATE_ABORTED,
        ),
        coordinator_pb2.TransactionEvent(
            position=7, kind=coordinator_pb2.EVENT_KIND_ENDED, outcome=coordinator_pb2.OUTCOME_ABORTED
        ),
    )
    for event in events:
        event.at.FromMilliseconds(1_000 + event.position)
    told.events.extend(events)
    coordinator.transactions = [told]

    found = await client.get("T1", events=True)

    at = [datetime.fromtimestamp(1, tz=UTC) + timedelta(milliseconds=position) for position in range(3, 8)]
    assert found.events == (
        Event(3, at[0], "BEGUN"),
        Event(4, at[1], "VOTED", gid="g", participant="p", vote="NO"),
        Event(5, at[2], "DECIDED", decision="ABORT", refusals=found.refusals),
        Event(6, at[3], "FINISHED", gid="g", participant="p", state="ABORTED"),
        Event(7, at[4], "ENDED", outcome=Outcome.ABORTED),
    )


async def test_transactions_with_a_heuristic_branch_are_asked_for(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.transactions = [transaction(1)]

    assert [one.txid async for one in client.transactions(heuristic_only=True)] == ["T1"]
    assert all(read.heuristic_only and not read.unfinished_only for read in coordinator.reads)


async def test_an_unseen_request_has_no_outcome(client: AsyncClient) -> None:
    assert await client.outcome("order-9") is None


async def test_an_outcome_of_a_later_version_is_not_taken_as_final(client: AsyncClient, coordinator: Scripted) -> None:
    odd = transaction(1)
    odd.outcome = 99  # type: ignore[assignment]
    odd.decision = 99  # type: ignore[assignment]
    coordinator.transactions = [odd]

    found = await client.get("T1")

    assert (found.outcome, found.decision) == (Outcome.PENDING, "UNSPECIFIED")


async def test_an_unknown_txid_is_not_found(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.read_faults = [problem(grpc.StatusCode.NOT_FOUND, "UNKNOWN_TRANSACTION")]

    with pytest.raises(NotFound):
        await client.get("T1")


async def test_transactions_are_listed_over_all_pages(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.transactions = [transaction(number) for number in (3, 2, 1)]

    listed = [one.txid async for one in client.transactions(unfinished_only=True)]

    assert listed == ["T3", "T2", "T1"]
    assert all(read.unfinished_only for read in coordinator.reads)


async def test_register_names_the_participant_and_tells_a_refusal(client: AsyncClient, coordinator: Scripted) -> None:
    await client.register("inventory", "127.0.0.1:7001")
    coordinator.read_faults = [problem(grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")]
    with pytest.raises(CallRejected) as caught:
        await client.register("inventory", "127.0.0.1:7002")

    assert (coordinator.reads[0].participant, coordinator.reads[0].address) == ("inventory", "127.0.0.1:7001")
    assert caught.value.reason == "NAME_TAKEN"


async def test_reads_are_repeated_while_the_coordinator_is_away(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.read_faults = [problem(grpc.StatusCode.UNAVAILABLE)] * 2

    assert await client.outcome("order-1") is None
    assert len(coordinator.reads) == 3


async def test_reads_end_when_the_timeout_is_over() -> None:
    async with serving(Scripted()) as port:
        pass
    async with AsyncClient(f"127.0.0.1:{port}", timeout=0.1) as client:
        with pytest.raises(CoordinatorUnavailable, match="cannot be reached"):
            await client.get("T1")


CHANGES: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "register": lambda client: client.register("inventory", "127.0.0.1:7001"),
    "retry": lambda client: client.retry_dead_letter("T1", "pay"),
    "resolve": lambda client: client.resolve_dead_letter("T1", "pay", actor="me", reason="done by hand"),
}
LOST = problem(grpc.StatusCode.UNAVAILABLE, "", outcome_known=False)
DEFECT = problem(grpc.StatusCode.INTERNAL, "INTERNAL", outcome_known=False)
STOPPING = problem(grpc.StatusCode.UNAVAILABLE, "STOPPING")


async def unavailable(call: Callable[[AsyncClient], Awaitable[Any]], *faults: Problem) -> CoordinatorUnavailable:
    """What is raised in the end if these faults come first, and the last one for ever."""
    coordinator = Scripted(read_faults=[*faults, *faults[-1:] * 1000])
    async with serving(coordinator) as port, AsyncClient(f"127.0.0.1:{port}", timeout=0.5) as client:
        await client._connection().ready(within=30.0)
        with pytest.raises(CoordinatorUnavailable) as caught:
            await call(client)
    return caught.value


@pytest.mark.parametrize("faults", [(LOST,), (DEFECT,), (LOST, STOPPING)], ids=["lost", "defect", "lost, then refused"])
@pytest.mark.parametrize("call", CHANGES.values(), ids=CHANGES)
async def test_r6_a_change_whose_answer_is_lost_is_not_told_as_not_done(
    call: Callable[[AsyncClient], Awaitable[Any]], faults: tuple[Problem, ...]
) -> None:
    error = await unavailable(call, *faults)

    assert not error.outcome_known
    assert "may have been done all the same" in str(error)


class Slow(Scripted):
    """Takes a change, and does not answer before it is told to."""

    def __post_init__(self) -> None:
        self.taken, self.may_answer = asyncio.Event(), asyncio.Event()

    async def Register(  # noqa: N802 - gRPC's name
        self, request: coordinator_pb2.RegisterRequest, _: Any
    ) -> coordinator_pb2.RegisterResponse:
        self.taken.set()
        await self.may_answer.wait()
        return coordinator_pb2.RegisterResponse()


async def test_r6_a_client_that_is_closed_does_not_say_that_a_change_was_not_done() -> None:
    coordinator = Slow()
    async with serving(coordinator) as port:
        client = AsyncClient(f"127.0.0.1:{port}", timeout=30.0)
        waiting = asyncio.ensure_future(CHANGES["register"](client))
        await coordinator.taken.wait()
        await client.close()
        with pytest.raises(CoordinatorUnavailable, match=r"closed while it waited.*may have been done") as caught:
            await waiting
        coordinator.may_answer.set()
    assert not caught.value.outcome_known


@pytest.mark.parametrize("call", CHANGES.values(), ids=CHANGES)
async def test_r6_a_rejection_says_nothing_of_the_copy_before_it(
    call: Callable[[AsyncClient], Awaitable[Any]],
    client: AsyncClient,
    coordinator: Scripted,
) -> None:
    """The dead letter is there no more because the lost copy was carried out."""
    gone = problem(grpc.StatusCode.NOT_FOUND, "NO_DEAD_LETTER")
    for faults, known in (([gone], True), ([LOST, gone], False)):
        coordinator.read_faults = list(faults)
        with pytest.raises(NotFound) as caught:
            await call(client)
        assert caught.value.outcome_known is known
        assert ("may have been done" in str(caught.value)) is not known


@pytest.mark.parametrize("call", CHANGES.values(), ids=CHANGES)
async def test_a_change_that_is_refused_each_time_is_known_not_to_be_done(
    call: Callable[[AsyncClient], Awaitable[Any]],
) -> None:
    error = await unavailable(call, STOPPING)

    assert error.outcome_known
    assert "may have been done" not in str(error)


async def test_of_a_question_nothing_is_unknown() -> None:
    assert (await unavailable(lambda client: client.get("T1"), LOST)).outcome_known


async def test_text_that_is_no_unicode_is_refused_before_anything_is_sent(
    client: AsyncClient, coordinator: Scripted
) -> None:
    odd = "caf\udce9"
    calls: dict[str, tuple[str, Awaitable[Any]]] = {
        "get": ("txid", client.get(odd)),
        "outcome": ("request_id", client.outcome(odd)),
        "register": ("name", client.register(odd, "127.0.0.1:1")),
        "address": ("address", client.register("inventory", odd)),
        "retry": ("step", client.retry_dead_letter("T1", odd)),
        "resolve": ("reason", client.resolve_dead_letter("T1", "pay", actor="me", reason=odd)),
    }
    for field, call in calls.values():
        with pytest.raises(InvalidRequest, match="is no Unicode text") as caught:
            await call
        assert caught.value.field == field
    assert coordinator.reads == []
