"""The ledger: its statements, and its rows as values (R7).

Lives here: every SQL text that names a table of the schema `twophase`, with a comment each, and how a row is read. Must
not live here: when a statement is sent (`branch`, `finish`), the tables' DDL (`migrations`).
"""

# ruff: noqa: S608 - the statements are made of this module's constants, and of nothing else

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString, TypeAlias

import psycopg

from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid, Txid
from twophase.participant.outcomes import Entry, Results
from twophase.v1 import participant_pb2, types_pb2

Params: TypeAlias = dict[str, Any]

# A commit that carries a ledger row is never weaker than `on`, whatever role or business code set (the manual, 20.5.1);
# with RETURNING it is set by the very statement that writes the row, and in force when that is committed or prepared.
# That the wait for a standby was cut short is a warning, which must be heard (`HEARD`: the same where the procedure
# writes the row).
_DURABLE: Final[LiteralString] = """
set_config('synchronous_commit',
           CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)
|| set_config('client_min_messages', 'warning', true)"""
HEARD: Final = b"SET LOCAL client_min_messages = warning"

# Not null where there are synchronous standbys: then the end of the transaction that reads it waits for them. What it
# has read beside it may have been committed or prepared without that (the wait was cut short, or the server crashed in
# it): it is on this server only, and would be undone if a standby were promoted.
_LASTING: Final[LiteralString] = f"""
CASE WHEN current_setting('synchronous_standby_names') <> ''
     THEN {_DURABLE} || pg_logical_emit_message(true, 'twophase', '') END"""

_REMEMBERED: Final[LiteralString] = """
NOT EXISTS (SELECT FROM twophase.horizon WHERE epoch = %(epoch)s AND sequence > %(sequence)s)"""

# A final refusal, or a tombstone, in a transaction of its own.
INSERT_VERDICT: Final[LiteralString] = f"""
INSERT INTO twophase.ledger (gid, kind, outcome, decision, refusal, fingerprint, journal_position)
VALUES (%(gid)s, %(kind)s, CASE WHEN {_REMEMBERED} THEN %(outcome)s END,
        %(decision)s, %(refusal)b::bytea, %(fingerprint)b::bytea, %(position)s::bigint)
RETURNING {_DURABLE}"""

_COLUMNS: Final[LiteralString] = "gid, kind, outcome, decision, results, refusal, fingerprint, journal_position"

# The row of one branch and deed, as a proof.
SELECT_ROW: Final[LiteralString] = f"""
SELECT {_COLUMNS}, {_LASTING} FROM twophase.ledger WHERE gid = %(gid)s AND kind = %(kind)s"""

# The same of a branch that was prepared and is to be committed. Applied proves itself: the vote is at the standby, and
# a standby that lacks the commit has the branch prepared.
SELECT_ROW_OF_PREPARED: Final[LiteralString] = f"""
SELECT {_COLUMNS}, CASE WHEN outcome <> 'applied' THEN {_LASTING} END
FROM twophase.ledger WHERE gid = %(gid)s AND kind = %(kind)s"""

# The rows of one branch, of both deeds: one statement, so that it sees them as they are at one moment.
SELECT_DEEDS: Final[LiteralString] = f"SELECT {_COLUMNS}, {_LASTING} FROM twophase.ledger WHERE gid = %(gid)s"

# The rows of one transaction: a range of the key, since every name in it has its fixed width.
SELECT_ROWS: Final[LiteralString] = f"""
SELECT {_COLUMNS} FROM twophase.ledger WHERE gid >= %(low)s AND gid < %(high)s ORDER BY gid, kind DESC"""

# The same for many transactions, a range for each, without what may be large.
SELECT_ROWS_OF_ALL: Final[LiteralString] = """
SELECT gid, kind, outcome, decision, '{}'::bytea[], NULL::bytea, fingerprint, journal_position
FROM unnest(%(lows)s::text[], %(highs)s::text[]) AS wanted (low, high)
JOIN twophase.ledger ON gid >= low AND gid < high ORDER BY gid, kind DESC"""

# Who acts in a session at rest, as `mark` wants it, and which process of the server serves it.
OF_SESSION: Final[LiteralString] = "SELECT quote_literal(' ' || current_user), pg_backend_pid()"

# Is the branch prepared, here? GIDs are names of the whole cluster, so the database belongs to the question.
IS_PREPARED: Final[LiteralString] = f"""
WITH look AS MATERIALIZED (
  SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = %(gid)s AND database = current_database()) AS here)
SELECT here, CASE WHEN here THEN {_LASTING} END FROM look"""

