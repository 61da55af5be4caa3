"""The steps of a branch from BEGIN to its vote, without I/O.

Lives here: what is sent, in which order, and what each answer means. Each protocol is a generator: it yields an
`Exchange` (statements for one round trip) or `DoWork` (the business code), and is sent the replies or thrown the error;
`drivers` runs it on a sync or an async connection. Must not live here: connections, threads, clocks (but the deadline),
SQL of the ledger (`ledger`).
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.text import shorten
from twophase.participant import ledger
from twophase.participant.database import CLEAN, CLEAN_PREPARED
from twophase.participant.errors import ParticipantError
from twophase.participant.exchanges import (
    COMMIT,
    ROLLBACK,
    DoWork,
    Exchange,
    Reply,
    Statement,
    Steps,
    Worked,
    brief_transaction,
)
from twophase.participant.outcomes import (
    Applied,
    Entry,
    Forgotten,
    No,
    OutcomeUnknown,
    Prepared,
    ReadOnly,
    RefusedForGood,
    Results,
    Retry,
    Tombstoned,
)
from twophase.participant.refusals import (
    ENDED,
    SWALLOWED,
    Barred,
    ConnectionGone,
    Halted,
    TakesNoWrites,
    TooLate,
    TransactionTampered,
    refusal,
    refusal_of,
)
from twophase.participant.terms import Branch
from twophase.v1 import participant_pb2, types_pb2

log = logging.getLogger("twophase.participant")


class Stale(ParticipantError):
    """The session was lost before the branch began: nothing happened, and another connection may do."""


class WorkStopped(ParticipantError):
    """The driver stopped the business code, at the deadline or because the branch was told to stop."""


_COMPENSATION: Final = types_pb2.BRANCH_KIND_COMPENSATION

_DO_WORK: Final = DoWork()
_SELECT_ROW: Final = ledger.SELECT_ROW.encode()
_IS_PREPARED: Final = ledger.IS_PREPARED.encode()
_HEARD: Final = Statement(ledger.HEARD)
_INSERT_VERDICT: Final = ledger.INSERT_VERDICT.encode()


def prepare(branch: Branch, role: str) -> Steps[Prepared | ReadOnly | No]:
    """Work, ledger row, PREPARE TRANSACTION; or, read-only, work and ROLLBACK (R12). The answer is the vote.

    `role` is the session's, as `ledger.mark` wants it.
    Raises `Stale` (nothing happened) and `OutcomeUnknown` (the branch may be prepared).
    """
    try:
        yield from _begin(branch, role)
    except psycopg.Error as error:
        return No(_reason(branch, error))
    try:
        results = yield from _work(branch)
        if branch.read_only:
            yield from _leave_read_only(branch)
            return ReadOnly(results)
        yield from _prepare(branch, results)
        reach(CrashPoint.PARTICIPANT_AFTER_PREPARE)
    except OutcomeUnknown:
        raise
    except Exception as error:  # noqa: BLE001 - whatever business code raises is a no
        return (yield from _answer_no(branch, error))
    return Prepared(results)


def apply(branch: Branch, role: str) -> Steps[Applied | RefusedForGood | Retry | Tombstoned]:
    """Work, ledger row, COMMIT; or the answer that is in the ledger already (R7). A compensation is work, too.

    `role` as for `prepare`.
    Raises `Stale` (nothing happened), `OutcomeUnknown` (the branch may be committed) and `Forgotten`.
    """
    try:
        found = yield from _begin(branch, role, look=True)
    except psycopg.Error as error:
        return _retry(_reason(branch, error))
    if found is not None:
        yield from _confirm(branch, found)
        return _by_own_row(branch, ledger.entry_of(found))
    try:
        results = yield from _work(branch)
        yield from _commit(branch, results)
        reach(branch.point(CrashPoint.PARTICIPANT_AFTER_LOCAL_COMMIT, CrashPoint.PARTICIPANT_AFTER_COMPENSATION))
    except OutcomeUnknown:
        raise
    except Exception as error:  # noqa: BLE001 - whatever business code raises is a refusal
        return (yield from _answer_refused(branch, error))
    return Applied(results)


def by_row(entry: Entry) -> Applied | RefusedForGood | Tombstoned:
    """What a row of the ledger answers to everyone who asks for its branch."""
    match entry.outcome:
        case participant_pb2.LEDGER_OUTCOME_APPLIED:
            return Applied(entry.results)
        case participant_pb2.LEDGER_OUTCOME_REFUSED:
            return RefusedForGood(entry.refusal or types_pb2.Refusal())
        case _:
            return Tombstoned()


def by_row_of_compensation(entry: Entry) -> Applied | Retry:
    """What a compensation's own row answers. Barred it was not done, and TOMBSTONE would say that it need not be."""
    answer = by_row(entry)
    if isinstance(answer, Applied):
        return answer
    return Retry(
        refusal(types_pb2.REFUSAL_KIND_ABORTED, "the compensation was not done, and is barred: somebody resolved it")
    )


