"""The drills in which two processes die: a coordinator and a participant, in work or in recovery.

Lives here: the pairs, and what each is for. Must not live here: single deaths (`crashes`).

A pair is chosen where the second death takes away what would have cleaned up after the first one.
"""

from __future__ import annotations

from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.stage import COORDINATOR, Stage
from twophase.sandbox.drill.values import Drill

_BANK: Final = NAMES[0]
_NTH: Final = 4


def pair(first: CrashPoint, second: CrashPoint, about: str) -> Drill:
    """Under load the coordinator dies at one point, and a participant at another before or after it is back."""

    async def act(stage: Stage) -> None:
        await stage.arm(_BANK, second, nth=_NTH)
        await stage.arm(COORDINATOR, first, nth=_NTH)
        await stage.dies(COORDINATOR, first)
        # Without a coordinator no more work comes: the participant may live until it is back.
        await stage.program(COORDINATOR).start()
        await stage.dies(_BANK, second)
        await stage.revive(_BANK)

    return Drill(f"{first.value} + {second.value}", about, act, (first, second))


def _in_recovery(cause: CrashPoint, recovery: CrashPoint, second: CrashPoint, about: str) -> Drill:
    """The coordinator dies at `cause` and again while it recovers; the participant dies of what recovery asks of it."""

    async def act(stage: Stage) -> None:
        await stage.arm(COORDINATOR, cause, nth=_NTH)
        await stage.dies(COORDINATOR, cause)
        # Armed only now: the next that is asked of it comes from recovery.
        await stage.arm(_BANK, second)
        await stage.start_armed(COORDINATOR, recovery)
        await stage.dies(COORDINATOR, recovery)
        await stage.program(COORDINATOR).start()
        await stage.dies(_BANK, second)
        await stage.revive(_BANK)

    return Drill(f"{recovery.value} + {second.value}", about, act, (cause, recovery, second))


PAIRS: Final = (
    pair(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.PARTICIPANT_BEFORE_VOTE,
        "nothing is decided, and a branch is prepared whose vote nobody heard",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.PARTICIPANT_AFTER_PREPARE,
        "nothing is decided, and the participant itself does not know that it prepared",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_WRITE,
        CrashPoint.PARTICIPANT_BEFORE_ROLLBACK_PREPARED,
        "the decision is lost in the writer's hands, and whoever is told of the abort dies of it",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_WRITE,
        CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED,
        "the decision is durable and untold, and who is told first dies before it commits",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_WRITE,
        CrashPoint.PARTICIPANT_AFTER_PREPARE,
        "the decision is durable and untold, and other branches are prepared and unheard",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.PARTICIPANT_AFTER_PREPARE,
        "decided, nobody told, and a participant dies with a vote in its hands",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED,
        "recovery commits, the answer is lost: the commit is repeated, and finds no prepared branch",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_COMMIT,
        CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED,
        "the commit fails to leave, and then to arrive",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_COMMIT,
        CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED,
        "committed twice over, and both answers are lost",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_END,
        CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED,
        "everything is applied and not written down as ended: recovery asks who has already forgotten",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_ABORT,
        CrashPoint.PARTICIPANT_AFTER_ROLLBACK_PREPARED,
        "the abort is repeated to a participant that has rolled back and forgotten it",
    ),
    pair(
        CrashPoint.COORDINATOR_AFTER_ABORT,
        CrashPoint.PARTICIPANT_BEFORE_TOMBSTONE,
        "the participant dies before it barred a branch that may still arrive",
    ),
    pair(
        CrashPoint.COORDINATOR_BEFORE_APPLY,
        CrashPoint.PARTICIPANT_AFTER_LOCAL_COMMIT,
        "delegated twice: to one that never heard of it, and to one that did it and could not say so",
    ),
)

RECOVERIES: Final = (
    _in_recovery(
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.RECOVERY_BEFORE_TAKE_UP,
        CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED,
        "recovery carries out a commit, and the participant dies before it does",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.RECOVERY_AFTER_TAKE_UP,
        CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED,
        "recovery carries out a commit, and the participant dies after it did",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.RECOVERY_BEFORE_PRESUME,
        CrashPoint.PARTICIPANT_BEFORE_ROLLBACK_PREPARED,
        "recovery presumes abort, and the participant dies before it rolls back",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.RECOVERY_AFTER_PRESUME,
        CrashPoint.PARTICIPANT_AFTER_ROLLBACK_PREPARED,
        "recovery presumes abort, and the participant dies after it rolled back",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.RECOVERY_AFTER_PRESUME,
        CrashPoint.PARTICIPANT_BEFORE_TOMBSTONE,
        "recovery presumes abort of a branch that was never prepared, and the participant dies before it is barred",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.RECOVERY_BEFORE_SWEEP,
        CrashPoint.PARTICIPANT_BEFORE_REMEMBER,
        "the participant dies at the greeting of a coordinator that dies at its sweep",
    ),
    _in_recovery(
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.RECOVERY_AFTER_SWEEP,
        CrashPoint.PARTICIPANT_AFTER_REMEMBER,
        "the participant has remembered an epoch whose coordinator dies at its sweep",
    ),
)