# The prepared branches in one range of names, here, with their age by the database's own clock (which may be set back).
PREPARED: Final[LiteralString] = """
SELECT gid, greatest(0, extract(epoch FROM clock_timestamp() - prepared))::float8
FROM pg_prepared_xacts
WHERE database = current_database() AND gid COLLATE "C" >= %(low)s AND gid COLLATE "C" < %(high)s"""

# The same for a transaction that writes other tables.
DURABLE: Final[LiteralString] = f"SELECT {_DURABLE}"

# What was known of a journal, with its row locked until the handshake is over.
TOUCH_JOURNAL: Final[LiteralString] = """
INSERT INTO twophase.journal (journal, epoch, nonce) VALUES (%(journal)s, %(number)s, %(nonce)s)
ON CONFLICT (journal) DO NOTHING RETURNING true"""
LOCK_JOURNAL: Final[LiteralString] = """
SELECT epoch, nonce, pruned_position FROM twophase.journal WHERE journal = %(journal)s FOR UPDATE"""

# The same without a trace.
READ_JOURNAL: Final[LiteralString] = """
SELECT epoch, nonce, pruned_position FROM twophase.journal WHERE journal = %(journal)s"""

# A higher epoch replaces the one kept. Of two with one number the first stays: that there are two proves a restored
# journal, and every later handshake shall show it.
RAISE_EPOCH: Final[LiteralString] = """
UPDATE twophase.journal SET epoch = %(number)s, nonce = %(nonce)s, seen_at = clock_timestamp()
WHERE journal = %(journal)s AND epoch < %(number)s"""

# The highest position in the rows of one journal, from the index.
HIGHEST_POSITION: Final[LiteralString] = """
SELECT coalesce(max(journal_position), 0) FROM twophase.ledger WHERE substr(gid, 4, 16) = %(journal)s"""

# A horizon only rises.
RAISE_HORIZON: Final[LiteralString] = """
INSERT INTO twophase.horizon AS known (epoch, sequence) VALUES (%(epoch)s, %(sequence)s)
ON CONFLICT (epoch) DO UPDATE SET sequence = excluded.sequence WHERE known.sequence < excluded.sequence"""

# What lies below a horizon, a bounded number of rows at a time, and what must be remembered of it.
PRUNE: Final[LiteralString] = """
WITH gone AS (
  DELETE FROM twophase.ledger WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM twophase.ledger WHERE gid >= %(low)s AND gid < %(high)s LIMIT %(limit)s))
  RETURNING journal_position)
UPDATE twophase.journal SET pruned_position = greatest(pruned_position, (SELECT max(journal_position) FROM gone))
WHERE journal = %(journal)s AND EXISTS (SELECT FROM gone) RETURNING (SELECT count(*) FROM gone)"""

KINDS: Final[Mapping[types_pb2.BranchKind.ValueType, LiteralString]] = {
    types_pb2.BRANCH_KIND_WORK: "work",
    types_pb2.BRANCH_KIND_COMPENSATION: "compensation",
}
_OUTCOMES: Final = {
    "applied": participant_pb2.LEDGER_OUTCOME_APPLIED,
    "refused": participant_pb2.LEDGER_OUTCOME_REFUSED,
    "tombstone": participant_pb2.LEDGER_OUTCOME_TOMBSTONE,
}
DECISIONS: Final[Mapping[types_pb2.Decision.ValueType, str]] = {
    types_pb2.DECISION_COMMIT: "commit",
    types_pb2.DECISION_ABORT: "abort",
    types_pb2.DECISION_DELEGATED: "delegated",
}
_KINDS_BACK: Final = {text: value for value, text in KINDS.items()}
_DECISIONS_BACK: Final = {text: value for value, text in DECISIONS.items()}


def key_of(gid: Gid, kind: types_pb2.BranchKind.ValueType) -> dict[str, Any]:
    """The parameters of every statement about one row: its key, and what the horizon is compared with."""
    return {
        "gid": str(gid),
        "kind": KINDS[kind],
        "epoch": f"{gid.journal}-{gid.txid.epoch}",
        "sequence": gid.txid.sequence,
    }


def row_of(gid: Gid, kind: types_pb2.BranchKind.ValueType) -> str:
    """`SELECT_ROW` with the key as literals, to share one string with a BEGIN. A `Gid` is hex digits and dashes."""
    return f"SELECT {_COLUMNS}, {_LASTING} FROM twophase.ledger WHERE gid = '{gid}' AND kind = '{KINDS[kind]}'"


def mark(gid: Gid, role: str) -> str:
    """Makes a transaction the branch's, under the role that begins it; until its end. `role` is what `OF_SESSION`
    tells of it: so the mark is a literal, and costs the server no query."""
    prefix, _, rest = role.partition("'")
    return f"SET LOCAL twophase.branch = {prefix}'{gid}{rest}"


