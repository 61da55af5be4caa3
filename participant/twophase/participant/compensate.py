"""The steps that come before a compensation, without I/O: whether there is anything to undo, and that it stays so.

Lives here: the claim on the key of the work. A tombstone there means that nothing was done and, from then on, nothing
can be, however late a copy of the work arrives. Must not live here: the compensation itself, which is applied as work
is (`branch.apply`), and what undoes what (`operations`).
"""

from __future__ import annotations

from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.contract.names import Gid
from twophase.participant.barring import ROUNDS, Vanished, bar, deeds_of
from twophase.participant.branch import by_row, by_row_of_compensation
from twophase.participant.exchanges import Steps
from twophase.participant.outcomes import Applied, OutcomeUnknown, RefusedForGood, Retry, Tombstoned, ToUndo
from twophase.v1 import types_pb2

_WORK: Final = types_pb2.BRANCH_KIND_WORK
_COMPENSATION: Final = types_pb2.BRANCH_KIND_COMPENSATION
_POINTS: Final = (CrashPoint.PARTICIPANT_BEFORE_CLAIM, CrashPoint.PARTICIPANT_AFTER_CLAIM)


def claim(gid: Gid) -> Steps[ToUndo | Applied | Retry | Tombstoned]:
    """What the row of the work says, placed as a tombstone if there is none; or what the compensation's own row says.

    Idempotent, like the steps in `finish`. Raises `StillRunning` (the work holds its key: start again, it may be
    committed by now), `OutcomeUnknown` and `Forgotten`.
    """
    for _ in range(ROUNDS):
        deeds = yield from deeds_of(gid)
        if _COMPENSATION in deeds:
            return by_row_of_compensation(deeds[_COMPENSATION])
        work = deeds.get(_WORK)
        if work is None:
            try:
                work = yield from bar(gid, _WORK, types_pb2.DECISION_DELEGATED, points=_POINTS)
            except Vanished:
                continue
        match by_row(work):
            case Applied(results):
                return ToUndo(results)
            case RefusedForGood() | Tombstoned():
                return Tombstoned()
    raise OutcomeUnknown(f"the ledger row of {gid} came and went while it was being compensated; ask again")
