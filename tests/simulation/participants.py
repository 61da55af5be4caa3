"""A participant on the model of Postgres: the contract's calls, each a task that outlives its caller.

Lives here: what the real one does, in its order, with pauses in which others may come in between. Must not live here:
the database (`postgres`), the network (`network`).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine
from typing import Any, Protocol

from simulation.postgres import (
    Database,
    DatabaseError,
    DuplicateObject,
    LockTimeout,
    Record,
    Row,
    Tag,
    UndefinedObject,
    UniqueViolation,
    Work,
)
from twophase.contract.names import Epoch, Gid
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types

_LOCK_SECONDS = 0.5
_BRIEF_SECONDS = 0.2
_FINISHING = 2  # connections that are kept for the second phase
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


class Unanswered(Exception):
    """The call gets no answer."""


class Refused(Exception):
    """The business says no."""


class Forgotten(DatabaseError):
    """The branch lies below its epoch's horizon."""


class Told(Protocol):
    """Where a participant tells what it does."""

    def __call__(self, who: str, what: str) -> None: ...


class Participant:
    """One participant and its database.

    `patience` is a verdict's lock timeout, `standby` the longest time that a commit waits for one, both in seconds;
    `fickle` is how often the business refuses for no reason.
    """

    patience: float | None = _BRIEF_SECONDS

    def __init__(self, name: str, chance: random.Random, tell: Told, *, accounts: int, opening: int) -> None:
        self.name = name
        self.database = Database(accounts, opening)
        self.identity = types.DatabaseIdentity(system_identifier=f"7{name}", timeline=1, database=name)
        self.up = True
        self.epoch: Epoch | None = None
        self.position = 0
        self.fickle = 0.0
        self.standby = 0.0
        self._horizons: dict[Epoch, int] = {}
        self._batch: tuple[list[str], asyncio.Future[list[bool]]] | None = None
        self._finishing = asyncio.Semaphore(_FINISHING)
        self._chance = chance
        self._tell = tell
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._lives = 0

    # --- its life -------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Works on a call; whoever waits may go away."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._over)
        return task

    def crash(self) -> None:
        """The process dies, with all its sessions."""
        self.up = False
        self._lives += 1
        self.crash_database()

    def crash_database(self) -> None:
        """Its server is stopped at once, and started."""
        self.database.crash()
        self._lose_sessions()

    def fail_over(self, *, lost: int) -> tuple[Record, ...]:
        """A standby takes its server's place, without the last `lost` records, and on a timeline of its own."""
        gone = self.database.fail_over(lost=lost)
        self._lose_sessions()
        self.identity = types.DatabaseIdentity(
            system_identifier=self.identity.system_identifier,
            timeline=self.database.timeline,
            database=self.identity.database,
        )
        return gone

    def _lose_sessions(self) -> None:
        self._batch = None
        self._finishing = asyncio.Semaphore(_FINISHING)
        for task in tuple(self._tasks):
            task.cancel()

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()

    async def _pause(self, longest: float = 0.004) -> None:
        await asyncio.sleep(self._chance.uniform(0, longest))

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
            operations=[pb.OperationDescription(name="move"), pb.OperationDescription(name="look", read_only=True)],
            last_epoch=None if last is None else types.Epoch(number=last.number, nonce=last.nonce),
            highest_position=self.position,
        )

    def prune(self, epoch: Epoch, sequence: int) -> None:
        """Prunes below a horizon, and refuses what is below it from then on."""
        self._horizons[epoch] = max(sequence, self._horizons.get(epoch, 0))
        for gid in tuple(self.database.ledger):
            if self.is_forgotten(gid):
                del self.database.ledger[gid]

    def is_forgotten(self, gid: str) -> bool:
        """Whether it lies below its epoch's horizon."""
        txid = Gid.parse(gid).txid
        return txid.sequence < self._horizons.get(txid.epoch, 0)

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
            return pb.PrepareResponse(vote=types.VOTE_NO, refusal=_refusal(error), identity=self.identity)
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

    async def _work(self, work: Work, gid: str, operations: Any) -> None:
        if gid in self.database.ledger or gid in self.database.prepared:
            raise UniqueViolation(gid)
        if self._chance.random() < self.fickle:
            raise Refused("CLOSED")
        for operation in operations:
            if operation.name == "look":
                continue
            move = json.loads(operation.payload.json)
            await self.database.lock(work, f"account {move['account']}", timeout=_LOCK_SECONDS)
            await self._pause()
            if self.database.balance(work, move["account"]) + move["amount"] < 0:
                raise Refused("NOT_ENOUGH")
            work.changes.append((move["transfer"], move["account"], move["amount"]))
        await self._insert(work, gid, Row("applied"), timeout=_LOCK_SECONDS)

    async def _insert(self, work: Work, gid: str, row: Row, *, timeout: float | None) -> None:
        """A row of the ledger, whose trigger looks at the horizon. Raises as `Database.insert`, and `Forgotten`."""
        if self.is_forgotten(gid):
            raise Forgotten(gid)
        await self.database.insert(work, gid, row, timeout=timeout)

    async def apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        work = Work()
        try:
            await self._work(work, request.gid, request.operations)
            await self._pause(self.standby)
            self.database.end(work, commit=True)
            self._tell(self.name, f"applies {short(request.gid)}")
            return pb.ApplyResponse(outcome=pb.APPLY_OUTCOME_APPLIED, identity=self.identity)
        except LockTimeout as error:
            self.database.end(work, commit=False)
            return pb.ApplyResponse(outcome=pb.APPLY_OUTCOME_RETRY, refusal=_refusal(error), identity=self.identity)
        except Refused as error:
            self.database.end(work, commit=False)
            try:
                await self._verdict(request.gid, Row("refused"))
            except UniqueViolation:
                return self._from_row(request.gid)
            return pb.ApplyResponse(outcome=pb.APPLY_OUTCOME_REFUSED, refusal=_refusal(error), identity=self.identity)
        except UniqueViolation:
            self.database.end(work, commit=False)
            return self._from_row(request.gid)
        except Forgotten:
            self.database.end(work, commit=False)
            raise

    def _from_row(self, gid: str) -> pb.ApplyResponse:
        outcomes = {
            "applied": pb.APPLY_OUTCOME_APPLIED,
            "refused": pb.APPLY_OUTCOME_REFUSED,
            "tombstone": pb.APPLY_OUTCOME_TOMBSTONE,
        }
        return pb.ApplyResponse(outcome=outcomes[self.database.ledger[gid].outcome], identity=self.identity)

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
            try:
                self.database.finish(request.gid, commit=False)
                self._tell(self.name, f"rolls back {short(request.gid)}")
                return pb.AbortResponse(outcome=pb.ABORT_OUTCOME_ABORTED, identity=self.identity)
            except UndefinedObject:
                outcome = await self.bar(request.gid, _DECISIONS[request.decision])
        outcomes = {
            "applied": pb.ABORT_OUTCOME_APPLIED,
            "refused": pb.ABORT_OUTCOME_REFUSED,
            "tombstone": pb.ABORT_OUTCOME_ABORTED,
        }
        return pb.AbortResponse(outcome=outcomes[outcome], identity=self.identity)

    async def bar(self, gid: str, decision: str) -> str:
        """Places the tombstone, or says what is there. Raises `LockTimeout` while the branch is still running."""
        try:
            await self._verdict(gid, Row("tombstone", decision))
        except UniqueViolation:
            return self.database.ledger[gid].outcome
        return "tombstone"

    async def _verdict(self, gid: str, row: Row) -> None:
        work = Work()
        try:
            await self._insert(work, gid, row, timeout=self.patience)
            await self._pause()
            self.database.end(work, commit=True)
            self._tell(self.name, f"writes {row.outcome} for {short(gid)}")
        except (UniqueViolation, LockTimeout, Forgotten):
            self.database.end(work, commit=False)
            raise

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
        rows = [(gid, row) for gid, row in self.database.ledger.items() if gid.startswith(names)]
        return pb.InspectResponse(
            entries=[
                pb.LedgerEntry(
                    gid=gid,
                    kind=types.BRANCH_KIND_WORK,
                    outcome=_OUTCOMES[row.outcome],
                    decision=_BACK.get(row.decision, types.DECISION_UNSPECIFIED),
                )
                for gid, row in rows
            ],
            prepared_gids=prepared,
            identity=self.identity,
        )


def _refusal(error: Exception) -> types.Refusal:
    match error:
        case Refused():
            return types.Refusal(kind=types.REFUSAL_KIND_BUSINESS, code=str(error), message="refused")
        case LockTimeout():
            return types.Refusal(kind=types.REFUSAL_KIND_CONFLICT, code="55P03", message="busy", retryable=True)
        case _:
            return types.Refusal(kind=types.REFUSAL_KIND_ABORTED, code="ABORTED", message="barred")


def short(gid: str) -> str:
    """Which transaction and branch, for people: epoch.sequence/branch."""
    _, _, epoch, _, sequence, branch = gid.split("-")
    return f"{int(epoch, 16)}.{int(sequence, 16)}/{int(branch, 16)}"
