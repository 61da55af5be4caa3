"""The participant's resource manager: branches over Postgres, as coroutines.

Lives here: what `service` calls: in which order the steps are run, what is remembered, retries. Must not live here: SQL
(`ledger`), the steps of a branch (`branch`), of its end (`finish`) and before its compensation (`compensate`),
duplicates (`running`), connections and threads (`lanes`, `finishing`), gRPC.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias, TypeVar

from psycopg import IsolationLevel
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Gid, Txid, check_journal_id, check_participant_name
from twophase.participant import branch as steps
from twophase.participant import compensate, finish
from twophase.participant.diagnose import diagnose
from twophase.participant.errors import NotReady
from twophase.participant.exchanges import Steps
from twophase.participant.finishing import FinishLane
from twophase.participant.lanes import AsyncWorkLane, Run, SyncWorkLane
from twophase.participant.observe import observe
from twophase.participant.outcomes import (
    Aborted,
    Answer,
    Applied,
    Committed,
    Diagnosis,
    Identity,
    Inspection,
    Lost,
    No,
    Observation,
    OutcomeUnknown,
    Prepared,
    PreparedBranches,
    ReadOnly,
    RefusedForGood,
    Remembered,
    Retry,
    StillRunning,
    Tombstoned,
    ToUndo,
)
from twophase.participant.preflight import preflight
from twophase.participant.refusals import ConnectionGone, NoConnection, TooLate, refusal, refusal_of
from twophase.participant.running import Kind, RunningBranches
from twophase.participant.terms import Branch
from twophase.participant.work import Deadline, Undo, Work
from twophase.v1 import types_pb2

_A = TypeVar("_A", bound=Answer)
_Vote: TypeAlias = Prepared | ReadOnly | No

_WORK: Final = types_pb2.BRANCH_KIND_WORK
_COMPENSATION: Final = types_pb2.BRANCH_KIND_COMPENSATION

# Votes of branches that are not finished, for a repeated Prepare. What is pushed out is answered from the database.
_VOTES: Final = 4_096
_LARGEST_RESULTS: Final = 16_384  # bytes; larger ones are not kept

# In seconds: how long a call of the second phase tries by itself before it asks to be asked again.
_PATIENCE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of the database a participant may use. Durations in seconds.

    `work_connections` run business code; `finish_connections` are kept apart for commit, abort and reading, so that
    work that waits for a row never starves the commit that would release it (R13). `lock_timeout` is the longest wait
    for one lock; each branch takes between half of it and all of it, so that the sides of a deadlock across databases,
    which no database sees, do not give up together. `isolation_level` is the database's default unless given.
    """

    work_connections: int = 8
    finish_connections: int = 4
    lock_timeout: float = 0.5
    isolation_level: IsolationLevel | None = None

    def __post_init__(self) -> None:
        if self.work_connections < 1 or self.finish_connections < 1:
            raise ValueError(
                f"{self.work_connections} work and {self.finish_connections} finish connections: each needs at least 1"
            )
        if self.lock_timeout <= 0:
            raise ValueError(f"lock_timeout {self.lock_timeout} s is not greater than 0")


