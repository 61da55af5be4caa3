"""A participant on the model of Postgres: the contract's calls, each a task that outlives its caller.

Lives here: what the real one does in two phases, in its order, with pauses in which others come in between. Must not
live here: what it commits by itself (`steps`), its life (`sites`), the database (`postgres`), the network (`network`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.duration_pb2 import Duration

from simulation.deeds import gid_of, key_of, kind_of, short
from simulation.postgres import (
    DatabaseError,
    DuplicateObject,
    LockTimeout,
    Row,
    Tag,
    UndefinedObject,
    UniqueViolation,
    Work,
)
from simulation.sites import Forgotten, Refused, Unanswered, refusal
from simulation.steps import Stepping
from twophase.contract.names import Epoch
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types

ATTEMPTS = 3
"""How often a step is tried before it counts as refused, and what must succeed before somebody must look."""

_CUT_SHORT = 0.02  # how often a request is cut short while its work runs, and after how many seconds at most
_OUTCOMES = {
    "applied": pb.LEDGER_OUTCOME_APPLIED,
    "refused": pb.LEDGER_OUTCOME_REFUSED,
    "tombstone": pb.LEDGER_OUTCOME_TOMBSTONE,
}
_DECISIONS = {
    types.DECISION_COMMIT: "commit",
    types.DECISION_ABORT: "abort",
    types.DECISION_DELEGATED: "delegated",
}
_BACK = {word: value for value, word in _DECISIONS.items()}
_POLICY = pb.RetryPolicy(attempts=ATTEMPTS, longest_pause=Duration(seconds=1))
_OFFERED = (
    pb.OperationDescription(name="move", has_compensation=True, retry=_POLICY, attempt_deadline=Duration(seconds=3)),
    pb.OperationDescription(name="pay", retry=_POLICY, attempt_deadline=Duration(seconds=3)),
    pb.OperationDescription(name="look", read_only=True, retry=_POLICY),
)


class Participant(Stepping):
    """One participant and its database."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.epoch: Epoch | None = None
        self._batch: tuple[list[str], asyncio.Future[list[bool]]] | None = None

    def _lose_sessions(self) -> None:
        self._batch = None
        super()._lose_sessions()

    # --- the calls ------------------------------------------------------------------------------------------------

    async def handle(self, call: str, request: Any) -> Any:
        """One call. Raises `Unanswered`."""
        if not self.up:
            raise Unanswered(f"{self.name} is down")
        await self._pause()
        try:
            return await getattr(self, call)(request)
        except DatabaseError as error:
            raise Unanswered(f"{call}: {error!r}") from error

    async def handshake(self, request: pb.HandshakeRequest) -> pb.HandshakeResponse:
        last = self.epoch
        epoch = Epoch(request.epoch.number, request.epoch.nonce)
        if not request.look_only and (last is None or last.number < epoch.number):
            self.epoch = epoch
        if not request.look_only:
            for horizon in request.horizons:
                self.prune(Epoch(horizon.epoch.number, horizon.epoch.nonce), horizon.sequence)
        return pb.HandshakeResponse(
            participant=self.name,
            identity=self.identity,
            operations=_OFFERED,
            last_epoch=None if last is None else types.Epoch(number=last.number, nonce=last.nonce),
            highest_position=self.position,
        )

    async def prepare(self, request: pb.PrepareRequest) -> pb.PrepareResponse:
        if all(operation.name == "look" for operation in request.operations):
            return pb.PrepareResponse(vote=types.VOTE_READ_ONLY, identity=self.identity)
        work = self.connection()
        cut_short = self._chance.uniform(0, _CUT_SHORT) if self._chance.random() < _CUT_SHORT else None
        try:
            async with asyncio.timeout(cut_short):
                await self._work(work, request.gid, request.operations)
                await self._pause(self.standby)
            tag = self.database.prepare(request.gid, work)
            assert tag is Tag.PREPARE, "a transaction that failed is not prepared here"
            self.position = max(self.position, request.journal_position)
        except (Refused, LockTimeout, UniqueViolation, DuplicateObject) as error:
            self.database.end(work, commit=False)
            return pb.PrepareResponse(vote=types.VOTE_NO, refusal=refusal(error), identity=self.identity)
        except (TimeoutError, Forgotten) as error:
            self.give_back(work)
            raise Unanswered(f"{error!r}") from error
        self._tell(self.name, f"prepares {short(request.gid)}")
        await self._pause()
        return pb.PrepareResponse(vote=types.VOTE_YES, identity=self.identity)

    def connection(self) -> Work:
        """One of the pool, with a transaction on it."""
        return Work()

    def give_back(self, work: Work) -> None:
        """A connection whose work was cut short: nobody knows what is open on it, so that it is closed."""
        self.database.end(work, commit=False)

    async def commit(self, request: pb.CommitRequest) -> pb.CommitResponse:
        if await self._commit_prepared(request.gid):
            self._tell(self.name, f"commits {short(request.gid)}")
        else:
            async with self._finishing:
                if not await self.committed_before(request.gid):
                    return pb.CommitResponse(outcome=pb.COMMIT_OUTCOME_LOST, identity=self.identity)
        await self._pause()
        return pb.CommitResponse(outcome=pb.COMMIT_OUTCOME_COMMITTED, identity=self.identity)

    async def _commit_prepared(self, gid: str) -> bool:
        """Whether it was there. Those that come before a connection is free share one round trip."""
        if self._batch is not None:
            gids, answers = self._batch
            gids.append(gid)
            place = len(gids) - 1
            return (await asyncio.shield(answers))[place]
        gids, answers = self._batch = [gid], asyncio.get_running_loop().create_future()
        async with self._finishing:
            await self._pause()
            self._batch = None
            answers.set_result(self.send(gids))
        return answers.result()[0]

    def send(self, gids: list[str]) -> list[bool]:
        """A batch of COMMIT PREPARED, with a Sync after each; which of them were there."""
        return [self.was_there(gid) for gid in gids]

    def was_there(self, gid: str) -> bool:
        """One COMMIT PREPARED."""
        try:
            self.database.finish(gid, commit=True)
        except UndefinedObject:
            return False
        return True

    async def committed_before(self, gid: str) -> bool:
        """42704: the ledger tells whether it was committed, or a tombstone bars it for good."""
        row = self.database.ledger.get(gid)
        if row is None:
            try:
                await self._verdict(gid, Row("tombstone", "commit"))
            except UniqueViolation:
                row = self.database.ledger[gid]
        return row is not None and row.outcome == "applied"

    async def abort(self, request: pb.AbortRequest) -> pb.AbortResponse:
        async with self._finishing:
            if request.kind == types.BRANCH_KIND_WORK and self._roll_back(request.gid):
                return pb.AbortResponse(outcome=pb.ABORT_OUTCOME_ABORTED, identity=self.identity)
            outcome = await self.bar(key_of(request.gid, request.kind), _DECISIONS[request.decision])
        outcomes = {
            "applied": pb.ABORT_OUTCOME_APPLIED,
            "refused": pb.ABORT_OUTCOME_REFUSED,
            "tombstone": pb.ABORT_OUTCOME_ABORTED,
        }
        return pb.AbortResponse(outcome=outcomes[outcome], identity=self.identity)

    def _roll_back(self, gid: str) -> bool:
        """Whether it was prepared. Only work ever is: a compensation must not touch the branch whose name it bears."""
        try:
            self.database.finish(gid, commit=False)
        except UndefinedObject:
            return False
        self._tell(self.name, f"rolls back {short(gid)}")
        return True

    async def list_prepared(self, request: pb.ListPreparedRequest) -> pb.ListPreparedResponse:
        ours = [gid for gid in self.database.prepared if self.is_ours(gid, request.journal_id)]
        return pb.ListPreparedResponse(branches=[pb.PreparedBranch(gid=gid) for gid in ours], identity=self.identity)

    def is_ours(self, gid: str, journal_id: str) -> bool:
        """Whether a GID is of this journal, as a whole."""
        return gid.startswith(f"tp-{journal_id}-")

    async def inspect(self, request: pb.InspectRequest) -> pb.InspectResponse:
        wanted = tuple(request.txids) or (request.txid,)
        names = tuple(f"tp-{request.journal_id}-{txid}-" for txid in wanted)
        prepared = [gid for gid in self.database.prepared if gid.startswith(names)]
        rows = [(key, row) for key, row in self.database.ledger.items() if key.startswith(names)]
        return pb.InspectResponse(
            entries=[
                pb.LedgerEntry(
                    gid=gid_of(key),
                    kind=kind_of(key),
                    outcome=_OUTCOMES[row.outcome],
                    decision=_BACK.get(row.decision, types.DECISION_UNSPECIFIED),
                )
                for key, row in rows
            ],
            prepared_gids=prepared,
            identity=self.identity,
        )