def still_ours(gid: Gid) -> bytes:
    """Is this still the transaction that was marked for the branch, under its role?"""
    return f"SELECT current_setting('twophase.branch', true) IS NOT DISTINCT FROM '{gid} ' || current_user".encode()


def applied(
    gid: Gid, kind: types_pb2.BranchKind.ValueType, results: Results, *, fingerprint: bytes, position: int
) -> bytes:
    """Writes the branch's own row in its own transaction; what comes is text, so that it shares one string with the
    PREPARE or COMMIT. That cannot succeed if a column that takes no NULL was given one: gid, if this is not the
    transaction that was marked for the branch, under its role; outcome, if the branch lies below the horizon.

    The procedure keeps its plans for the session, with no name that a pooler or DEALLOCATE ALL could take away.
    """
    serialised = ", ".join(_bytea(result.SerializeToString(deterministic=True)) for result in results)
    given = f"ARRAY[{serialised}]" if serialised else "'{}'"
    txid = gid.txid
    return (
        f"CALL twophase.applied('{gid}', '{KINDS[kind]}', {given}, {_bytea(fingerprint)}, {position},"
        f" '{gid.journal}-{txid.epoch}', {txid.sequence})"
    ).encode()


def _bytea(content: bytes) -> str:
    """A literal that means the same whatever `standard_conforming_strings` is."""
    return f"pg_catalog.decode('{content.hex()}', 'hex')"


def refused(
    gid: Gid, kind: types_pb2.BranchKind.ValueType, reason: types_pb2.Refusal, *, fingerprint: bytes, position: int
) -> Params:
    """The parameters of `INSERT_VERDICT` for a final refusal."""
    return {
        **key_of(gid, kind),
        "outcome": "refused",
        "decision": None,
        "refusal": reason.SerializeToString(deterministic=True),
        "fingerprint": fingerprint,
        "position": position,
    }


def tombstone(gid: Gid, kind: types_pb2.BranchKind.ValueType, decision: types_pb2.Decision.ValueType) -> Params:
    """The parameters of `INSERT_VERDICT` for a tombstone."""
    return {
        **key_of(gid, kind),
        "outcome": "tombstone",
        "decision": DECISIONS[decision],
        "refusal": None,
        "fingerprint": b"",
        "position": 0,
    }


def range_of_journal(journal_id: str) -> dict[str, str]:
    """The names of one journal: '.' follows '-' in ASCII."""
    return {"low": f"tp-{journal_id}-", "high": f"tp-{journal_id}."}


def range_of_transaction(journal_id: str, txid: Txid) -> dict[str, str]:
    """The names of one transaction's branches."""
    return {"low": f"tp-{journal_id}-{txid}-", "high": f"tp-{journal_id}-{txid}."}


def range_below(journal_id: str, epoch: Epoch, sequence: int) -> dict[str, str]:
    """The names of one epoch below a sequence."""
    prefix = f"tp-{journal_id}-{epoch}"
    return {"low": f"{prefix}-", "high": f"{prefix}." if sequence >= MAX_SEQUENCE else f"{prefix}-{sequence:012x}"}


def entry_of(row: Sequence[Any]) -> Entry:
    """A row of the ledger as a value."""
    gid, kind, outcome, decision, results, reason, fingerprint, position, *_ = row
    return Entry(
        gid=Gid.parse(gid),
        kind=_KINDS_BACK[kind],
        outcome=_OUTCOMES[outcome],
        decision=_DECISIONS_BACK[decision] if decision else types_pb2.DECISION_UNSPECIFIED,
        results=tuple(types_pb2.Payload.FromString(result) for result in results),
        refusal=None if reason is None else types_pb2.Refusal.FromString(reason),
        fingerprint=fingerprint,
        position=position,
    )


def has_to_last(row: Sequence[Any]) -> bool:
    """True if a row that was read is no proof before its transaction has ended, and waited for a standby."""
    return any(column is not None for column in row[len(_COLUMNS.split(",")) :])


def _is_about(error: psycopg.Error, code: str, column: str | None = None) -> bool:
    diag = error.diag
    ours = diag.schema_name == "twophase" and diag.table_name == "ledger"
    return error.sqlstate == code and ours and (column is None or diag.column_name == column)


def is_taken(error: psycopg.Error) -> bool:
    """True if a row with this key is committed already."""
    return _is_about(error, "23505")


def is_not_our_transaction(error: psycopg.Error) -> bool:
    """True if the transaction is not, or no longer, the one begun for the branch, under its role."""
    return _is_about(error, "23502", "gid")


def is_below_horizon(error: psycopg.Error) -> bool:
    """True if the branch lies below its epoch's horizon."""
    return _is_about(error, "23502", "outcome")