class ResourceManager:
    """Runs, prepares and finishes branches in one database.

    Every call may be repeated, and may come twice at once: work is done once, and everyone gets its answer. Whoever
    stops waiting (cancellation) stops nothing: the branch goes on, and its answer is kept.
    """

    def __init__(self, participant: str, dsn: str, *, settings: Settings | None = None) -> None:
        """Raises `InvalidName`. Nothing is connected before `open`."""
        self._participant = check_participant_name(participant)
        self._dsn = dsn
        self._settings = settings or Settings()
        level = self._settings.isolation_level
        self._begin = "BEGIN" if level is None else f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}"
        self._identity: Identity | None = None
        self._finish: FinishLane | None = None
        self._sync: SyncWorkLane | None = None
        self._async: AsyncWorkLane | None = None
        self._branches = RunningBranches()
        self._votes: OrderedDict[Gid, _Vote] = OrderedDict()
        self._looking = asyncio.Lock()

    async def open(self) -> None:
        """Checks the database and connects. Raises `NotReady`, with what to type."""
        self._identity = await asyncio.to_thread(
            preflight, self._dsn, self._participant, connections=self._settings.work_connections
        )
        self._finish = FinishLane(self._dsn, self._participant, size=self._settings.finish_connections)

    async def close(self) -> None:
        """Waits for everything that runs, then disconnects."""
        await self._branches.ended()
        lanes = (self._sync, self._async, self._finish)
        self._sync = self._async = self._finish = None
        for lane in lanes:
            if lane is not None:
                await lane.close()

    @property
    def identity(self) -> Identity:
        """The database, as the latest session read it. Raises `NotReady` before `open`."""
        seen = self._finish.identity if self._finish is not None else None
        if seen is None and self._identity is None:
            raise NotReady(f"the participant {self._participant!r} is not open", "await manager.open()")
        return seen or self._identity  # type: ignore[return-value]  # one of them is not None

    async def prepare(self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes) -> _Vote:
        """Does the work and prepares it. The answer is the vote. Raises `OutcomeUnknown`: never a vote; abort it.

        A repetition joins the running call, gets the same vote after it, or the ledger's answer.
        """
        vote = self._votes.get(gid)
        if vote is not None:
            return vote
        terms = self._terms(gid, _WORK, deadline, position, fingerprint, work, read_only=work.read_only)
        try:
            vote = await self._branches.join(("prepare", gid, _WORK), terms, partial(self._prepare, terms, work))
        except _NOT_STARTED as error:
            return No(refusal_of(error))
        reach(CrashPoint.PARTICIPANT_BEFORE_VOTE)
        return vote

    async def apply(
        self,
        gid: Gid,
        work: Work,
        *,
        deadline: Deadline,
        position: int,
        fingerprint: bytes,
        must_succeed: bool = False,
    ) -> Applied | RefusedForGood | Retry | Tombstoned:
        """Does the work and commits it locally, once; repetitions are answered from the ledger.

        With `must_succeed` no refusal is final: it is answered with `Retry`, and leaves no row. Raises `OutcomeUnknown`
        (repeat it, or abort it) and `Forgotten`.
        """
        terms = self._terms(gid, _WORK, deadline, position, fingerprint, work, must_succeed=must_succeed)
        try:
            return await self._branches.join(
                ("apply", gid, _WORK), terms, lambda runs: self._run(steps.apply, terms, work, runs)
            )
        except _NOT_STARTED as error:
            return _not_yet(error)

    async def compensate(
        self, gid: Gid, undo: Undo, *, deadline: Deadline, position: int, fingerprint: bytes
    ) -> Applied | RefusedForGood | Retry | Tombstoned:
        """Undoes a branch's work in a transaction of its own, once; or makes sure that there is nothing to undo, ever.

        Work that still runs in this process is stopped first. Never `RefusedForGood`. Raises `StillRunning` and
        `OutcomeUnknown` (repeat it), and `Forgotten`.
        """
        terms = self._terms(gid, _COMPENSATION, deadline, position, fingerprint)
        return await self._branches.join(
            ("apply", gid, _COMPENSATION), terms, lambda runs: self._compensate(terms, undo, runs)
        )

    async def commit(self, gid: Gid) -> Committed | Lost:
        """Commits a prepared branch; `Lost` only with a committed tombstone as the proof.

        Raises `OutcomeUnknown` and `StillRunning` (repeat it), `CannotFinish` and `Forgotten`.
        """
        heard = None if self._finish is None else self._finish.commit(gid)
        answer: Committed | Lost | None = None if heard is None else await heard
        if answer is None:
            answer = await self._branches.shielded(self._patiently(lambda: finish.commit(gid)))
        self._votes.pop(gid, None)
        return answer

    async def abort(
        self, gid: Gid, kind: Kind, decision: types_pb2.Decision.ValueType
    ) -> Aborted | Tombstoned | RefusedForGood | Applied:
        """Makes sure that a branch is not applied, or says that it was. Stops it first if it runs in this process.

        Raises `StillRunning` and `OutcomeUnknown` (repeat it), `CannotFinish` and `Forgotten`.
        """
        return await self._branches.shielded(self._abort(gid, kind, decision))

    async def list_prepared(self, journal_id: str) -> PreparedBranches:
        """The prepared branches of one journal, here. Raises `OutcomeUnknown` (repeat it) and `InvalidName`."""
        check_journal_id(journal_id)
        return await self._patiently(lambda: finish.list_prepared(journal_id))

    async def inspect(self, journal_id: str, txid: Txid) -> Inspection:
        """The rows and prepared branches of one transaction. Raises `OutcomeUnknown` (repeat it) and `InvalidName`."""
        check_journal_id(journal_id)
        return await self._patiently(lambda: finish.inspect(journal_id, txid))

    async def inspect_all(self, journal_id: str, txids: frozenset[Txid]) -> Inspection:
        """The same for many transactions, without results and refusals. Raises as `inspect`."""
        check_journal_id(journal_id)
        return await self._patiently(lambda: finish.inspect_all(journal_id, txids))

    async def remember(self, journal_id: str, epoch: Epoch, horizons: Mapping[Epoch, int]) -> Remembered:
        """Keeps a journal's epoch and horizons durably, and prunes below them; tells what was known before.

        Raises `OutcomeUnknown` (repeat it) and `InvalidName`.
        """
        check_journal_id(journal_id)
        return await self._branches.shielded(self._patiently(lambda: finish.remember(journal_id, epoch, horizons)))

    async def observe(self, journal_id: str) -> Observation:
        """What the prepared branches of one journal hold here, and who waits for them, over a connection of its own.

        Raises `OutcomeUnknown` (ask again), `NotReady` on a standby, and `InvalidName`.
        """
        check_journal_id(journal_id)
        return await self._look(partial(observe, self._dsn, self._participant, journal_id))

    async def diagnose(self, journal_id: str) -> Diagnosis:
        """How the database is set up; prepared transactions of other journals are foreign. Raises `InvalidName`."""
        check_journal_id(journal_id)
        return await self._look(partial(diagnose, self._dsn, self._participant, journal_id))

    async def recall(self, journal_id: str) -> Remembered:
        """What is known of a journal, read only. Raises `OutcomeUnknown` (repeat it) and `InvalidName`."""
        check_journal_id(journal_id)
        return await self._patiently(lambda: finish.recall(journal_id))

    def _terms(
        self,
        gid: Gid,
        kind: Kind,
        deadline: Deadline,
        position: int,
        fingerprint: bytes,
        work: Work | None = None,
        *,
        read_only: bool = False,
        must_succeed: bool = False,
    ) -> Branch:
        longest = self._settings.lock_timeout
        return Branch(
            gid=gid,
            kind=kind,
            deadline=deadline,
            position=position,
            fingerprint=fingerprint,
            lock_timeout=random.uniform(longest / 2, longest),  # noqa: S311 - jitter
            read_only=read_only,
            must_succeed=must_succeed,
            begin=self._begin,
            running=str if work is None else lambda: work.running,
        )

    def _prepare(self, terms: Branch, work: Work, runs: set[Run]) -> asyncio.Future[_Vote]:
        voting = self._run(steps.prepare, terms, work, runs)
        voting.add_done_callback(partial(self._keep_answer, terms.gid))
        return voting

    def _keep_answer(self, gid: Gid, voting: asyncio.Future[_Vote]) -> None:
        if not voting.cancelled() and voting.exception() is None:
            self._keep_vote(gid, voting.result())

    async def _compensate(
        self, terms: Branch, undo: Undo, runs: set[Run]
    ) -> Applied | RefusedForGood | Retry | Tombstoned:
        await self._branches.stop(terms.gid, _WORK)
        claimed = await self._patiently(lambda: compensate.claim(terms.gid))
        if not isinstance(claimed, ToUndo):
            return claimed
        work = undo(claimed.results)
        try:
            return await self._run(steps.apply, replace(terms, running=lambda: work.running), work, runs)
        except _NOT_STARTED as error:
            return _not_yet(error)

    def _run(
        self, make: Callable[[Branch, str], Steps[_A]], terms: Branch, work: Work, runs: set[Run]
    ) -> asyncio.Future[_A]:
        """Raises `TooLate`; the rest is in the future."""
        if terms.deadline.left() == 0:
            raise TooLate("the deadline had passed when the work arrived; allow more time")
        lane = self._async_lane() if work.asynchronous else self._sync_lane()
        return lane.run(make, terms, work, runs)

    def _sync_lane(self) -> SyncWorkLane:
        if self._sync is None:
            self._sync = SyncWorkLane(self._dsn, self._participant, size=self._settings.work_connections)
        return self._sync

    def _async_lane(self) -> AsyncWorkLane:
        if self._async is None:
            self._async = AsyncWorkLane(self._dsn, self._participant, size=self._settings.work_connections)
        return self._async

    async def _abort(
        self, gid: Gid, kind: Kind, decision: types_pb2.Decision.ValueType
    ) -> Aborted | Tombstoned | RefusedForGood | Applied:
        await self._branches.stop(gid, kind)
        answer = await self._patiently(lambda: finish.abort(gid, kind, decision))
        if kind == _WORK and isinstance(answer, Aborted | Tombstoned):
            # A late copy of the Prepare would only be barred by a tombstone, and a rolled back branch has none.
            self._keep_vote(gid, No(refusal(types_pb2.REFUSAL_KIND_ABORTED, "the branch was told to abort")))
        return answer

    async def _patiently(self, make: Callable[[], Steps[_A]]) -> _A:
        """Runs steps of the second phase; where it is worth it, again for a moment."""
        lane = self._finish
        if lane is None:
            raise NotReady(f"the participant {self._participant!r} is not open", "await manager.open()")
        try:
            return await lane.run(make)
        except _AGAIN:
            pass
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_AGAIN),
                wait=wait_random_exponential(multiplier=0.02, max=0.2),
                stop=stop_after_delay(_PATIENCE),
                reraise=True,
            ):
                with attempt:
                    return await lane.run(make)
        except finish.Busy as error:
            raise OutcomeUnknown(str(error)) from error
        raise AssertionError("the last attempt raises")

    async def _look(self, question: Callable[[], _A]) -> _A:
        """One question of a person's at a time: together they must not take the connections that work needs."""
        async with self._looking:
            return await self._branches.shielded(asyncio.to_thread(question))

    def _keep_vote(self, gid: Gid, vote: _Vote) -> None:
        if isinstance(vote, Prepared | ReadOnly) and sum(map(_size, vote.results)) > _LARGEST_RESULTS:
            return
        self._votes[gid] = vote
        while len(self._votes) > _VOTES:
            self._votes.popitem(last=False)


_NOT_STARTED: Final = (ConnectionGone, NoConnection, TooLate)
_AGAIN: Final = (finish.Busy, StillRunning)


def _not_yet(error: Exception) -> Retry:
    reason = refusal_of(error)
    reason.retryable = True
    return Retry(reason)


def _size(payload: types_pb2.Payload) -> int:
    return payload.ByteSize()
