"""The gRPC service `twophase.v1.Participant`: outcomes of the resource manager, as messages and statuses.

Lives here: the servicer, the mapping of outcomes and errors, the life of a call. Must not live here: the checks of
fields (`requests`), anything about Postgres (`resource`), how a server is put together (`server`).

The protocol outlives its calls: a branch is worked on in a task of its own, which goes on when the caller hangs up.
"""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
from grpc_status import rpc_status

from twophase.contract.names import Epoch
from twophase.contract.status import Problem, to_failure, to_status
from twophase.contract.streams.answering import Answers, Service
from twophase.contract.text import shorten
from twophase.participant import requests
from twophase.participant.bound import BoundWork, MisfitWork
from twophase.participant.errors import NotReady, PayloadError
from twophase.participant.operations import Participant
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    CannotFinish,
    Committed,
    Entry,
    Forgotten,
    Identity,
    Lost,
    No,
    OutcomeUnknown,
    Prepared,
    ReadOnly,
    RefusedForGood,
    Retry,
    StillRunning,
    Tombstoned,
)
from twophase.participant.refusals import refusal_of
from twophase.participant.resource import ResourceManager
from twophase.participant.retry import duration
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

T = TypeVar("T")
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SERVICE: Final = "twophase.v1.Participant"

_log = logging.getLogger(__name__)

# In bytes. A status travels in the trailers, where receivers take 8 KiB, and its message is in there three times.
_LONGEST_MESSAGE: Final = 600


# Work. What finishes a branch is always taken: it may be what those before it are waiting for.
_REFUSABLE: Final = frozenset({"prepare", "apply"})


