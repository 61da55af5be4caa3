"""The gRPC service `twophase.v1.Coordinator`: it checks, asks the engine, answers.

Lives here: the servicer, and the interceptor that turns errors into statuses with details. Must not live here: the
checks (`validation`), the mapping (`wire`), how a server is assembled (`server`).
"""

# ruff: noqa: ARG002, N802 - gRPC gives the arguments, the contract the names
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, NoReturn, Protocol, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from twophase.contract.names import Txid
from twophase.contract.status import Problem, to_failure, to_status
from twophase.contract.streams.answering import Answers, Service
from twophase.coordinator import operator_wire, reasons, validation, wire
from twophase.coordinator.engine.api import Answer, DeadLetter, Limits, Rejected, Resolution, Submission, View, Which
from twophase.coordinator.engine.diagnosis import Diagnosis
from twophase.coordinator.engine.indoubt import Survey
from twophase.coordinator.journal.port import Journal
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc

SERVICE: Final = "twophase.v1.Coordinator"

_log = logging.getLogger(__name__)

# A status travels in the trailers, which receivers cap at 8 KiB, escaped, with the message in it three times.
_TEXT_BYTES: Final = 600

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Transactions(Protocol):
    """The part of the engine that the service needs; `engine.engine.Engine` has it."""

    @property
    def journal(self) -> Journal: ...
    @property
    def limits(self) -> Limits: ...
    async def execute(self, submission: Submission) -> Answer: ...
    async def view(self, key: Txid | str, *, with_events: bool, at: int | None) -> View | None: ...
    async def views(self, *, limit: int, before: Txid | None, which: Which) -> tuple[View, ...]: ...
    async def register(self, name: str, address: str) -> None: ...
    async def in_doubt(self) -> Survey: ...
    async def diagnose(self) -> Diagnosis: ...
    async def dead_letters(self) -> tuple[DeadLetter, ...]: ...
    async def retry_dead_letter(self, txid: Txid, step: str) -> None: ...
    async def resolve_dead_letter(
        self, txid: Txid, step: str, *, actor: str, reason: str, even_if_away: bool
    ) -> Resolution: ...


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServicer):
    """Answers the calls of `twophase.v1.Coordinator`. Raises `Rejected`, which `Guard` turns into a status."""

    def __init__(self, engine: Transactions) -> None:
        self._engine = engine
        self._streams = Answers(
            Service(
                frame=coordinator_pb2.CoordinatorStreamResponse,
                calls={"execute": self._execute},
                failure=lambda kind, error: to_failure(_told(_problem(f"/{SERVICE}/{kind.title()}", error))),
                refusable=frozenset({"execute"}),
            )
        )

    async def end_streams(self, *, timeout: float) -> None:
        """Takes no more calls on streams; each ends once those on it are answered, at the latest after `timeout` s."""
        self._streams.end()
        if self._streams.running:
            await asyncio.wait(self._streams.running, timeout=timeout)
        for call in self._streams.running:
            call.cancel()  # as gRPC does with unary calls: the transaction is the engine's, and goes on

    async def Register(
        self, request: coordinator_pb2.RegisterRequest, context: _Context
    ) -> coordinator_pb2.RegisterResponse:
        name, address = validation.registration(request)
        await self._engine.register(name, address)
        journal = self._engine.journal
        return coordinator_pb2.RegisterResponse(journal_id=journal.journal_id, epoch=wire.epoch_message(journal.epoch))

    async def Execute(
        self, request: coordinator_pb2.ExecuteRequest, context: _Context
    ) -> coordinator_pb2.ExecuteResponse:
        answer = await self._execute(request)
        answer.streams = True
        return answer

    async def Stream(  # type: ignore[override]  # gRPC takes a coroutine that reads and writes, the stub knows iterators
        self, request_iterator: object, context: _Context
    ) -> None:
        await self._streams.serve(context)

    async def _execute(self, request: coordinator_pb2.ExecuteRequest) -> coordinator_pb2.ExecuteResponse:
        submission = validation.submission(request, self._engine.limits)
        answer = await self._engine.execute(submission)
        problem = wire.problem_of(answer, request)
        if problem is not None:
            raise Rejected(problem)
        return wire.execute_response(answer, self._engine.journal.epoch)

    async def Get(self, request: coordinator_pb2.GetRequest, context: _Context) -> coordinator_pb2.GetResponse:
        asked = validation.question(request)
        view = await self._engine.view(asked.key, with_events=asked.with_events, at=asked.at)
        if view is None and isinstance(asked.key, Txid):
            raise Rejected(_no_record(asked.key) if asked.at is None else _not_yet(asked.key))
        journal = self._engine.journal
        return wire.get_response(view, journal.journal_id, journal.epoch)

    async def List(self, request: coordinator_pb2.ListRequest, context: _Context) -> coordinator_pb2.ListResponse:
        page = validation.page(request)
        found = await self._engine.views(limit=page.size + 1, before=page.before, which=page.which)
        shown = found[: page.size]
        journal = self._engine.journal
        return coordinator_pb2.ListResponse(
            transactions=[wire.transaction(view, journal.journal_id) for view in shown],
            next_page_token=wire.page_token(shown[-1].record.txid) if len(found) > page.size else "",
            epoch=wire.epoch_message(journal.epoch),
        )

    async def ListInDoubt(
        self, request: coordinator_pb2.ListInDoubtRequest, context: _Context
    ) -> coordinator_pb2.ListInDoubtResponse:
        return operator_wire.in_doubt_response(await self._engine.in_doubt(), self._engine.journal.epoch)

    async def Diagnose(
        self, request: coordinator_pb2.CoordinatorDiagnoseRequest, context: _Context
    ) -> coordinator_pb2.CoordinatorDiagnoseResponse:
        journal = self._engine.journal
        return operator_wire.diagnose_response(await self._engine.diagnose(), journal.journal_id, journal.epoch)

    async def ListDeadLetters(
        self, request: coordinator_pb2.ListDeadLettersRequest, context: _Context
    ) -> coordinator_pb2.ListDeadLettersResponse:
        journal = self._engine.journal
        letters = await self._engine.dead_letters()
        return operator_wire.dead_letters_response(letters, journal.journal_id, journal.epoch)

    async def RetryDeadLetter(
        self, request: coordinator_pb2.RetryDeadLetterRequest, context: _Context
    ) -> coordinator_pb2.RetryDeadLetterResponse:
        txid, step = validation.dead_letter(request)
        await self._engine.retry_dead_letter(txid, step)
        return coordinator_pb2.RetryDeadLetterResponse()

    async def ResolveDeadLetter(
        self, request: coordinator_pb2.ResolveDeadLetterRequest, context: _Context
    ) -> coordinator_pb2.ResolveDeadLetterResponse:
        word = validation.resolution(request)
        resolution = await self._engine.resolve_dead_letter(
            word.txid, word.step, actor=word.actor, reason=word.reason, even_if_away=word.even_if_away
        )
        return coordinator_pb2.ResolveDeadLetterResponse(barred=resolution.barred, done=resolution.done)

    async def Begin(self, request: coordinator_pb2.BeginRequest, context: _Context) -> NoReturn:
        raise Rejected(_not_offered("Begin"))

    async def Enlist(self, request: coordinator_pb2.EnlistRequest, context: _Context) -> NoReturn:
        raise Rejected(_not_offered("Enlist"))

    async def Vote(self, request: coordinator_pb2.VoteRequest, context: _Context) -> NoReturn:
        raise Rejected(_not_offered("Vote"))

    async def Commit(self, request: coordinator_pb2.CoordinatorCommitRequest, context: _Context) -> NoReturn:
        raise Rejected(_not_offered("Commit"))

    async def Rollback(self, request: coordinator_pb2.RollbackRequest, context: _Context) -> NoReturn:
        raise Rejected(_not_offered("Rollback"))


