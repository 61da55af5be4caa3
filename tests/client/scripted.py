"""A coordinator that keeps R6 for real and fails as it is told: what the client is held against."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import grpc
from grpc_status import rpc_status

from fixtures.streaming import streams_of
from twophase.contract.status import Problem, to_status
from twophase.coordinator.transport import SERVER_OPTIONS
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

Request = coordinator_pb2.ExecuteRequest
Response = coordinator_pb2.ExecuteResponse


class Fault(Enum):
    """What happens to one copy of an Execute."""

    LOSE_REQUEST = auto()  # it never arrives
    LOSE_ANSWER = auto()  # it is executed, and the answer is lost
    RESTART_THEN_ANSWER = auto()  # the coordinator restarts before it arrives
    RESTART_AND_LOSE = auto()  # it is executed; the coordinator restarts, and the answer is lost
    PENDING = auto()  # it is not decided at its deadline
    UNDOING = auto()  # the attempt before it is still being undone
    HANG = auto()  # it is executed and not answered for a long time


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Scripted(coordinator_pb2_grpc.CoordinatorServicer):
    """`faults` are taken one a copy; `refusals` one an execution, None to commit. A saga that is refused is undone, but
    at those that are `pending`."""

    faults: list[Fault | Problem] = field(default_factory=list)
    refusals: list[types_pb2.Refusal | None] = field(default_factory=list)
    results: list[types_pb2.OperationResult] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    heuristic: list[str] = field(default_factory=list)
    dead_letters: list[coordinator_pb2.DeadLetter] = field(default_factory=list)
    resolution: coordinator_pb2.ResolveDeadLetterResponse = field(
        default_factory=lambda: coordinator_pb2.ResolveDeadLetterResponse(barred=True)
    )
    epoch: int = 1
    copies: list[Request] = field(default_factory=list)
    executed: list[Request] = field(default_factory=list)
    records: dict[str, Response] = field(default_factory=dict)
    reads: list[Any] = field(default_factory=list)
    read_faults: list[Problem] = field(default_factory=list)
    transactions: list[coordinator_pb2.Transaction] = field(default_factory=list)
    doubts: coordinator_pb2.ListInDoubtResponse = field(default_factory=coordinator_pb2.ListInDoubtResponse)
    diagnosis: coordinator_pb2.CoordinatorDiagnoseResponse = field(
        default_factory=coordinator_pb2.CoordinatorDiagnoseResponse
    )
    offers_streams: bool = True
    streams: int = 0
    asked: asyncio.Event = field(default_factory=_set)  # what the answer on branches in doubt waits for
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._answers = streams_of(coordinator_pb2.CoordinatorStreamResponse, execute=self.Execute)

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        if not self.offers_streams:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
        self.streams += 1
        await self._answers.serve(context)

    def _epoch(self) -> types_pb2.Epoch:
        return types_pb2.Epoch(number=self.epoch, nonce=f"{self.epoch:08x}")

    async def Execute(self, request: Request, context: Any) -> Response:  # noqa: N802
        copy = Request()
        copy.CopyFrom(request)
        self.copies.append(copy)
        self.arrived.set()
        fault = self.faults.pop(0) if self.faults else None
        match fault:
            case Problem():
                await context.abort_with_status(rpc_status.to_status(to_status(fault)))
            case Fault.LOSE_REQUEST:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            case Fault.LOSE_ANSWER:
                self._answer(request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            case Fault.RESTART_THEN_ANSWER:
                self.epoch += 1
            case Fault.RESTART_AND_LOSE:
                self._answer(request)
                self.epoch += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
            case Fault.PENDING:
                self._answer(request)
                pending = coordinator_pb2.OUTCOME_PENDING
                return Response(
                    txid="T", outcome=pending, pending=["payment"], epoch=self._epoch(), streams=self.offers_streams
                )
            case Fault.UNDOING:
                return Response(
                    txid="T",
                    outcome=coordinator_pb2.OUTCOME_COMPENSATED,
                    attempt=request.attempt - 1,
                    pending=["payment"],
                    epoch=self._epoch(),
                    streams=self.offers_streams,
                )
            case Fault.HANG:
                self._answer(request)
                await asyncio.sleep(60)
            case None:
                pass
        return self._answer(request)

    async def ListDeadLetters(self, request: Any, context: Any) -> coordinator_pb2.ListDeadLettersResponse:  # noqa: N802
        await self._read(request, context)
        return coordinator_pb2.ListDeadLettersResponse(dead_letters=self.dead_letters, epoch=self._epoch())

    async def RetryDeadLetter(self, request: Any, context: Any) -> coordinator_pb2.RetryDeadLetterResponse:  # noqa: N802
        await self._read(request, context)
        return coordinator_pb2.RetryDeadLetterResponse()

    async def ResolveDeadLetter(self, request: Any, context: Any) -> coordinator_pb2.ResolveDeadLetterResponse:  # noqa: N802
        await self._read(request, context)
        return self.resolution

    def _answer(self, request: Request) -> Response:
        record = self.records.get(request.request_id)
        if record is not None and (
            record.outcome == coordinator_pb2.OUTCOME_COMMITTED or request.attempt <= record.attempt
        ):
            answer = Response()
            answer.CopyFrom(record)
            answer.epoch.CopyFrom(self._epoch())
            return answer
        if request.HasField("seen_epoch") and request.seen_epoch != self._epoch():
            return Response(
                outcome=coordinator_pb2.OUTCOME_NOT_SEEN,
                attempt=request.attempt,
                epoch=self._epoch(),
                streams=self.offers_streams,
            )
        self.executed.append(request)
        refusal = self.refusals.pop(0) if self.refusals else None
        answer = Response(
            txid=f"T{len(self.executed)}",
            outcome=_undone(request) if refusal else coordinator_pb2.OUTCOME_COMMITTED,
            applied=not self.pending,
            pending=self.pending,
            heuristic=self.heuristic,
            refusals=[refusal] if refusal else [],
            results=[] if refusal else self.results,
            attempt=request.attempt,
            epoch=self._epoch(),
            streams=self.offers_streams,
        )
        self.records[request.request_id] = answer
        return answer

    async def _read(self, request: Any, context: Any) -> None:
        self.reads.append(request)
        if self.read_faults:
            await context.abort_with_status(rpc_status.to_status(to_status(self.read_faults.pop(0))))

    async def Get(self, request: coordinator_pb2.GetRequest, context: Any) -> coordinator_pb2.GetResponse:  # noqa: N802
        await self._read(request, context)
        for transaction in self.transactions:
            if request.txid == transaction.txid or request.request_id == transaction.request_id:
                return coordinator_pb2.GetResponse(transaction=transaction, outcome=transaction.outcome)
        return coordinator_pb2.GetResponse(outcome=coordinator_pb2.OUTCOME_NOT_SEEN)

    async def List(self, request: coordinator_pb2.ListRequest, context: Any) -> coordinator_pb2.ListResponse:  # noqa: N802
        await self._read(request, context)
        at = int(request.page_token or 0)
        token = str(at + 1) if at + 1 < len(self.transactions) else ""
        return coordinator_pb2.ListResponse(transactions=self.transactions[at : at + 1], next_page_token=token)

    async def Register(  # noqa: N802
        self, request: coordinator_pb2.RegisterRequest, context: Any
    ) -> coordinator_pb2.RegisterResponse:
        await self._read(request, context)
        return coordinator_pb2.RegisterResponse()

    async def Begin(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    Enlist = Vote = Commit = Rollback = Begin

    async def ListInDoubt(  # noqa: N802
        self, request: coordinator_pb2.ListInDoubtRequest, context: Any
    ) -> coordinator_pb2.ListInDoubtResponse:
        await self._read(request, context)
        await self.asked.wait()
        return self.doubts

    async def Diagnose(  # noqa: N802
        self, request: coordinator_pb2.CoordinatorDiagnoseRequest, context: Any
    ) -> coordinator_pb2.CoordinatorDiagnoseResponse:
        await self._read(request, context)
        return self.diagnosis


def _undone(request: Request) -> coordinator_pb2.Outcome.ValueType:
    saga = request.protocol == coordinator_pb2.PROTOCOL_SAGA
    return coordinator_pb2.OUTCOME_COMPENSATED if saga else coordinator_pb2.OUTCOME_ABORTED


@contextlib.asynccontextmanager
async def serving(coordinator: Scripted, port: int = 0) -> AsyncIterator[int]:
    """Serves until the block is left; then the connections are cut, as by a kill."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(coordinator, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def problem(code: grpc.StatusCode, reason: str = "X", **changes: Any) -> Problem:
    values: dict[str, Any] = {"code": code, "reason": reason, "message": f"said {reason}"}
    return Problem(**(values | changes))


def refusal(code: str = "OUT_OF_STOCK", **changes: Any) -> types_pb2.Refusal:
    values: dict[str, Any] = {"kind": types_pb2.REFUSAL_KIND_BUSINESS, "code": code, "message": "none left"}
    return types_pb2.Refusal(**(values | changes))
