"""What a participant commits by itself: a delegated branch, a step of a saga, a compensation.

Lives here: `Apply`, in the order in which the library does it, with pauses in which others come in between. Must not
live here: two phases (`participants`), what all of it stands on (`sites`).
"""

from __future__ import annotations

from simulation.deeds import key_of, short
from simulation.postgres import LockTimeout, Row, UniqueViolation, Work
from simulation.sites import LOCK_SECONDS, Forgotten, NotNow, Refused, Site, refusal
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types

_OUTCOMES = {
    "applied": pb.APPLY_OUTCOME_APPLIED,
    "refused": pb.APPLY_OUTCOME_REFUSED,
    "tombstone": pb.APPLY_OUTCOME_TOMBSTONE,
}
_BARRED = types.Refusal(kind=types.REFUSAL_KIND_ABORTED, code="ABORTED", message="somebody resolved it")


class Stepping(Site):
    """A participant whose branches may commit without a second phase."""

    async def apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        if request.kind == types.BRANCH_KIND_COMPENSATION:
            return await self.compensate(request)
        return await self.step(request)

    # --- work -----------------------------------------------------------------------------------------------------

    async def step(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        """Work, its row, COMMIT; or what is in the ledger already."""
        work = Work()
        try:
            await self._work(work, request.gid, request.operations)
            self._ask_its_mood()
            await self._pause(self.standby)
            self._commit_locally(work)
        except (Refused, NotNow, LockTimeout, UniqueViolation) as error:
            self.database.end(work, commit=False)
            return await self._refused(request, error)
        except Forgotten:
            self.database.end(work, commit=False)
            raise
        self.position = max(self.position, request.journal_position)
        self._tell(self.name, f"applies {short(request.gid)}")
        await self._pause()
        return self._applied("applied")

    def _ask_its_mood(self) -> None:
        if self._chance.random() < self.moody:
            raise NotNow

    async def _refused(self, request: pb.ApplyRequest, error: Exception) -> pb.ApplyResponse:
        """A twin's row answers, if there is one; else a row of its own, if the refusal is final."""
        row = self.database.ledger.get(request.gid)
        if row is not None:
            return self._applied(row.outcome)
        if not self.is_final(request, error):
            return self._not_now(request.gid, error)
        try:
            await self._verdict(request.gid, Row("refused"))
        except (UniqueViolation, LockTimeout):
            row = self.database.ledger.get(request.gid)
            return self._not_now(request.gid, error) if row is None else self._applied(row.outcome)
        return self._applied("refused", refusal(error))

    def is_final(self, request: pb.ApplyRequest, error: Exception) -> bool:
        """Whether a refusal leaves a row."""
        work = request.kind != types.BRANCH_KIND_COMPENSATION
        return work and isinstance(error, Refused) and not request.must_succeed

    # --- compensations --------------------------------------------------------------------------------------------

    async def compensate(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        """Undoes the work, once, or makes sure that there is nothing to undo, ever. No refusal of it leaves a row."""
        key = key_of(request.gid, request.kind)
        row = self.database.ledger.get(key)
        if row is not None:
            return self.by_own_row(key, row)
        if await self.claim(request.gid) != "applied":
            await self._pause()
            return self._applied("tombstone")
        await self._pause()
        work = Work()
        try:
            await self.undo(work, request.operations)
            self._ask_its_mood()
            await self.note(work, key)
            await self._pause(self.standby)
            self._commit_locally(work)
        except (Refused, NotNow, LockTimeout, UniqueViolation) as error:
            self.database.end(work, commit=False)
            row = self.database.ledger.get(key)
            return self.by_own_row(key, row) if row is not None else self._not_now(key, error)
        except Forgotten:
            self.database.end(work, commit=False)
            raise
        self.position = max(self.position, request.journal_position)
        self._tell(self.name, f"undoes {short(request.gid)}")
        await self._pause()
        return self._applied("applied")

    async def claim(self, gid: str) -> str:
        """What the row of the work says, placed as a tombstone if there is none. Raises `LockTimeout`."""
        row = self.database.ledger.get(gid)
        if row is not None:
            return row.outcome
        await self._pause()
        async with self._finishing:
            return await self.bar(gid, "delegated")

    async def note(self, work: Work, key: str) -> None:
        """The compensation's own row."""
        await self._insert(work, key, Row("applied"), timeout=LOCK_SECONDS)

    def by_own_row(self, key: str, row: Row) -> pb.ApplyResponse:
        """What a compensation's row answers: barred it was not done."""
        if row.outcome == "applied":
            return self._applied("applied")
        self.failures[key] += 1
        return pb.ApplyResponse(outcome=pb.APPLY_OUTCOME_RETRY, refusal=_BARRED, identity=self.identity)

    # --- answers --------------------------------------------------------------------------------------------------

    def _applied(self, outcome: str, why: types.Refusal | None = None) -> pb.ApplyResponse:
        return pb.ApplyResponse(outcome=_OUTCOMES[outcome], refusal=why, identity=self.identity)

    def _not_now(self, key: str, error: Exception) -> pb.ApplyResponse:
        self.failures[key] += 1
        why = refusal(error)
        why.retryable = True
        return pb.ApplyResponse(outcome=pb.APPLY_OUTCOME_RETRY, refusal=why, identity=self.identity)
