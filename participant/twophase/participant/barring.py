"""The steps that others are made of, without I/O: a question, the rows of a branch, the tombstone that bars it (R7).

Lives here: how one round trip ends that only asks, and what proves that a branch will never be applied. Must not live
here: when a branch is barred (`finish`, `compensate`), SQL (`ledger`).
"""

from __future__ import annotations

from typing import Final, LiteralString

import psycopg

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Gid
from twophase.participant import ledger
from twophase.participant.exchanges import COMMIT, ROLLBACK, Exchange, Reply, Statement, Steps, brief_transaction
from twophase.participant.outcomes import Entry, Forgotten, OutcomeUnknown, StillRunning
from twophase.participant.refusals import ConnectionGone
from twophase.v1 import participant_pb2, types_pb2

BRIEF: Final = 0.2
"""In seconds: a tombstone's wait for whoever holds its key, a running branch or a prepared one. Short, because the
answer to both is to start again."""

ROUNDS: Final = 3
"""How often steps begin again over a row that came and went."""

_POINTS: Final = (CrashPoint.PARTICIPANT_BEFORE_TOMBSTONE, CrashPoint.PARTICIPANT_AFTER_TOMBSTONE)


class Vanished(Exception):
    """A row barred the tombstone, and was gone when it was read: it was pruned in between."""


def ask(*statements: Statement) -> Steps[tuple[Reply, ...]]:
    """One round trip of which nothing but the answers matter. Raises `OutcomeUnknown`."""
    try:
        replies: tuple[Reply, ...] = yield Exchange(statements)
    except ConnectionGone as gone:
        raise OutcomeUnknown("the connection to the participant's database was lost; ask again") from gone
    except psycopg.Error as error:
        raise OutcomeUnknown(f"the participant's database refused: {said(error)}; ask again") from error
    return replies


def row_of(
    gid: Gid, kind: types_pb2.BranchKind.ValueType, *, query: LiteralString = ledger.SELECT_ROW
) -> Steps[Entry | None]:
    """One row of the ledger, if it is there: a proof, so that a synchronous standby has it. Raises `OutcomeUnknown`."""
    (reply,) = yield from ask(Statement(query.encode(), ledger.key_of(gid, kind)))
    _check_replicated(gid, reply)
    return ledger.entry_of(reply.rows[0]) if reply.rows else None


def deeds_of(gid: Gid) -> Steps[dict[types_pb2.BranchKind.ValueType, Entry]]:
    """The rows of a branch by their kind, as they are at one moment, each a proof. Raises `OutcomeUnknown`."""
    (reply,) = yield from ask(Statement(ledger.SELECT_DEEDS.encode(), {"gid": str(gid)}))
    _check_replicated(gid, reply)
    return {entry.kind: entry for entry in map(ledger.entry_of, reply.rows)}


def bar(
    gid: Gid,
    kind: types_pb2.BranchKind.ValueType,
    decision: types_pb2.Decision.ValueType,
    *,
    points: tuple[CrashPoint, CrashPoint] = _POINTS,
) -> Steps[Entry]:
    """The tombstone, committed, or the row that was there first. `points` are reached before and after it.

    Raises `StillRunning` (somebody holds the key: start again), `Vanished` (the same), `OutcomeUnknown`, `Forgotten`.
    """
    before, after = points
    row = ledger.tombstone(gid, kind, decision)
    reach(before)
    try:
        replies = yield Exchange((*brief_transaction(BRIEF), Statement(ledger.INSERT_VERDICT.encode(), row), COMMIT))
        reach(after)
    except ConnectionGone as gone:
        raise OutcomeUnknown(f"the connection was lost while {gid} was being barred; ask again") from gone
    except psycopg.errors.LockNotAvailable as error:
        yield from ask(ROLLBACK)
        raise StillRunning(f"{gid} is still running, or was prepared just now; ask again") from error
    except psycopg.Error as error:
        yield from ask(ROLLBACK)
        if ledger.is_below_horizon(error):
            raise Forgotten(f"{gid} lies below its epoch's horizon: its row may be pruned") from error
        if not ledger.is_taken(error):
            raise OutcomeUnknown(f"{gid} could not be barred: {said(error)}; ask again") from error
        found = yield from row_of(gid, kind)
        if found is None:
            raise Vanished from error
        return found
    if replies[-1].tag != "COMMIT":
        raise OutcomeUnknown(f"the tombstone of {gid} was not committed: {replies[-1].tag}; ask again")
    if replies[-1].unreplicated:
        raise OutcomeUnknown(
            f"{gid} is barred on this server, but the wait for its synchronous standby was cut short; ask again"
        )
    return Entry(
        gid=gid,
        kind=kind,
        outcome=participant_pb2.LEDGER_OUTCOME_TOMBSTONE,
        decision=decision,
        results=(),
        refusal=None,
        fingerprint=b"",
        position=0,
    )


def _check_replicated(gid: Gid, reply: Reply) -> None:
    if reply.unreplicated:
        raise OutcomeUnknown(
            f"the row of {gid} is on this server, but the wait for its synchronous standby was cut short; ask again"
        )


def said(error: psycopg.Error) -> str:
    """What the server said, in a few words."""
    return f"{error.sqlstate} {error.diag.message_primary}"