class ParticipantService(participant_pb2_grpc.ParticipantServicer):
    """Answers the coordinator's calls for one participant, from an open resource manager."""

    def __init__(self, participant: Participant, resources: ResourceManager) -> None:
        self._participant = participant
        self._resources = resources
        self._streams = Answers(
            Service(
                frame=participant_pb2.StreamResponse,
                calls={
                    "prepare": self._prepare,
                    "apply": self._apply,
                    "commit": self._commit,
                    "abort": self._abort,
                },
                failure=lambda _, error: to_failure(_problem(error)),
                refusable=_REFUSABLE,
            )
        )
        # Those that came by streams and those that came alone.
        self._running: set[asyncio.Task[Any]] = self._streams.running

    @property
    def running(self) -> int:
        """How many calls are being worked on, those whose caller is gone included."""
        return len(self._running)

    def end_streams(self) -> None:
        """Takes no more calls on streams; each ends once those on it are answered."""
        self._streams.end()

    async def drain(self, *, timeout: float) -> bool:
        """Waits until nothing is being worked on, at most `timeout` seconds; True if so."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
        return not self._running

    async def Stream(  # type: ignore[override]  # gRPC takes a coroutine that reads and writes, the stub knows iterators
        self,
        request_iterator: object,  # noqa: ARG002 - the context is read instead
        context: _Context,
    ) -> None:
        await self._streams.serve(context)

    async def Handshake(
        self, request: participant_pb2.HandshakeRequest, context: _Context
    ) -> participant_pb2.HandshakeResponse:
        return await self._answer(self._handshake(request), context)

    async def Prepare(
        self, request: participant_pb2.PrepareRequest, context: _Context
    ) -> participant_pb2.PrepareResponse:
        return await self._answer(self._prepare(request), context)

    async def Apply(self, request: participant_pb2.ApplyRequest, context: _Context) -> participant_pb2.ApplyResponse:
        return await self._answer(self._apply(request), context)

    async def Commit(self, request: participant_pb2.CommitRequest, context: _Context) -> participant_pb2.CommitResponse:
        return await self._answer(self._commit(request), context)

    async def Abort(self, request: participant_pb2.AbortRequest, context: _Context) -> participant_pb2.AbortResponse:
        return await self._answer(self._abort(request), context)

    async def ListPrepared(
        self, request: participant_pb2.ListPreparedRequest, context: _Context
    ) -> participant_pb2.ListPreparedResponse:
        return await self._answer(self._list_prepared(request), context)

    async def Inspect(
        self, request: participant_pb2.InspectRequest, context: _Context
    ) -> participant_pb2.InspectResponse:
        return await self._answer(self._inspect(request), context)

    async def Observe(
        self, request: participant_pb2.ObserveRequest, context: _Context
    ) -> participant_pb2.ObserveResponse:
        return await self._answer(self._observe(request), context)

    async def Diagnose(
        self, request: participant_pb2.DiagnoseRequest, context: _Context
    ) -> participant_pb2.DiagnoseResponse:
        return await self._answer(self._diagnose(request), context)

    async def _handshake(self, request: participant_pb2.HandshakeRequest) -> participant_pb2.HandshakeResponse:
        name = self._participant.name
        if request.participant != name:
            raise requests.Rejected(_other_name(name, request.participant))
        journal_id, epoch = requests.journal_id_of(request.journal_id), requests.epoch_of(request.epoch)
        horizons = requests.horizons_of(request.horizons)
        if request.look_only:
            remembered = await self._resources.recall(journal_id)
        else:
            remembered = await self._resources.remember(journal_id, epoch, horizons)
        return participant_pb2.HandshakeResponse(
            participant=name,
            identity=self._identity(remembered.identity),
            operations=[spec.describe() for spec in self._participant.operations.values()],
            last_epoch=None if remembered.last_epoch is None else _epoch(remembered.last_epoch),
            highest_position=remembered.highest_position,
            pruning_left=remembered.pruning_left,
            streams=True,
        )

    async def _prepare(self, request: participant_pb2.PrepareRequest) -> participant_pb2.PrepareResponse:
        gid = requests.gid_of(request.gid)
        requests.check_operations(request.operations)
        deadline = requests.deadline_of(request)
        position = requests.position_of(request.journal_position)
        fingerprint = requests.fingerprint_of(request.fingerprint)
        try:
            work = self._participant.bind(request.operations)
        except PayloadError as error:
            return participant_pb2.PrepareResponse(
                vote=types_pb2.VOTE_NO,
                refusal=self._refusal(refusal_of(error), error.operation),
                identity=self._identity(None),
            )
        outcome = await self._resources.prepare(
            gid, work, deadline=deadline, position=position, fingerprint=fingerprint
        )
        response = participant_pb2.PrepareResponse(identity=self._identity(outcome.identity))
        match outcome:
            case Prepared(results):
                response.vote = types_pb2.VOTE_YES
                response.results.extend(results)
            case ReadOnly(results):
                response.vote = types_pb2.VOTE_READ_ONLY
                response.results.extend(results)
            case No(refusal):
                response.vote = types_pb2.VOTE_NO
                response.refusal.CopyFrom(self._refusal(refusal, work.running))
        return response

    async def _apply(self, request: participant_pb2.ApplyRequest) -> participant_pb2.ApplyResponse:
        gid = requests.gid_of(request.gid)
        kind = requests.kind_of(request.kind)
        requests.check_operations(request.operations)
        deadline = requests.deadline_of(request)
        position = requests.position_of(request.journal_position)
        fingerprint = requests.fingerprint_of(request.fingerprint)
        outcome: Applied | RefusedForGood | Retry | Tombstoned
        if kind == types_pb2.BRANCH_KIND_COMPENSATION:
            undo = partial(self._participant.undo, request.operations)
            outcome = await self._resources.compensate(
                gid, undo, deadline=deadline, position=position, fingerprint=fingerprint
            )
        else:
            outcome = await self._resources.apply(
                gid,
                self._bound(request.operations),
                deadline=deadline,
                position=position,
                fingerprint=fingerprint,
                must_succeed=request.must_succeed,
            )
        response = participant_pb2.ApplyResponse(identity=self._identity(outcome.identity))
        match outcome:
            case Applied(results):
                response.outcome = participant_pb2.APPLY_OUTCOME_APPLIED
                response.results.extend(results)
            case RefusedForGood(refusal):
                response.outcome = participant_pb2.APPLY_OUTCOME_REFUSED
                response.refusal.CopyFrom(self._refusal(refusal, ""))
            case Retry(refusal):
                response.outcome = participant_pb2.APPLY_OUTCOME_RETRY
                response.refusal.CopyFrom(self._refusal(refusal, ""))
            case Tombstoned():
                response.outcome = participant_pb2.APPLY_OUTCOME_TOMBSTONE
        return response

    def _bound(self, operations: Iterable[participant_pb2.BranchOperation]) -> BoundWork | MisfitWork:
        try:
            return self._participant.bind(operations)
        except PayloadError as error:
            # A final refusal of Apply is a row in the ledger, so this one goes the whole way, too.
            return MisfitWork(error, asynchronous=self._participant.asynchronous)

    async def _commit(self, request: participant_pb2.CommitRequest) -> participant_pb2.CommitResponse:
        outcome = await self._resources.commit(requests.gid_of(request.gid))
        response = participant_pb2.CommitResponse(identity=self._identity(outcome.identity))
        match outcome:
            case Committed():
                response.outcome = participant_pb2.COMMIT_OUTCOME_COMMITTED
            case Lost():
                response.outcome = participant_pb2.COMMIT_OUTCOME_LOST
        return response

    async def _abort(self, request: participant_pb2.AbortRequest) -> participant_pb2.AbortResponse:
        gid = requests.gid_of(request.gid)
        kind = requests.kind_of(request.kind)
        outcome = await self._resources.abort(gid, kind, requests.abort_decision_of(request.decision))
        response = participant_pb2.AbortResponse(identity=self._identity(outcome.identity))
        match outcome:
            case Aborted() | Tombstoned():
                response.outcome = participant_pb2.ABORT_OUTCOME_ABORTED
            case RefusedForGood(refusal):
                response.outcome = participant_pb2.ABORT_OUTCOME_REFUSED
                response.refusal.CopyFrom(self._refusal(refusal, ""))
            case Applied(results):
                response.outcome = participant_pb2.ABORT_OUTCOME_APPLIED
                response.results.extend(results)
        return response

    async def _list_prepared(
        self, request: participant_pb2.ListPreparedRequest
    ) -> participant_pb2.ListPreparedResponse:
        found = await self._resources.list_prepared(requests.journal_id_of(request.journal_id))
        return participant_pb2.ListPreparedResponse(
            branches=[
                participant_pb2.PreparedBranch(gid=str(branch.gid), age=duration(branch.age))
                for branch in found.branches
            ],
            identity=self._identity(found.identity),
        )

    async def _inspect(self, request: participant_pb2.InspectRequest) -> participant_pb2.InspectResponse:
        journal_id = requests.journal_id_of(request.journal_id)
        if request.txids:
            found = await self._resources.inspect_all(journal_id, requests.txids_of(request.txids))
        else:
            found = await self._resources.inspect(journal_id, requests.txid_of(request.txid))
        return participant_pb2.InspectResponse(
            entries=[_entry(entry) for entry in found.entries],
            prepared_gids=[str(gid) for gid in found.prepared],
            identity=self._identity(found.identity),
        )

    async def _observe(self, request: participant_pb2.ObserveRequest) -> participant_pb2.ObserveResponse:
        found = await self._resources.observe(requests.journal_id_of(request.journal_id))
        return participant_pb2.ObserveResponse(branches=found.branches, identity=self._identity(found.identity))

    async def _diagnose(self, request: participant_pb2.DiagnoseRequest) -> participant_pb2.DiagnoseResponse:
        found = await self._resources.diagnose(requests.journal_id_of(request.journal_id))
        return participant_pb2.DiagnoseResponse(checks=found.checks, identity=self._identity(found.identity))

    def _identity(self, answered: Identity | None) -> types_pb2.DatabaseIdentity:
        return (answered or self._resources.identity).message()

    def _refusal(self, refusal: types_pb2.Refusal, operation: str) -> types_pb2.Refusal:
        told = types_pb2.Refusal()
        told.CopyFrom(refusal)
        told.participant = told.participant or self._participant.name
        told.operation = told.operation or shorten(operation)
        return told

    async def _answer(self, work: Coroutine[Any, Any, T], context: _Context) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_unheard)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status, and the log the rest
            await _abort(context, _problem(error))


def _unheard(task: asyncio.Task[Any]) -> None:
    """Looks at what nobody waits for any more; otherwise asyncio reports it as forgotten."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _problem(error)


