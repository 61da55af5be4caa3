"""The gRPC service `twophase.v1.Participant` over the store: fields checked, outcomes worded as the contract has them.

Lives here: the servicer. Must not live here: what is durable when (`store`), the process (`main`).

All work is done by one thread, in the order in which it came. So a repeated call waits for the one before it and finds
its row, a caller that hangs up cancels nothing that has begun, and Abort never meets a Prepare that is still running.
"""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from twophase.sandbox.tcc import theatre
from twophase.sandbox.tcc.ledger import Decision, Kind, Row
from twophase.sandbox.tcc.names import HIGHEST_SEQUENCE, Malformed, epoch_of, gid_of, journal_of, names_under, txid_of
from twophase.sandbox.tcc.store import Forgotten, ReadOnly, Store, Work
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

T = TypeVar("T")
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DISK_FAILED: Final = 74
"""The exit code after a failed read or write of the store: what the file holds is known only to the next start."""

_LONGEST: Final = 60.0
_MOST_TXIDS: Final = 1_000
_FINGERPRINT_BYTES: Final = 32

_log = logging.getLogger(__name__)


class OtherName(Exception):
    """The call is for another participant: FAILED_PRECONDITION."""


class Participant(participant_pb2_grpc.ParticipantServicer):
    """Answers the coordinator. `database` is a name for the store, for people."""

    def __init__(self, name: str, store: Store, *, database: str) -> None:
        self._name = name
        self._store = store
        self._identity = types_pb2.DatabaseIdentity(system_identifier=store.identity, timeline=1, database=database)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    def close(self) -> None:
        """Waits for what is being worked on, and closes the store."""
        self._thread.submit(self._store.close).result()
        self._thread.shutdown()

    async def Handshake(
        self, request: participant_pb2.HandshakeRequest, context: _Context
    ) -> participant_pb2.HandshakeResponse:
        return await self._answer(lambda: self._handshake(request), context)

    async def Prepare(
        self, request: participant_pb2.PrepareRequest, context: _Context
    ) -> participant_pb2.PrepareResponse:
        until = _until(request)
        return await self._answer(lambda: self._prepare(request, until), context)

    async def Apply(self, request: participant_pb2.ApplyRequest, context: _Context) -> participant_pb2.ApplyResponse:
        until = _until(request)
        return await self._answer(lambda: self._apply(request, until), context)

    async def Commit(self, request: participant_pb2.CommitRequest, context: _Context) -> participant_pb2.CommitResponse:
        return await self._answer(lambda: self._commit(request), context)

    async def Abort(self, request: participant_pb2.AbortRequest, context: _Context) -> participant_pb2.AbortResponse:
        return await self._answer(lambda: self._abort(request), context)

    async def ListPrepared(
        self, request: participant_pb2.ListPreparedRequest, context: _Context
    ) -> participant_pb2.ListPreparedResponse:
        return await self._answer(lambda: self._list_prepared(request), context)

    async def Inspect(
        self, request: participant_pb2.InspectRequest, context: _Context
    ) -> participant_pb2.InspectResponse:
        return await self._answer(lambda: self._inspect(request), context)

    async def Observe(
        self,
        request: participant_pb2.ObserveRequest,  # noqa: ARG002
        context: _Context,
    ) -> participant_pb2.ObserveResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a reservation holds no locks, so nobody waits for one")
        raise AssertionError

    async def Diagnose(
        self,
        request: participant_pb2.DiagnoseRequest,  # noqa: ARG002
        context: _Context,
    ) -> participant_pb2.DiagnoseResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no server to look at")
        raise AssertionError

    async def Stream(  # type: ignore[override]  # gRPC takes a coroutine, the stub knows iterators
        self,
        request_iterator: object,  # noqa: ARG002
        context: _Context,
    ) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "every call comes by itself here")

    def _handshake(self, request: participant_pb2.HandshakeRequest) -> participant_pb2.HandshakeResponse:
        if request.participant != self._name:
            raise OtherName(f"this is {self._name!r}, not {request.participant[:63]!r}; register it as {self._name!r}")
        journal = journal_of(request.journal_id)
        epoch_of(request.epoch.number, request.epoch.nonce)
        horizons = {epoch_of(each.epoch.number, each.epoch.nonce): each.sequence for each in request.horizons}
        if any(sequence > HIGHEST_SEQUENCE for sequence in horizons.values()):
            raise Malformed(f"horizons: a sequence is over {HIGHEST_SEQUENCE}, the highest there can be")
        if request.look_only:
            known = self._store.recall(journal)
        else:
            known = self._store.remember(journal, request.epoch, horizons)
        return participant_pb2.HandshakeResponse(
            participant=self._name,
            identity=self._identity,
            operations=[
                participant_pb2.OperationDescription(
                    name=name, read_only=name in theatre.READ_ONLY, has_compensation=name not in theatre.READ_ONLY
                )
                for name in theatre.OPERATIONS
            ],
            last_epoch=known.last_epoch,
            highest_position=known.highest_position,
            pruning_left=known.pruning_left,
        )

    def _prepare(self, request: participant_pb2.PrepareRequest, until: float) -> participant_pb2.PrepareResponse:
        tried = self._store.reserve(_work(request, until))
        response = participant_pb2.PrepareResponse(vote=types_pb2.VOTE_NO, identity=self._identity)
        match tried:
            case ReadOnly(results):
                response.vote = types_pb2.VOTE_READ_ONLY
                response.results.extend(results)
            case Row(state="reserved" | "applied", results=results):
                response.vote = types_pb2.VOTE_YES
                response.results.extend(results)
            case Row(state="refused", refusal=refusal):
                response.refusal.CopyFrom(refusal or types_pb2.Refusal())
            case Row():
                message = "the branch was told to abort before its work came"
                kind = types_pb2.REFUSAL_KIND_ABORTED
                response.refusal.CopyFrom(types_pb2.Refusal(kind=kind, code="ABORTED", message=message))
            case types_pb2.Refusal():
                response.refusal.CopyFrom(tried)
        return response

    def _apply(self, request: participant_pb2.ApplyRequest, until: float) -> participant_pb2.ApplyResponse:
        work = _work(request, until, must_succeed=request.must_succeed)
        done = self._store.compensate(work) if _kind(request.kind) == "compensation" else self._store.apply(work)
        response = participant_pb2.ApplyResponse(identity=self._identity)
        match done:
            case Row(state="applied", results=results):
                response.outcome = participant_pb2.APPLY_OUTCOME_APPLIED
                response.results.extend(results)
            # Of a compensation: the work was refused, so there is nothing to undo.
            case Row(state="refused", refusal=refusal) if request.kind != types_pb2.BRANCH_KIND_COMPENSATION:
                response.outcome = participant_pb2.APPLY_OUTCOME_REFUSED
                response.refusal.CopyFrom(refusal or types_pb2.Refusal())
            case Row(state="reserved"):
                response.outcome = participant_pb2.APPLY_OUTCOME_RETRY
                message = f"{request.gid} is reserved, and waits for its decision"
                kind = types_pb2.REFUSAL_KIND_CONFLICT
                reserved = types_pb2.Refusal(kind=kind, code="RESERVED", message=message, retryable=True)
                response.refusal.CopyFrom(reserved)
            # It was not done, and a person took it for done: TOMBSTONE would say that it need not be.
            case Row(state="tombstone", kind="compensation"):
                response.outcome = participant_pb2.APPLY_OUTCOME_RETRY
                message = f"the compensation of {request.gid} was not done, and is barred"
                kind = types_pb2.REFUSAL_KIND_ABORTED
                response.refusal.CopyFrom(types_pb2.Refusal(kind=kind, code="ABORTED", message=message))
            case Row():
                response.outcome = participant_pb2.APPLY_OUTCOME_TOMBSTONE
            case types_pb2.Refusal():
                response.outcome = participant_pb2.APPLY_OUTCOME_RETRY
                response.refusal.CopyFrom(done)
        return response

    def _commit(self, request: participant_pb2.CommitRequest) -> participant_pb2.CommitResponse:
        is_sold = self._store.confirm(gid_of(request.gid)).state == "applied"
        outcome = participant_pb2.COMMIT_OUTCOME_COMMITTED if is_sold else participant_pb2.COMMIT_OUTCOME_LOST
        return participant_pb2.CommitResponse(outcome=outcome, identity=self._identity)

    def _abort(self, request: participant_pb2.AbortRequest) -> participant_pb2.AbortResponse:
        row = self._store.cancel(gid_of(request.gid), _kind(request.kind), _abort_decision(request.decision))
        response = participant_pb2.AbortResponse(outcome=_ABORTS[row.state], identity=self._identity)
        if row.state == "applied":
            response.results.extend(row.results)
        if row.refusal is not None:
            response.refusal.CopyFrom(row.refusal)
        return response

    def _list_prepared(self, request: participant_pb2.ListPreparedRequest) -> participant_pb2.ListPreparedResponse:
        response = participant_pb2.ListPreparedResponse(identity=self._identity)
        for gid, seconds in self._store.reserved(names_under(f"tp-{journal_of(request.journal_id)}")):
            response.branches.add(gid=gid, age=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))
        return response

    def _inspect(self, request: participant_pb2.InspectRequest) -> participant_pb2.InspectResponse:
        journal = journal_of(request.journal_id)
        if len(request.txids) > _MOST_TXIDS:
            raise Malformed(f"txids: {len(request.txids)} are more than {_MOST_TXIDS}; ask in several calls")
        txids = sorted(set(map(txid_of, request.txids))) or [txid_of(request.txid)]
        rows = self._store.rows([names_under(f"tp-{journal}-{txid}") for txid in txids])
        in_full = not request.txids
        return participant_pb2.InspectResponse(
            entries=[_entry(row, in_full=in_full) for row in rows if row.state != "reserved"],
            prepared_gids=[row.gid for row in rows if row.state == "reserved"],
            identity=self._identity,
        )

    async def _answer(self, work: Callable[[], T], context: _Context) -> T:
        """Has the one thread do it. What is no outcome becomes a status; a store that fails ends the process."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _or_end, work)
        except Malformed as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except (Forgotten, OtherName) as error:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        except sqlite3.OperationalError as error:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, error)


_ABORTS: Final = {
    "applied": participant_pb2.ABORT_OUTCOME_APPLIED,
    "refused": participant_pb2.ABORT_OUTCOME_REFUSED,
    "tombstone": participant_pb2.ABORT_OUTCOME_ABORTED,
}
_LEDGER: Final = {
    "applied": participant_pb2.LEDGER_OUTCOME_APPLIED,
    "refused": participant_pb2.LEDGER_OUTCOME_REFUSED,
    "tombstone": participant_pb2.LEDGER_OUTCOME_TOMBSTONE,
}
_KINDS: Final = {
    "work": types_pb2.BRANCH_KIND_WORK,
    "compensation": types_pb2.BRANCH_KIND_COMPENSATION,
}


def _or_end(work: Callable[[], T]) -> T:
    """Another program at the file passes (busy); after any other error nobody knows what is on the disk, so that only a
    new start, which reads it, may answer."""
    try:
        return work()
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise
        _log.critical("the store failed (%s), and this process ends; look after its disk, and start it again", error)
        os._exit(DISK_FAILED)


def _work(
    request: participant_pb2.PrepareRequest | participant_pb2.ApplyRequest, until: float, *, must_succeed: bool = False
) -> Work:
    if not request.operations:
        raise Malformed("operations: there are none; send at least one")
    if len(request.fingerprint) != _FINGERPRINT_BYTES:
        raise Malformed(f"fingerprint: it has {len(request.fingerprint)} bytes, not {_FINGERPRINT_BYTES}")
    if request.journal_position >= 2**63:
        raise Malformed(f"journal_position: {request.journal_position} is over 2**63 - 1")
    return Work(
        gid_of(request.gid), request.operations, until, request.fingerprint, request.journal_position, must_succeed
    )


def _until(request: participant_pb2.PrepareRequest | participant_pb2.ApplyRequest) -> float:
    """The deadline by this process' monotonic clock. It runs while the work waits for its turn."""
    left = request.time_left.seconds + request.time_left.nanos / 1e9 if request.HasField("time_left") else _LONGEST
    return time.monotonic() + min(left, _LONGEST)


def _kind(kind: types_pb2.BranchKind.ValueType) -> Kind:
    match kind:
        case types_pb2.BRANCH_KIND_UNSPECIFIED | types_pb2.BRANCH_KIND_WORK:
            return "work"
        case types_pb2.BRANCH_KIND_COMPENSATION:
            return "compensation"
        case _:
            raise Malformed(f"kind: {kind} is none")


def _abort_decision(decision: Decision) -> Decision:
    if decision not in (types_pb2.DECISION_ABORT, types_pb2.DECISION_DELEGATED):
        raise Malformed(f"decision: {decision} is neither ABORT nor DELEGATED, and nothing is aborted under another")
    return decision


def _entry(row: Row, *, in_full: bool) -> participant_pb2.LedgerEntry:
    return participant_pb2.LedgerEntry(
        gid=row.gid,
        kind=_KINDS[row.kind],
        outcome=_LEDGER[row.state],
        decision=row.decision,
        results=row.results if in_full else (),
        refusal=row.refusal if in_full else None,
        fingerprint=row.fingerprint,
        journal_position=row.position,
    )


async def _abort(context: _Context, code: grpc.StatusCode, error: Exception) -> NoReturn:
    await context.abort(code, str(error))
    raise AssertionError
