"""The steps of the second phase, of recovery and of the handshake, without I/O.

Lives here: how a branch ends once it is decided, what proves it (the ledger, R7 and R11), and what is read of it. The
steps are generators as in `branch`, each of them idempotent (R8): run again from the start, they reach the same answer.
Must not live here: retrying, connections, threads (`lanes`, `resource`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import psycopg

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Gid, InvalidName, Txid
from twophase.participant import ledger
from twophase.participant.barring import BRIEF, ROUNDS, Vanished, ask, bar, row_of, said
from twophase.participant.branch import by_row
from twophase.participant.errors import ParticipantError
from twophase.participant.exchanges import COMMIT, Exchange, Statement, Steps, brief_transaction
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    CannotFinish,
    Committed,
    Inspection,
    Lost,
    OutcomeUnknown,
    PreparedBranch,
    PreparedBranches,
    RefusedForGood,
    Remembered,
    Tombstoned,
)
from twophase.participant.refusals import ConnectionGone
from twophase.v1 import participant_pb2, types_pb2

_T = TypeVar("_T")

_PRUNED_AT_ONCE: Final = 5_000

_POINTS: Final = {
    "COMMIT": (CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED, CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED),
    "ROLLBACK": (CrashPoint.PARTICIPANT_BEFORE_ROLLBACK_PREPARED, CrashPoint.PARTICIPANT_AFTER_ROLLBACK_PREPARED),
}


class Busy(ParticipantError):
    """Another session is at this prepared branch at this very moment (55000); worth an immediate retry."""


def commit(gid: Gid) -> Steps[Committed | Lost]:
    """COMMIT PREPARED; if it is not there, what the ledger says; if that says nothing, a tombstone and `Lost` (R11).

    Raises `Busy`, `OutcomeUnknown`, `CannotFinish`, `Forgotten`, `StillRunning`.
    """
    for _ in range(ROUNDS):
        if (yield from _finish("COMMIT", gid)):
            return Committed()
        entry = yield from row_of(gid, types_pb2.BRANCH_KIND_WORK, query=ledger.SELECT_ROW_OF_PREPARED)
        if entry is None:
            try:
                entry = yield from bar(gid, types_pb2.BRANCH_KIND_WORK, types_pb2.DECISION_COMMIT)
            except Vanished:
                continue
        return Committed() if entry.outcome == participant_pb2.LEDGER_OUTCOME_APPLIED else Lost()
    raise OutcomeUnknown(f"the ledger row of {gid} came and went while it was being committed; ask again")


def abort(
    gid: Gid, kind: types_pb2.BranchKind.ValueType, decision: types_pb2.Decision.ValueType
) -> Steps[Aborted | Tombstoned | RefusedForGood | Applied]:
    """ROLLBACK PREPARED; if it is not there, a tombstone; if its key is taken, what the row there says.

    Raises `StillRunning` (the branch holds the key: start again, it may be prepared by now), `Busy`, `OutcomeUnknown`,
    `CannotFinish`, `Forgotten`.
    """
    for _ in range(ROUNDS):
        # Only work is ever prepared: a compensation must not touch the branch whose name it bears.
        if kind == types_pb2.BRANCH_KIND_WORK and (yield from _finish("ROLLBACK", gid)):
            return Aborted()
        try:
            return by_row((yield from bar(gid, kind, decision)))
        except Vanished:
            continue
    raise OutcomeUnknown(f"the ledger row of {gid} came and went while it was being aborted; ask again")


def list_prepared(journal_id: str) -> Steps[PreparedBranches]:
    """The prepared branches of one journal in this database. Raises `OutcomeUnknown`."""
    return PreparedBranches((yield from _prepared(journal_id, ledger.range_of_journal(journal_id))))


def inspect(journal_id: str, txid: Txid) -> Steps[Inspection]:
    """The prepared branches of a transaction, then its rows: what is committed in between is seen in one of them.

    Raises `OutcomeUnknown`.
    """
    names = ledger.range_of_transaction(journal_id, txid)
    prepared = yield from _prepared(journal_id, names)
    (rows,) = yield from ask(Statement(ledger.SELECT_ROWS.encode(), names))
    return Inspection(
        entries=tuple(ledger.entry_of(row) for row in rows.rows),
        prepared=tuple(sorted(branch.gid for branch in prepared)),
    )


def inspect_all(journal_id: str, txids: frozenset[Txid]) -> Steps[Inspection]:
    """The same for many transactions, without the results and refusals in their rows. Raises `OutcomeUnknown`."""
    prepared = yield from _prepared(journal_id, ledger.range_of_journal(journal_id))
    ranges = [ledger.range_of_transaction(journal_id, txid) for txid in sorted(txids)]
    bounds = {"lows": [each["low"] for each in ranges], "highs": [each["high"] for each in ranges]}
    (rows,) = yield from ask(Statement(ledger.SELECT_ROWS_OF_ALL.encode(), bounds))
    return Inspection(
        entries=tuple(ledger.entry_of(row) for row in rows.rows),
        prepared=tuple(sorted(branch.gid for branch in prepared if branch.gid.txid in txids)),
    )


def remember(journal_id: str, epoch: Epoch, horizons: Mapping[Epoch, int]) -> Steps[Remembered]:
    """Keeps the journal's epoch and horizons, and prunes below them, in one transaction; tells what was known before.

    Raises `OutcomeUnknown`.
    """
    journal = {"journal": journal_id, "number": epoch.number, "nonce": epoch.nonce}
    *_, touched, known, highest = yield from ask(
        *brief_transaction(BRIEF * ROUNDS),
        Statement(ledger.DURABLE.encode(), {}),
        Statement(ledger.TOUCH_JOURNAL.encode(), journal),
        Statement(ledger.LOCK_JOURNAL.encode(), journal),
        Statement(ledger.HIGHEST_POSITION.encode(), journal),
    )
    ((number, nonce, pruned),) = known.rows
    ((position,),) = highest.rows
    writes = [Statement(ledger.RAISE_EPOCH.encode(), journal)]
    for owner, sequence in horizons.items():
        horizon = {"epoch": f"{journal_id}-{owner}", "sequence": sequence}
        below = {**ledger.range_below(journal_id, owner, sequence), "journal": journal_id, "limit": _PRUNED_AT_ONCE}
        writes.append(Statement(ledger.RAISE_HORIZON.encode(), horizon))
        writes.append(Statement(ledger.PRUNE.encode(), below))
    reach(CrashPoint.PARTICIPANT_BEFORE_REMEMBER)
    if horizons:
        reach(CrashPoint.PARTICIPANT_BEFORE_PRUNE)
    *_, ended = replies = yield from ask(*writes, COMMIT)
    if horizons:
        reach(CrashPoint.PARTICIPANT_AFTER_PRUNE)
    reach(CrashPoint.PARTICIPANT_AFTER_REMEMBER)
    if ended.tag != "COMMIT":
        raise OutcomeUnknown(f"the handshake of the journal {journal_id} was not committed: {ended.tag}")
    if ended.unreplicated:
        raise OutcomeUnknown(
            f"the handshake of the journal {journal_id} is committed on this server, but the wait for its synchronous"
            " standby was cut short; ask again"
        )
    # After the first statement they come in pairs: a horizon, and what was pruned below it.
    pruned_rows = [rows[0][0] for rows in (reply.rows for reply in replies[2:-1:2]) if rows]
    return Remembered(
        last_epoch=None if touched.rows else Epoch(number, nonce),
        highest_position=max(position, pruned),
        pruning_left=any(count >= _PRUNED_AT_ONCE for count in pruned_rows),
    )


def recall(journal_id: str) -> Steps[Remembered]:
    """What is known of a journal. Writes nothing, so that whoever asks leaves no trace. Raises `OutcomeUnknown`."""
    journal = {"journal": journal_id}
    known, highest = yield from ask(
        Statement(ledger.READ_JOURNAL.encode(), journal), Statement(ledger.HIGHEST_POSITION.encode(), journal)
    )
    ((position,),) = highest.rows
    if not known.rows:
        return Remembered(last_epoch=None, highest_position=position)
    ((number, nonce, pruned),) = known.rows
    return Remembered(last_epoch=Epoch(number, nonce), highest_position=max(position, pruned))


def _finish(verb: str, gid: Gid) -> Steps[bool]:
    """COMMIT or ROLLBACK PREPARED. False if nothing is prepared under that name."""
    before, after = _POINTS[verb]
    reach(before)
    try:
        (reply,) = yield Exchange((Statement(f"{verb} PREPARED '{gid}'".encode()),))
        reach(after)
    except ConnectionGone as gone:
        raise OutcomeUnknown(f"the connection was lost during {verb} PREPARED of {gid}; ask again") from gone
    except psycopg.errors.UndefinedObject:
        return False
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise Busy(f"another session is finishing {gid}; ask again") from error
    except psycopg.errors.FeatureNotSupported as error:
        raise CannotFinish(
            f"{gid} is prepared in another database of this cluster ({said(error)}); it was left alone."
            " Point the participant's DSN at the database in which it was prepared."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise CannotFinish(
            f"{gid} is prepared by another role ({said(error)}); it is the one in pg_prepared_xacts.owner."
            " Connect as that role, or let it finish the branch in psql."
        ) from error
    except psycopg.Error as error:
        raise OutcomeUnknown(f"{verb} PREPARED of {gid} failed: {said(error)}; ask again") from error
    if reply.tag != f"{verb} PREPARED":
        raise OutcomeUnknown(f"{verb} PREPARED of {gid} was answered {reply.tag!r}; ask again")
    return True


def _prepared(journal_id: str, names: Mapping[str, str]) -> Steps[tuple[PreparedBranch, ...]]:
    (found,) = yield from ask(Statement(ledger.PREPARED.encode(), names))
    branches = []
    for name, age in found.rows:
        try:
            gid = Gid.parse(name)
        except InvalidName:
            continue  # it begins like one of ours, and is not: somebody else's (R9)
        if gid.journal == journal_id:
            branches.append(PreparedBranch(gid=gid, age=age))
    return tuple(branches)
