"""Participants and servers with one thing wrong.

Lives here: what is wrong with each. Must not live here: which setting shows it (`bugs`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from simulation.deeds import gid_of
from simulation.participants import Participant
from simulation.postgres import LockTimeout, Row, UndefinedObject, Work
from simulation.sites import Refused
from twophase.contract.names import Epoch, Gid
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types


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


class ListsByPrefix(Participant):
    """What is prepared is listed by the first characters of the journal's name (a LIKE, a truncated column)."""

    def is_ours(self, gid: str, journal_id: str) -> bool:
        return gid.startswith(f"tp-{journal_id[:8]}")


class FinishesByPrefix(Participant):
    """COMMIT PREPARED and ROLLBACK PREPARED go to whatever begins like the GID: transaction 1 matches 16 to 31."""

    def alike(self, gid: str) -> list[str]:
        """Numbers without leading zeros, compared by LIKE."""
        prefix = _unpadded(gid)
        return [other for other in self.database.prepared if _unpadded(other).startswith(prefix) and other != gid]

    async def abort(self, request: pb.AbortRequest) -> pb.AbortResponse:
        for gid in self.alike(request.gid):
            self.database.finish(gid, commit=False)
        return await super().abort(request)


class SyncsOnce(Participant):
    """A batch of COMMIT PREPARED has one Sync: after the first 42704 nothing of it is carried out, and it is reported
    like what was."""

    def send(self, gids: list[str]) -> list[bool]:
        there: list[bool] = []
        for gid in gids:
            there.append(not all(there) or self.was_there(gid))
        return there


class PutsBackWhatIsUnknown(Participant):
    """A connection whose work was cut short goes back into the pool as it is."""

    _left: Work | None = None

    def connection(self) -> Work:
        work, self._left = self._left, None
        return work or super().connection()

    def give_back(self, work: Work) -> None:
        self._left = work

    def crash_database(self) -> None:
        self._left = None
        super().crash_database()


class WaitsForTheTombstone(Participant):
    """A tombstone is written without a lock timeout: over a row that is prepared meanwhile it waits for ever, and keeps
    a connection of the second phase."""

    patience = None


class TakesBusyForAborted(Participant):
    """55P03 while the tombstone is written, since the branch still runs: it is taken for aborted."""

    async def bar(self, gid: str, decision: str) -> str:
        try:
            return await super().bar(gid, decision)
        except LockTimeout:
            return "tombstone"


class SwallowsWhatIsApplied(Participant):
    """A branch that is to be aborted, and is applied, is answered for as if it were aborted."""

    async def bar(self, gid: str, decision: str) -> str:
        outcome = await super().bar(gid, decision)
        return "tombstone" if outcome == "applied" and decision == "abort" else outcome


class IgnoresTheHorizon(Participant):
    """It prunes its rows, and then takes what is below the horizon for new."""

    def is_forgotten(self, gid: str) -> bool:
        return False

    def prune(self, epoch: Epoch, sequence: int) -> None:
        for key in tuple(self.database.ledger):
            txid = Gid.parse(gid_of(key)).txid
            if txid.epoch == epoch and txid.sequence < sequence:
                del self.database.ledger[key]


# --- sagas ------------------------------------------------------------------------------------------------------------


class ClaimsNothing(Participant):
    """A compensation that finds no row of the work answers that there is nothing to undo, and leaves no tombstone."""

    async def claim(self, gid: str) -> str:
        row = self.database.ledger.get(gid)
        return "tombstone" if row is None else row.outcome


class ClaimsAfterwards(Participant):
    """The tombstone of a compensation is placed after the answer."""

    async def claim(self, gid: str) -> str:
        row = self.database.ledger.get(gid)
        if row is None:
            self.spawn(self._claim_later(gid))
        return "tombstone" if row is None else row.outcome

    async def _claim_later(self, gid: str) -> None:
        await asyncio.sleep(0.1)
        await super().claim(gid)


class UndoesBeforeItClaims(Participant):
    """A compensation is run whether the work was done or not; then the key of the work is claimed."""

    async def claim(self, gid: str) -> str:
        return "applied"

    async def note(self, work: Work, key: str) -> None:
        await super().claim(gid_of(key))
        await super().note(work, key)


class UndoesWithoutARow(Participant):
    """A compensation writes no row of its own."""

    async def note(self, work: Work, key: str) -> None:
        return


class NotesTheCompensationApart(Participant):
    """The row of a compensation follows in a transaction of its own."""

    async def note(self, work: Work, key: str) -> None:
        self.spawn(self._note_later(key))

    async def _note_later(self, key: str) -> None:
        await asyncio.sleep(0.02)
        await self._verdict(key, Row("applied"))


class RefusesForGood(Participant):
    """A refusal is final, and leaves a row, also of a step that must succeed."""

    def is_final(self, request: pb.ApplyRequest, error: Exception) -> bool:
        return isinstance(error, Refused)


def _unpadded(gid: str) -> str:
    _, journal, epoch, nonce, sequence, _ = gid.split("-")
    return f"{journal}-{epoch}-{nonce}-{int(sequence, 16):x}"