def _by_own_row(branch: Branch, entry: Entry) -> Applied | RefusedForGood | Retry | Tombstoned:
    return by_row_of_compensation(entry) if branch.kind == _COMPENSATION else by_row(entry)


def _confirm(branch: Branch, row: tuple[Any, ...]) -> Steps[None]:
    """Ends the transaction that found the row. It answers however that goes, unless a standby has to have it first."""
    try:
        (ended,) = yield Exchange((COMMIT,), cleaning=CLEAN)
    except (ConnectionGone, psycopg.Error) as error:  # a session that does not end this is closed
        if ledger.has_to_last(row):
            raise OutcomeUnknown(_unconfirmed(branch)) from error
        return
    if ended.unreplicated:
        raise OutcomeUnknown(_unconfirmed(branch))


def _unconfirmed(branch: Branch) -> str:
    return f"what {branch.gid} came to is on this server, but the wait for its synchronous standby was cut short"


def _begin(branch: Branch, role: str, *, look: bool = False) -> Steps[tuple[Any, ...] | None]:
    """BEGIN with everything that holds up to PREPARE, all of it local to the transaction (PgBouncer, R13).

    With `look`, the row that is there already.
    """
    left = branch.deadline.left()
    # At one instant Postgres would report the statement's timeout: the lock's comes first, so that it can be named.
    statement_ms = math.ceil(left * 1000) + 1
    lock_ms = max(1, min(int(branch.lock_timeout * 1000), statement_ms * 9 // 10))
    text = (
        f"{branch.begin}{' READ ONLY' if branch.read_only else ''}; {ledger.mark(branch.gid, role)};"
        f" SET LOCAL lock_timeout = {lock_ms}; SET LOCAL statement_timeout = {statement_ms};"
        # Code that waits for something else holds its rows no longer than its branch may take.
        f" SET LOCAL idle_in_transaction_session_timeout = {statement_ms}"
    )
    if look:
        text = f"{text}; {ledger.row_of(branch.gid, branch.kind)}"
    try:
        (reply,) = yield Exchange((Statement(text.encode()),))
    except ConnectionGone as gone:
        raise Stale from gone
    return reply.rows[0] if look and reply.rows else None


def _work(branch: Branch) -> Steps[Results]:
    """The business code, and whether it left things as it found them. Raises the reason for a no."""
    _check_time(branch, None)
    try:
        reach(branch.point(CrashPoint.PARTICIPANT_BEFORE_WORK, CrashPoint.PARTICIPANT_BEFORE_COMPENSATION))
        worked: Worked = yield _DO_WORK
        reach(CrashPoint.PARTICIPANT_AFTER_WORK)
    except WorkStopped as error:
        raise _halted_or_late(branch) from error
    except psycopg.Error as error:
        _check_time(branch, error)
        raise
    _check_time(branch, None)
    match worked.status:
        case TransactionStatus.INTRANS:
            return worked.results
        case TransactionStatus.INERROR:
            raise TransactionTampered(SWALLOWED)
        case TransactionStatus.ACTIVE:
            raise TransactionTampered("business code left a COPY, a stream or a pipeline unfinished; close it")
        case TransactionStatus.UNKNOWN:
            raise ConnectionGone("the connection to the participant's database was lost while the operation ran")
        case _:
            raise TransactionTampered(ENDED)


def _check_time(branch: Branch, error: Exception | None) -> None:
    if branch.halt.requested or branch.deadline.left() == 0:
        raise _halted_or_late(branch) from error


def _halted_or_late(branch: Branch) -> Halted | TooLate:
    if branch.halt.requested:
        return Halted("the branch was told to abort while it was running")
    return TooLate("the transaction's deadline passed before the branch was prepared; allow more time")


def _leave_read_only(branch: Branch) -> Steps[None]:
    ours, _ = yield Exchange((Statement(ledger.still_ours(branch.gid)), ROLLBACK), cleaning=CLEAN)
    if ours.rows != ((True,),):
        raise TransactionTampered(ENDED)


def _prepare(branch: Branch, results: Results) -> Steps[None]:
    reply = yield from _end(branch, results, Statement(f"PREPARE TRANSACTION '{branch.gid}'".encode()), CLEAN_PREPARED)
    # In a failed transaction Postgres answers ROLLBACK, and no error (its manual, PREPARE TRANSACTION, Notes).
    if reply.tag != "PREPARE TRANSACTION":
        raise TransactionTampered(f"PREPARE TRANSACTION answered {reply.tag!r}: {SWALLOWED}")


def _commit(branch: Branch, results: Results) -> Steps[None]:
    reply = yield from _end(branch, results, COMMIT, CLEAN)
    if reply.tag != "COMMIT":
        raise TransactionTampered(f"COMMIT answered {reply.tag!r}: {SWALLOWED}")


def _end(branch: Branch, results: Results, end: Statement, cleaning: bytes) -> Steps[Reply]:
    """The row and what makes it last, in one round trip. A server that says no has rolled back; a lost session tells
    nothing."""
    row = ledger.applied(branch.gid, branch.kind, results, fingerprint=branch.fingerprint, position=branch.position)
    try:
        *_, reply = yield Exchange((Statement(row), _HEARD, end), cleaning=cleaning)
    except ConnectionGone as gone:
        raise OutcomeUnknown(
            f"the connection was lost while {branch.gid} was being {_ending(end)}; whether it is, is not known"
        ) from gone
    except psycopg.Error as error:
        if ledger.is_not_our_transaction(error):
            raise TransactionTampered(ENDED) from error
        if ledger.is_below_horizon(error):
            raise Barred("the branch lies below its epoch's horizon: it ended long ago") from error
        if isinstance(error, psycopg.errors.QueryCanceled):
            _check_time(branch, error)
        raise
    answered: Reply = reply
    if answered.unreplicated:
        raise OutcomeUnknown(
            f"{branch.gid} is {_ending(end)} on this server, but the wait for its synchronous standby was cut short"
        )
    return answered


def _ending(end: Statement) -> str:
    return "committed" if end is COMMIT else "prepared"


def _answer_no(branch: Branch, error: Exception) -> Steps[Prepared | No]:
    """Rolled back locally, never by GID: under that name another session's branch may be prepared.

    A twin may be why this copy was refused: it took the key, or the stock. Then the vote is the twin's.
    """
    reason = _reason(branch, error)
    try:
        prepared, rows = yield from _look_again(branch, Statement(_IS_PREPARED, {"gid": str(branch.gid)}))
    except (ConnectionGone, psycopg.Error):
        return No(reason)
    # 42710 says that the name is taken by what is not a twin: a twin's ledger row would have stopped this copy before.
    if prepared.rows[0][0] and reason.code != "42710":
        return Prepared(())
    if not rows.rows:
        return No(_without_twin(reason, error))
    match by_row(ledger.entry_of(rows.rows[0])):
        case Applied(results):
            return Prepared(results)
        case RefusedForGood(kept):
            return No(kept)
        case Tombstoned():
            return No(refusal_of(Barred("the branch was told to abort before its work came: a tombstone bars it")))


def _answer_refused(branch: Branch, error: Exception) -> Steps[Applied | RefusedForGood | Retry | Tombstoned]:
    """Rolled back; answered by a twin's row if there is one, else by a row of its own if the refusal is final."""
    reason = _reason(branch, error)
    try:
        (rows,) = yield from _look_again(branch)
    except (ConnectionGone, psycopg.Error):
        return _retry(reason)
    if rows.rows:
        return _by_own_row(branch, ledger.entry_of(rows.rows[0]))
    reason = _without_twin(reason, error)
    if isinstance(error, Barred):
        raise Forgotten(str(error)) from error
    reason.operation = shorten(branch.running())
    # What must be done is repeated until it is: no refusal of it is final.
    if reason.retryable or branch.must_succeed or branch.kind == _COMPENSATION:
        return Retry(reason)
    return (yield from _keep_refusal(branch, reason))


def _look_again(branch: Branch, *also: Statement) -> Steps[tuple[Reply, ...]]:
    """The branch rolled back, and what is there now: the answers to `also`, then the row. It waits briefly for a lock,
    and for a synchronous standby to have what is there."""
    statements = (*also, Statement(_SELECT_ROW, branch.key()))
    _, _, _, *found, ended = yield Exchange((ROLLBACK, *brief_transaction(branch.lock_timeout), *statements, COMMIT))
    if ended.unreplicated:
        raise OutcomeUnknown(_unconfirmed(branch))
    return tuple(found)


def _keep_refusal(branch: Branch, reason: types_pb2.Refusal) -> Steps[Applied | RefusedForGood | Retry | Tombstoned]:
    row = ledger.refused(branch.gid, branch.kind, reason, fingerprint=branch.fingerprint, position=branch.position)
    reach(CrashPoint.PARTICIPANT_BEFORE_REFUSAL)
    try:
        *_, ended = yield Exchange((*brief_transaction(branch.lock_timeout), Statement(_INSERT_VERDICT, row), COMMIT))
        reach(CrashPoint.PARTICIPANT_AFTER_REFUSAL)
    except ConnectionGone as gone:
        raise OutcomeUnknown(f"the connection was lost while the refusal of {branch.gid} was being recorded") from gone
    except psycopg.Error as error:
        if ledger.is_below_horizon(error):
            raise Forgotten(f"{branch.gid} lies below its epoch's horizon: it ended long ago") from error
        # Its key is taken, or was about to be: whatever is there now answers; nothing there is nothing decided.
        try:
            (rows,) = yield from _look_again(branch)
        except (ConnectionGone, psycopg.Error):
            return _retry(reason)
        return by_row(ledger.entry_of(rows.rows[0])) if rows.rows else _retry(reason)
    if ended.unreplicated:
        raise OutcomeUnknown(
            f"the refusal of {branch.gid} is on this server, but the wait for its synchronous standby was cut short"
        )
    return RefusedForGood(reason)


def _retry(reason: types_pb2.Refusal) -> Retry:
    """A refusal that left no row is not final, whatever its kind."""
    kept = types_pb2.Refusal()
    kept.CopyFrom(reason)
    kept.retryable = True
    return Retry(kept)


def _reason(branch: Branch, error: Exception) -> types_pb2.Refusal:
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction) and not branch.read_only:
        error = TakesNoWrites(
            f"{error.diag.message_primary}: the database takes no writes now; it is a standby, or"
            " default_transaction_read_only is on (some hosters set it while the disk is full)"
        )
    reason = refusal_of(error)
    if reason.kind == types_pb2.REFUSAL_KIND_INTERNAL:
        log.error("%s: %s", branch, reason.message, exc_info=error)
    else:
        log.info("%s: %s %s: %s", branch, types_pb2.RefusalKind.Name(reason.kind), reason.code, reason.message)
    return reason


def _without_twin(reason: types_pb2.Refusal, error: Exception) -> types_pb2.Refusal:
    """The key was taken, and then nobody was there: worth another attempt."""
    if isinstance(error, psycopg.Error) and ledger.is_taken(error):
        return refusal(types_pb2.REFUSAL_KIND_CONFLICT, "another copy of the branch was just ending", retryable=True)
    return reason
