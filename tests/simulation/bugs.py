"""Planted bugs: the system with one thing wrong. A seed must be found that shows each of them.

Lives here: the bugs. Must not live here: what is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from simulation.participants import Participant
from simulation.postgres import UndefinedObject, Work
from simulation.world import CALM, FAILED_OVER, MEDDLED, Setting, Transfer, World
from twophase.contract.names import Epoch
from twophase.coordinator.engine import peers, supervisor
from twophase.coordinator.engine.api import NeverSeen, Submission
from twophase.coordinator.engine.running import Running
from twophase.coordinator.engine.supervisor import Supervisor
from twophase.coordinator.engine.underway import Part
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.protocol.decisions import ABORT, Decision, Ending, Vote
from twophase.coordinator.protocol.events import ApplyLost, Event, Finished, Ruled
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types


@dataclass(frozen=True, slots=True)
class Bug:
    """What is wrong, and how it is planted: other parts, or a patch while the seeds run."""

    name: str
    parts: dict[str, Any] = field(default_factory=dict)
    plant: Callable[[], AbstractContextManager[Any]] = nullcontext
    setting: Setting = CALM


# --- the journal ------------------------------------------------------------------------------------------------------


class AnswersBeforeTheSync(MemoryJournal):
    """A decision is answered before it is on disk."""

    async def _force(self) -> None:
        return


# --- the coordinator --------------------------------------------------------------------------------------------------


def _lost_is_yes() -> AbstractContextManager[Any]:
    """A vote that was lost counts as yes."""
    vote = Running._vote

    async def lenient(self: Running, part: Part) -> Vote:
        found = await vote(self, part)
        return Vote.YES if found is Vote.LOST else found

    return patch.object(Running, "_vote", lenient)


def _abort_is_not_decided() -> AbstractContextManager[Any]:
    """An abort is carried out without a word to the journal."""
    propose = Running._propose

    async def hasty(self: Running, decision: Decision) -> None:
        if decision == ABORT:
            self.feed(Ruled(ABORT))
        else:
            await propose(self, decision)

    return patch.object(Running, "_propose", hasty)


def _unanswered_delegate_is_refused() -> AbstractContextManager[Any]:
    """A delegate that does not answer is taken to have refused."""
    feed = Running.feed

    def hasty(self: Running, event: Event) -> None:
        feed(self, Finished(event.branch, Ending.ABORTED) if isinstance(event, ApplyLost) else event)

    return patch.object(Running, "feed", hasty)


def _no_sweeps() -> AbstractContextManager[Any]:
    """Nobody looks for what was left behind."""
    return patch.object(Supervisor, "watch", lambda *_: None)


def _sweeps_believe_everybody() -> AbstractContextManager[Any]:
    """From which database and timeline an answer comes counts for votes, and not in a sweep."""
    return patch.object(supervisor, "_believe", lambda *_: None)


def _failover_is_no_alarm() -> AbstractContextManager[Any]:
    """A participant's new timeline is taken note of, and nobody is told."""
    return patch.object(peers, "_alarm_of_another_timeline", lambda *_: None)


class ActsOnWhatItReads(MemoryJournal):
    """What can be read when it opens counts as durable; the epoch that it gives itself does, too."""

    async def _force(self) -> None:
        if self._disk.holder is self and not self._opened:
            self._opened = True
            return
        await super()._force()

    _opened = False


class ForgetsTheRequest(World):
    """The client makes a new request id for every try."""

    def request(self, transfer: Transfer, attempt: int, seen: Epoch | NeverSeen) -> Submission:
        asked = super().request(transfer, attempt, seen)
        number = next(self._numbers)
        return Submission(f"{asked.request_id}/{number}", 1, seen, asked.calls, asked.deadline)


# --- the participants -------------------------------------------------------------------------------------------------


class WritesTheRowApart(Participant):
    """The ledger row of a commit follows in a transaction of its own."""

    async def commit(self, request: pb.CommitRequest) -> pb.CommitResponse:
        work = self.database.prepared.get(request.gid)
        row = work.rows.pop(request.gid, None) if work is not None else None
        try:
            self.database.finish(request.gid, commit=True)
        except UndefinedObject:
            return await super().commit(request)
        await self._pause()
        if row is not None:
            self.database.ledger[request.gid] = row
        return pb.CommitResponse(outcome=pb.COMMIT_OUTCOME_COMMITTED, identity=self.identity)


class TakesAnAbsentRowForNotApplied(Participant):
    """No row, so it was not applied; no tombstone says so."""

    async def bar(self, gid: str, decision: str) -> str:
        row = self.database.ledger.get(gid)
        return "tombstone" if row is None else row.outcome


class TakesUndefinedForDone(Participant):
    """COMMIT PREPARED finds nothing, so it was done before."""

    async def committed_before(self, gid: str) -> bool:
        return True


class RollsBackOnAge(Participant):
    """A branch that has been prepared for half a second is rolled back by its participant."""

    async def prepare(self, request: pb.PrepareRequest) -> pb.PrepareResponse:
        answer = await super().prepare(request)
        self.spawn(self._expire(request.gid))
        return answer

    async def _expire(self, gid: str) -> None:
        await asyncio.sleep(0.5)
        if gid in self.database.prepared:
            self.database.finish(gid, commit=False)


class ForgetsWhatItPrepared(Participant):
    """Its server runs without fsync: what was prepared is gone after a crash."""

    def crash_database(self) -> None:
        for gid in tuple(self.database.prepared):
            self.database.finish(gid, commit=False)
        super().crash_database()


class AnswersYesToARollback(Participant):
    """The command tag of PREPARE TRANSACTION is not looked at: in a failed transaction it says ROLLBACK."""

    async def prepare(self, request: pb.PrepareRequest) -> pb.PrepareResponse:
        answer = await super().prepare(request)
        if answer.vote == types.VOTE_NO and request.operations[0].name == "move":
            return pb.PrepareResponse(vote=types.VOTE_YES, identity=self.identity)
        return answer


class HasNoLedgerKey(Participant):
    """The ledger has no unique key: work that comes twice is done twice."""

    async def _work(self, work: Work, gid: str, operations: Any) -> None:
        self.database.ledger.pop(gid, None)
        await super()._work(work, gid, operations)


BUGS = (
    Bug("what is read at the start is not forced", {"journal": ActsOnWhatItReads}),
    Bug("a decision is answered before its sync", {"journal": AnswersBeforeTheSync}),
    Bug("a lost vote counts as yes", plant=_lost_is_yes),
    Bug("an abort is not decided", plant=_abort_is_not_decided),
    Bug("an unanswered delegate is taken for refused", plant=_unanswered_delegate_is_refused),
    Bug("nobody sweeps", plant=_no_sweeps),
    Bug("a retry under a new id", {"world": ForgetsTheRequest}),
    Bug("the ledger row is written apart", {"participant": WritesTheRowApart}),
    Bug("an absent row is taken for not applied", {"participant": TakesAnAbsentRowForNotApplied}),
    Bug("42704 is taken for success", {"participant": TakesUndefinedForDone}, setting=MEDDLED),
    Bug("a participant rolls back on age", {"participant": RollsBackOnAge}),
    Bug("a server without fsync", {"participant": ForgetsWhatItPrepared}),
    Bug("the command tag is not looked at", {"participant": AnswersYesToARollback}),
    Bug("a sweep believes every timeline", plant=_sweeps_believe_everybody, setting=FAILED_OVER),
    Bug("a failover is no alarm", plant=_failover_is_no_alarm, setting=FAILED_OVER),
    Bug("the ledger has no key", {"participant": HasNoLedgerKey}),
)
