"""Every call that is wrong in itself: the status, the field, the value, the remedy, and an engine that never hears."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.service_fakes import FakeEngine, Served, op, request, served
from twophase.coordinator.engine.api import Limits
from twophase.v1 import coordinator_pb2, types_pb2
from twophase.v1 import coordinator_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MANY = 1 << 20


BAD_EXECUTES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no request id": ({"request_id": ""}, "request_id", "MISSING_FIELD"),
    "odd request id": ({"request_id": "order 1"}, "request_id", "MALFORMED_FIELD"),
    "line feed after the request id": ({"request_id": "order-1\n"}, "request_id", "MALFORMED_FIELD"),
    "long request id": ({"request_id": "x" * 129}, "request_id", "MALFORMED_FIELD"),
    "huge request id": ({"request_id": "ü" * MANY}, "request_id", "MALFORMED_FIELD"),
    "no operations": ({"operations": []}, "operations", "MISSING_FIELD"),
    "too many operations": ({"operations": [op()] * 257}, "operations", "OVER_LIMIT"),
    "too many participants": ({"operations": [op(f"p{n}") for n in range(65)]}, "operations", "OVER_LIMIT"),
    "no participant": ({"operations": [op(), op("")]}, "operations[1].participant", "MISSING_FIELD"),
    "odd participant": ({"operations": [op("In ventory")]}, "operations[0].participant", "MALFORMED_FIELD"),
    "no operation name": ({"operations": [op(name="")]}, "operations[0].name", "MISSING_FIELD"),
    "odd operation name": ({"operations": [op(name="x'; drop table")]}, "operations[0].name", "MALFORMED_FIELD"),
    "zero in a name": ({"operations": [op(name="a\0b")]}, "operations[0].name", "MALFORMED_FIELD"),
    "payload over the limit": ({"operations": [op(json="x" * MANY)]}, "operations[0].payload", "OVER_LIMIT"),
    "deadline zero": ({"deadline": Duration()}, "deadline", "MALFORMED_FIELD"),
    "deadline negative": ({"deadline": Duration(seconds=-1)}, "deadline", "MALFORMED_FIELD"),
    "deadline just negative": ({"deadline": Duration(nanos=-1)}, "deadline", "MALFORMED_FIELD"),
    "deadline over the cap": ({"deadline": Duration(seconds=61)}, "deadline", "OVER_LIMIT"),
    "deadline just over the cap": ({"deadline": Duration(seconds=60, nanos=1)}, "deadline", "OVER_LIMIT"),
    "deadline of mixed signs": ({"deadline": Duration(seconds=1, nanos=-1)}, "deadline", "MALFORMED_FIELD"),
    "nanos too many": ({"deadline": Duration(seconds=1, nanos=1_000_000_000)}, "deadline", "MALFORMED_FIELD"),
    "seconds too many": ({"deadline": Duration(seconds=2**62)}, "deadline", "MALFORMED_FIELD"),
    "odd epoch nonce": ({"seen_epoch": types_pb2.Epoch(number=1, nonce="XYZ")}, "seen_epoch", "MALFORMED_FIELD"),
    "epoch without nonce": ({"seen_epoch": types_pb2.Epoch(number=1)}, "seen_epoch", "MALFORMED_FIELD"),
    "epoch 0 with nonce": ({"seen_epoch": types_pb2.Epoch(nonce="cafe0001")}, "seen_epoch", "MALFORMED_FIELD"),
    "unknown protocol": ({"protocol": 9}, "protocol", "UNKNOWN_VALUE"),
    "unknown wait": ({"wait": 9}, "wait", "UNKNOWN_VALUE"),
}


@pytest.mark.parametrize(("changes", "field", "reason"), BAD_EXECUTES.values(), ids=BAD_EXECUTES.keys())
async def test_a_bad_execute_is_refused_with_field_value_and_remedy(
    service: Served, changes: dict[str, Any], field: str, reason: str
) -> None:
    problem, error = await service.refused(service.stub.Execute(request(**changes)))

    assert (problem.code, problem.field, problem.reason) == (INVALID, field, reason)
    assert field.rpartition(".")[2] in problem.message
    assert problem.remedy
    assert problem.outcome_known
    assert service.engine.submissions == []
    violations = _bad_request(error).field_violations
    assert [violation.field for violation in violations] == [field]


def _bad_request(error: grpc.aio.AioRpcError) -> error_details_pb2.BadRequest:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    for detail in status.details:
        found = error_details_pb2.BadRequest()
        if detail.Unpack(found):
            return found
    raise AssertionError("no BadRequest among the details")


async def test_the_value_of_a_bad_field_is_told(service: Served) -> None:
    problem, _ = await service.refused(service.stub.Execute(request(deadline=Duration(seconds=61))))

    assert problem.value == "61 s 0 ns"
    assert "60 s" in problem.remedy


async def test_the_limits_are_the_engines(service: Served) -> None:
    tight = FakeEngine(
        limits=Limits(default_deadline=1, deadline_cap=2, payload_bytes=10, operations=1, participants=1)
    )
    async with served(tight) as small:
        over_payload, _ = await small.refused(small.stub.Execute(request(operations=[op(json="[1,2,3,4,5,6]")])))
        over_count, _ = await small.refused(small.stub.Execute(request(operations=[op(), op()])))
        over_cap, _ = await small.refused(small.stub.Execute(request(deadline=Duration(seconds=3))))

    assert [over_payload.reason, over_count.reason, over_cap.reason] == ["OVER_LIMIT"] * 3


async def test_the_interactive_calls_say_what_to_use_instead(service: Served) -> None:
    stub = service.stub
    calls = [
        stub.Begin(coordinator_pb2.BeginRequest()),
        stub.Enlist(coordinator_pb2.EnlistRequest()),
        stub.Vote(coordinator_pb2.VoteRequest()),
        stub.Commit(coordinator_pb2.CoordinatorCommitRequest()),
        stub.Rollback(coordinator_pb2.RollbackRequest()),
    ]
    for call in calls:
        problem, _ = await service.refused(call)
        assert problem.code is grpc.StatusCode.UNIMPLEMENTED
        assert "Execute" in problem.message


TXID = "00000001-cafe0001-000000000001"
LETTER = {"txid": TXID, "step": "pay", "actor": "ada", "reason": "paid by hand"}


def resolving(**changes: Any) -> coordinator_pb2.ResolveDeadLetterRequest:
    return coordinator_pb2.ResolveDeadLetterRequest(**(LETTER | changes))


BAD_READS: dict[str, tuple[str, Any, str, str]] = {
    "retry of no saga": ("RetryDeadLetter", pb.RetryDeadLetterRequest(step="pay"), "txid", "MISSING_FIELD"),
    "retry of an odd txid": ("RetryDeadLetter", pb.RetryDeadLetterRequest(txid="1"), "txid", "MALFORMED_FIELD"),
    "retry of no step": ("RetryDeadLetter", pb.RetryDeadLetterRequest(txid=TXID), "step", "MISSING_FIELD"),
    "resolve no saga": ("ResolveDeadLetter", resolving(txid=""), "txid", "MISSING_FIELD"),
    "resolve no step": ("ResolveDeadLetter", resolving(step=""), "step", "MISSING_FIELD"),
    "resolve a huge step": ("ResolveDeadLetter", resolving(step="x" * MANY), "step", "OVER_LIMIT"),
    "resolve by nobody": ("ResolveDeadLetter", resolving(actor=" "), "actor", "MISSING_FIELD"),
    "resolve by a long name": ("ResolveDeadLetter", resolving(actor="x" * 129), "actor", "OVER_LIMIT"),
    "resolve without reason": ("ResolveDeadLetter", resolving(reason=""), "reason", "MISSING_FIELD"),
    "resolve with a long reason": ("ResolveDeadLetter", resolving(reason="x" * 1001), "reason", "OVER_LIMIT"),
    "resolve with a reason of lines": ("ResolveDeadLetter", resolving(reason="a\nb"), "reason", "MALFORMED_FIELD"),
    "resolve with a cursor": ("ResolveDeadLetter", resolving(actor="\x1b[2J"), "actor", "MALFORMED_FIELD"),
    "get without key": ("Get", coordinator_pb2.GetRequest(), "key", "MISSING_FIELD"),
    "get by an empty txid": ("Get", coordinator_pb2.GetRequest(txid=""), "txid", "MISSING_FIELD"),
    "get by an odd txid": ("Get", coordinator_pb2.GetRequest(txid="1-2-3"), "txid", "MALFORMED_FIELD"),
    "get by an odd request id": ("Get", coordinator_pb2.GetRequest(request_id="a b"), "request_id", "MALFORMED_FIELD"),
    "page too large": ("List", coordinator_pb2.ListRequest(page_size=1001), "page_size", "OVER_LIMIT"),
    "odd page token": ("List", coordinator_pb2.ListRequest(page_token="next"), "page_token", "MALFORMED_FIELD"),
    "register nobody": ("Register", coordinator_pb2.RegisterRequest(address="h:1"), "participant", "MISSING_FIELD"),
    "register nowhere": ("Register", coordinator_pb2.RegisterRequest(participant="p"), "address", "MISSING_FIELD"),
    "register an odd address": (
        "Register",
        coordinator_pb2.RegisterRequest(participant="p", address="http://h:1"),
        "address",
        "MALFORMED_FIELD",
    ),
    "register port 0": (
        "Register",
        coordinator_pb2.RegisterRequest(participant="p", address="h:0"),
        "address",
        "MALFORMED_FIELD",
    ),
    "register port 65536": (
        "Register",
        coordinator_pb2.RegisterRequest(participant="p", address="h:65536"),
        "address",
        "MALFORMED_FIELD",
    ),
}


@pytest.mark.parametrize(("method", "message", "field", "reason"), BAD_READS.values(), ids=BAD_READS.keys())
async def test_other_bad_calls_are_refused_the_same_way(
    service: Served, method: str, message: Any, field: str, reason: str
) -> None:
    problem, _ = await service.refused(getattr(service.stub, method)(message))

    assert (problem.code, problem.field, problem.reason) == (INVALID, field, reason)
    assert problem.remedy
    assert service.engine.registered == []
    assert service.engine.about_letters == []


async def test_bytes_that_are_no_message_are_the_callers_fault(service: Served) -> None:
    raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = service.channel.unary_unary(
        "/twophase.v1.Coordinator/Execute"
    )
    not_utf8 = b"\x0a\x02\xff\xff"  # request_id: two bytes that are no text

    problem, _ = await service.refused(raw(not_utf8))

    assert (problem.code, problem.reason) == (INVALID, "MALFORMED_MESSAGE")
    assert service.engine.submissions == []


async def test_a_message_over_the_receive_limit_never_reaches_the_engine(service: Served) -> None:
    _, error = await service.refused(service.stub.Execute(request(operations=[op(json="x" * (17 << 20))])))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.engine.submissions == []


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=253_402_300_800),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
    ids=str,
)
async def test_a_moment_outside_the_calendar_is_refused(service: Served, moment: Timestamp) -> None:
    asked = coordinator_pb2.GetRequest(request_id="order-1", at=moment)

    problem, _ = await service.refused(service.stub.Get(asked))

    assert (problem.code, problem.field, problem.reason) == (INVALID, "at", "MALFORMED_FIELD")
    assert service.engine.asked == []


async def test_a_list_of_two_kinds_is_refused(service: Served) -> None:
    asked = coordinator_pb2.ListRequest(unfinished_only=True, heuristic_only=True)

    problem, _ = await service.refused(service.stub.List(asked))

    assert (problem.code, problem.field, problem.reason) == (INVALID, "heuristic_only", "MALFORMED_FIELD")
    assert service.engine.whiches == []
