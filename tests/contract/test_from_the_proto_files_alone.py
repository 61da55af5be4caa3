"""A participant and a client that know nothing but the generated code take part in a real coordinator's transactions.

What is written here is what somebody writes in another language: no line of the participant library or of the client.
The participant keeps its state in memory, as the contract allows.
"""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from twophase.contract.addresses import Address
from twophase.coordinator.server import Settings, running
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, participant_pb2, participant_pb2_grpc, types_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_LIMIT = 1000


@dataclass
class Purse(participant_pb2_grpc.ParticipantServicer):
    """An amount that may not go over 1000, changed by `add`."""

    name: str
    amount: int = 0
    names_operations: bool = True
    prepared: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, str] = field(default_factory=dict)
    lose_next_commit: bool = False
    commits: int = 0
    identity: types_pb2.DatabaseIdentity = field(
        default_factory=lambda: types_pb2.DatabaseIdentity(
            system_identifier=str(secrets.randbits(60)), timeline=1, database="memory"
        )
    )

    def work(self, request: participant_pb2.PrepareRequest | participant_pb2.ApplyRequest) -> int | types_pb2.Refusal:
        total = 0
        for operation in request.operations:
            at_fault = operation.name if self.names_operations else ""
            content = json.loads(operation.payload.json or "null")
            if not isinstance(content, int):
                kind = types_pb2.REFUSAL_KIND_INVALID_PAYLOAD
                return types_pb2.Refusal(kind=kind, message="a number is expected", operation=at_fault)
            total += content
        if self.amount + total > _LIMIT:
            kind = types_pb2.REFUSAL_KIND_BUSINESS
            return types_pb2.Refusal(kind=kind, code="FULL", message=f"{total} more do not fit in")
        return total

    async def Handshake(
        self, request: participant_pb2.HandshakeRequest, context: Context
    ) -> participant_pb2.HandshakeResponse:
        return participant_pb2.HandshakeResponse(
            participant=self.name,
            identity=self.identity,
            operations=[participant_pb2.OperationDescription(name="add")],
        )

    async def Prepare(
        self, request: participant_pb2.PrepareRequest, context: Context
    ) -> participant_pb2.PrepareResponse:
        worked = self.work(request)
        if isinstance(worked, types_pb2.Refusal):
            return participant_pb2.PrepareResponse(vote=types_pb2.VOTE_NO, refusal=worked, identity=self.identity)
        self.prepared[request.gid] = worked
        results = [types_pb2.Payload(json=str(self.amount + worked))] * len(request.operations)
        return participant_pb2.PrepareResponse(vote=types_pb2.VOTE_YES, results=results, identity=self.identity)

    async def Apply(self, request: participant_pb2.ApplyRequest, context: Context) -> participant_pb2.ApplyResponse:
        worked = self.work(request)
        if isinstance(worked, types_pb2.Refusal):
            self.ledger[request.gid] = "refused"
            outcome = participant_pb2.APPLY_OUTCOME_REFUSED
            return participant_pb2.ApplyResponse(outcome=outcome, refusal=worked, identity=self.identity)
        if self.ledger.setdefault(request.gid, "applied") != "applied":
            outcome = participant_pb2.APPLY_OUTCOME_TOMBSTONE
            return participant_pb2.ApplyResponse(outcome=outcome, identity=self.identity)
        self.amount += worked
        results = [types_pb2.Payload(json=str(self.amount))] * len(request.operations)
        outcome = participant_pb2.APPLY_OUTCOME_APPLIED
        return participant_pb2.ApplyResponse(outcome=outcome, results=results, identity=self.identity)

    async def Commit(self, request: participant_pb2.CommitRequest, context: Context) -> participant_pb2.CommitResponse:
        self.commits += 1
        if request.gid in self.prepared:
            self.amount += self.prepared.pop(request.gid)
            self.ledger[request.gid] = "applied"
        if self.lose_next_commit:
            self.lose_next_commit = False
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer got lost")
        kept = self.ledger.setdefault(request.gid, "tombstone")
        outcome = participant_pb2.COMMIT_OUTCOME_COMMITTED if kept == "applied" else participant_pb2.COMMIT_OUTCOME_LOST
        return participant_pb2.CommitResponse(outcome=outcome, identity=self.identity)

    async def Abort(self, request: participant_pb2.AbortRequest, context: Context) -> participant_pb2.AbortResponse:
        self.prepared.pop(request.gid, None)
        outcome = {
            "applied": participant_pb2.ABORT_OUTCOME_APPLIED,
            "refused": participant_pb2.ABORT_OUTCOME_REFUSED,
            "tombstone": participant_pb2.ABORT_OUTCOME_ABORTED,
        }[self.ledger.setdefault(request.gid, "tombstone")]
        return participant_pb2.AbortResponse(outcome=outcome, identity=self.identity)

    async def ListPrepared(
        self, request: participant_pb2.ListPreparedRequest, context: Context
    ) -> participant_pb2.ListPreparedResponse:
        branches = [
            participant_pb2.PreparedBranch(gid=gid)
            for gid in self.prepared
            if gid.startswith(f"tp-{request.journal_id}-")
        ]
        return participant_pb2.ListPreparedResponse(branches=branches, identity=self.identity)

    async def Inspect(
        self, request: participant_pb2.InspectRequest, context: Context
    ) -> participant_pb2.InspectResponse:
        prefix = f"tp-{request.journal_id}-{request.txid}-"
        outcome = participant_pb2.LEDGER_OUTCOME_APPLIED
        applied = [gid for gid, kept in self.ledger.items() if kept == "applied" and gid.startswith(prefix)]
        return participant_pb2.InspectResponse(
            entries=[participant_pb2.LedgerEntry(gid=gid, outcome=outcome) for gid in applied],
            prepared_gids=[gid for gid in self.prepared if gid.startswith(prefix)],
            identity=self.identity,
        )

    async def Observe(
        self, request: participant_pb2.ObserveRequest, context: Context
    ) -> participant_pb2.ObserveResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a purse has no locks to show")
        raise AssertionError

    async def Diagnose(
        self, request: participant_pb2.DiagnoseRequest, context: Context
    ) -> participant_pb2.DiagnoseResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a purse has no server to look at")
        raise AssertionError

    async def Stream(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a purse is asked one thing at a time")


@dataclass(frozen=True)
class Parts:
    """A coordinator, two purses that have registered themselves, and a stub to call it with."""

    stub: coordinator_pb2_grpc.CoordinatorAsyncStub
    channel: grpc.aio.Channel
    address: str
    left: Purse
    right: Purse

    async def execute(self, request_id: str, **amounts: object) -> coordinator_pb2.ExecuteResponse:
        operations = [
            types_pb2.Operation(participant=name, name="add", payload=types_pb2.Payload(json=json.dumps(amount)))
            for name, amount in amounts.items()
        ]
        return await self.stub.Execute(coordinator_pb2.ExecuteRequest(request_id=request_id, operations=operations))


@asynccontextmanager
async def serve(purse: Purse) -> AsyncIterator[str]:
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServicer_to_server(purse, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as stack:
        settings = Settings(journal=tmp_path / "journal", listen=Address("127.0.0.1", 0), grace=1.0)
        left, right = Purse("left"), Purse("right")
        addresses = [await stack.enter_async_context(serve(purse)) for purse in (left, right)]
        coordinator = await stack.enter_async_context(running(settings))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(coordinator.address))
        stub: coordinator_pb2_grpc.CoordinatorAsyncStub = coordinator_pb2_grpc.CoordinatorStub(channel)
        for purse, address in zip((left, right), addresses, strict=True):
            await stub.Register(coordinator_pb2.RegisterRequest(participant=purse.name, address=address))
        yield Parts(stub, channel, coordinator.address, left, right)


async def test_both_or_neither(parts: Parts) -> None:
    committed = await parts.execute("both", left=10, right=20)
    assert committed.outcome == coordinator_pb2.OUTCOME_COMMITTED
    assert committed.applied
    assert [result.result.json for result in committed.results] == ["10", "20"]
    refused = await parts.execute("neither", left=10, right=5000)
    assert refused.outcome == coordinator_pb2.OUTCOME_ABORTED
    assert [(reason.participant, reason.code) for reason in refused.refusals] == [("right", "FULL")]
    assert (parts.left.amount, parts.right.amount) == (10, 20)
    assert not parts.left.prepared
    assert not parts.right.prepared


async def test_one_writer_commits_locally_and_its_ledger_decides(parts: Parts) -> None:
    committed = await parts.execute("alone", left=7)
    assert committed.outcome == coordinator_pb2.OUTCOME_COMMITTED
    refused = await parts.execute("too-much", left=5000)
    assert refused.outcome == coordinator_pb2.OUTCOME_ABORTED
    assert refused.refusals[0].code == "FULL"
    assert parts.left.amount == 7


async def test_r7_a_lost_answer_to_commit_is_asked_for_again_and_applied_once(parts: Parts) -> None:
    parts.right.lose_next_commit = True
    committed = await parts.execute("lost", left=1, right=2)
    assert committed.outcome == coordinator_pb2.OUTCOME_COMMITTED
    assert committed.applied
    assert parts.right.commits == 2
    assert parts.right.amount == 2


@pytest.mark.parametrize("names_operations", [True, False])
async def test_a_wrong_payload_is_the_callers_error_and_names_what_is_known(
    parts: Parts, *, names_operations: bool
) -> None:
    parts.right.names_operations = names_operations
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await parts.execute("wrong", left=1, right="many")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"the payload of {'right.add' if names_operations else 'right'} is not" in str(failed.value.details())
    assert parts.left.amount == 0
    # The attempt is used up; the next one may have other content.
    operation = types_pb2.Operation(participant="right", name="add", payload=types_pb2.Payload(json="3"))
    corrected = coordinator_pb2.ExecuteRequest(request_id="wrong", attempt=2, operations=[operation])
    assert (await parts.stub.Execute(corrected)).outcome == coordinator_pb2.OUTCOME_COMMITTED


async def test_reflection_and_health_answer_on_the_same_port(parts: Parts) -> None:
    health: Any = health_pb2_grpc.HealthStub(parts.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="twophase.v1.Coordinator"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, parts.channel))
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol="twophase.v1.Coordinator")]
    served = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
    files = served[0].file_descriptor_response.file_descriptor_proto
    assert coordinator_pb2.DESCRIPTOR.serialized_pb in files