def _problem(error: BaseException) -> Problem:
    """What a call tells that has no outcome. Everything but a rejection may have started something."""
    problem = _mapped(error)
    message = problem.message.encode()
    if len(message) <= _LONGEST_MESSAGE:
        return problem
    return replace(problem, message=message[:_LONGEST_MESSAGE].decode(errors="ignore") + "...")


def _mapped(error: BaseException) -> Problem:
    match error:
        case requests.Rejected(problem=problem):
            return problem
        case StillRunning():
            return _unanswered(grpc.StatusCode.UNAVAILABLE, "STILL_RUNNING", error)
        case OutcomeUnknown():
            return _unanswered(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", error)
        case NotReady():
            return _unanswered(grpc.StatusCode.UNAVAILABLE, "NOT_READY", error)
        case Forgotten():
            return _unanswered(grpc.StatusCode.FAILED_PRECONDITION, "FORGOTTEN", error)
        case CannotFinish():
            return _unanswered(grpc.StatusCode.FAILED_PRECONDITION, "CANNOT_FINISH", error)
        case _:
            _log.error("a call failed", exc_info=error)
            return Problem(
                code=grpc.StatusCode.INTERNAL,
                reason="INTERNAL",
                message=f"the participant failed with {type(error).__name__}; its log has the traceback",
                remedy="read the participant's log",
                outcome_known=False,
            )


def _unanswered(code: grpc.StatusCode, reason: str, error: BaseException) -> Problem:
    return Problem(code=code, reason=reason, message=str(error), outcome_known=False)


async def _abort(context: _Context, problem: Problem) -> NoReturn:
    status = rpc_status.to_status(to_status(problem))
    await context.abort(problem.code, problem.message, status.trailing_metadata)


def _other_name(name: str, asked: str) -> Problem:
    return Problem(
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason="OTHER_PARTICIPANT",
        message=f"this is the participant '{name}', not '{shorten(asked)}'; register the address under its own name",
        field="participant",
        value=asked,
        remedy=f"register this address as '{name}'",
    )


def _epoch(epoch: Epoch) -> types_pb2.Epoch:
    return types_pb2.Epoch(number=epoch.number, nonce=epoch.nonce)


def _entry(entry: Entry) -> participant_pb2.LedgerEntry:
    return participant_pb2.LedgerEntry(
        gid=str(entry.gid),
        kind=entry.kind,
        outcome=entry.outcome,
        decision=entry.decision,
        results=entry.results,
        refusal=entry.refusal,
        fingerprint=entry.fingerprint,
        journal_position=entry.position,
    )
