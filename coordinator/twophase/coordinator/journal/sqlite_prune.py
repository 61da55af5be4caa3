"""Pruning of the SQLite journal: the rows of what is over.

Lives here: finding candidates, and deleting with the horizon in one SQL transaction. Must not live here: the rule
(`pruning`), SQL (`schema`), when it is done.
"""

from __future__ import annotations

import json
import sqlite3

from twophase.contract.names import MAX_SEQUENCE, Txid
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.port import Pruned, Pruning
from twophase.coordinator.journal.pruning import Candidate, Plan, plan


def look(connection: sqlite3.Connection, pruning: Pruning) -> tuple[Plan, int, bool]:
    """What may be forgotten now, the horizon as it is, and whether there may be more behind these candidates."""
    epoch = pruning.epoch
    row = connection.execute(schema.SELECT_EPOCH, (epoch.number, epoch.nonce)).fetchone()
    if row[0] is None:
        return Plan(0, ()), 0, False
    horizon = int(row[0])
    newest = connection.execute(schema.NEWEST_TRANSACTION).fetchone()
    first, known, last = (_bound(pruning, sequence) for sequence in (0, horizon, pruning.below))
    late = connection.execute(schema.STRAGGLERS, (first, min(known, last), pruning.limit)).fetchall()
    rows = connection.execute(schema.CANDIDATES, (known, last, pruning.limit)).fetchall()
    candidates = [
        Candidate(Txid.parse(txid).sequence, ended_at, position, bool(kept), newest == (txid,))
        for txid, ended_at, position, kept in (*late, *rows)
    ]
    more = len(rows) == pruning.limit
    return plan(pruning, horizon, candidates, all_there=not more), horizon, more


def _bound(pruning: Pruning, sequence: int) -> str:
    """Sorts before every name of the epoch from this sequence on, and after those below it."""
    return f"{pruning.epoch}-{sequence:012x}" if sequence < MAX_SEQUENCE else f"{pruning.epoch}."


def prune(connection: sqlite3.Connection, pruning: Pruning) -> Pruned:
    """Forgets, in the SQL transaction that is open: first the horizon, then what lies below it."""
    planned, horizon, more = look(connection, pruning)
    epoch = pruning.epoch
    if planned.horizon > horizon:
        connection.execute(schema.RAISE_HORIZON, (planned.horizon, epoch.number, epoch.nonce))
    names = [(str(Txid(epoch, sequence)),) for sequence in planned.gone]
    requests = [
        (request["id"], request["attempt"], txid)
        for (txid,) in names
        for (body,) in connection.execute(schema.REQUESTS_IN_EVENTS, (txid,)).fetchall()
        if (request := json.loads(body).get("request")) is not None
    ]
    for request_id, attempt, txid in requests:
        if connection.execute(schema.HOLDS_REQUEST, (request_id, txid)).fetchone() is not None:
            connection.execute(schema.FORGET_ALL_ATTEMPTS, (request_id,))
        else:
            connection.execute(schema.FORGET_REQUEST, (request_id, attempt, txid))
    for sql in (schema.FORGET_EVENTS, schema.FORGET_DECISION, schema.FORGET_TRANSACTION):
        connection.executemany(sql, names)
    return Pruned(planned.horizon, len(names), more=more and (planned.horizon > horizon or bool(names)))