class Guard(grpc.aio.ServerInterceptor):
    """Turns what goes wrong in a call of this service into a status with `google.rpc` details.

    Bytes that are no message become INVALID_ARGUMENT (gRPC alone would say INTERNAL), `Rejected` its problem's status,
    and every other exception INTERNAL with an unknown outcome. A stream does that for its calls itself.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: _Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        method = handler_call_details.method
        if not method.startswith(f"/{SERVICE}/"):
            return await continuation(handler_call_details)
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None or handler.request_streaming:
                return handler
            self._handlers[method] = _guarded(method, handler)
        return self._handlers[method]


def _guarded(method: str, handler: _Handler) -> _Handler:
    behavior = cast(Callable[[Message, _Context], Awaitable[Message]], handler.unary_unary)
    decode = cast(Callable[[bytes], Message], handler.request_deserializer)

    def lenient(data: bytes) -> Message | DecodeError:
        try:
            return decode(data)
        except DecodeError as error:
            return error

    async def guarded(request: Message | DecodeError, context: _Context) -> Message:
        if isinstance(request, DecodeError):
            await _abort(context, _unreadable(method, request))
        try:
            return await behavior(request, context)
        except Exception as error:  # noqa: BLE001 - a defect of any kind must reach the client as "outcome unknown"
            await _abort(context, _problem(method, error))

    return grpc.unary_unary_rpc_method_handler(
        guarded, request_deserializer=lenient, response_serializer=handler.response_serializer
    )


def _problem(method: str, error: Exception) -> Problem:
    if isinstance(error, Rejected):
        return error.problem
    _log.error("%s failed", method, exc_info=error)
    return _defect(method)


def _told(problem: Problem) -> Problem:
    return replace(problem, message=_cut(problem.message), remedy=_cut(problem.remedy))


async def _abort(context: _Context, problem: Problem) -> NoReturn:
    problem = _told(problem)
    status = rpc_status.to_status(to_status(problem))
    await context.abort(problem.code, problem.message, status.trailing_metadata)


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= _TEXT_BYTES else data[:_TEXT_BYTES].decode(errors="ignore") + "..."


def _not_offered(method: str) -> Problem:
    return Problem(
        code=grpc.StatusCode.UNIMPLEMENTED,
        reason=reasons.NOT_OFFERED,
        message=f"{method} is not offered yet: a transaction is one call; send all its operations with Execute",
        remedy="send all operations of the transaction with Execute",
    )


def _no_record(txid: Txid) -> Problem:
    return Problem(
        code=grpc.StatusCode.NOT_FOUND,
        reason=reasons.UNKNOWN_TRANSACTION,
        message=f"there is no record of transaction {txid}; that does not mean that it was aborted:"
        " check that this is its coordinator, or ask by request id",
        field="txid",
        value=str(txid),
        remedy="check that this is its coordinator, or ask by request id",
    )


def _not_yet(txid: Txid) -> Problem:
    return Problem(
        code=grpc.StatusCode.NOT_FOUND,
        reason=reasons.UNKNOWN_TRANSACTION,
        message=f"of transaction {txid} there is no record up to that moment, by this coordinator's clock",
        field="at",
        value=str(txid),
        remedy="ask for a later moment, or for none",
    )


def _unreadable(method: str, error: DecodeError) -> Problem:
    return Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason=reasons.MALFORMED_MESSAGE,
        message=f"the request is not a message that {method} takes ({error}); text fields must be UTF-8",
        remedy="build it with code generated from the contract; text fields must be UTF-8",
    )


def _defect(method: str) -> Problem:
    return Problem(
        code=grpc.StatusCode.INTERNAL,
        reason=reasons.INTERNAL,
        message=f"{method} failed inside the coordinator; its log says why. Ask for the outcome with Get",
        remedy="ask for the outcome with Get, by request id",
        outcome_known=False,
    )
