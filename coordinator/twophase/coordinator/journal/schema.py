"""The SQLite journal's tables and every statement that touches them.

Lives here: SQL, as constants with a comment each, and the migrations. Must not live here: code that runs it.

`events` is the history: rows are added and never changed. `decisions`, `fences` and `epochs` are write-once facts. The
rest are projections, kept in the same SQL transaction as the event they follow from, so that no question costs history.
"""

from __future__ import annotations

from typing import Final

# "tpjl": what `file` and `PRAGMA application_id` tell apart from every other SQLite file.
APPLICATION_ID: Final = 0x74706A6C

_VERSION_1: Final = (
    # One row: which journal this is. The label is what people call it.
    """
    CREATE TABLE journal (id TEXT NOT NULL, label TEXT NOT NULL)
    """,
    # Every start of a coordinator. horizon: the lowest sequence whose record is certain to be kept.
    """
    CREATE TABLE epochs (number INTEGER PRIMARY KEY, nonce TEXT NOT NULL, horizon INTEGER NOT NULL DEFAULT 0)
    """,
    # Epochs that decide nothing more; one that was never given out here may be among them. Never pruned (R5).
    """
    CREATE TABLE fences (number INTEGER NOT NULL, nonce TEXT NOT NULL, PRIMARY KEY (number, nonce)) WITHOUT ROWID
    """,
    # Participants, as they were at their last handshake.
    """
    CREATE TABLE participants (
        name TEXT PRIMARY KEY, address TEXT NOT NULL, system_identifier TEXT NOT NULL, timeline INTEGER NOT NULL,
        database TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    # The history. at: milliseconds since 1970 by the wall clock, for display only. Pruning must keep the newest row: it
    # holds the place of the highest position, so that none is given out twice.
    """
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, txid TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
    )
    """,
    "CREATE INDEX events_of_transaction ON events (txid, position)",
    """
    CREATE TRIGGER events_are_facts BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END
    """,
    # The decisions, each made once (R5). branch: whom a delegation went to. request_id: whom the transaction runs for.
    """
    CREATE TABLE decisions (
        txid TEXT PRIMARY KEY, decision TEXT NOT NULL, branch INTEGER, request_id TEXT
    ) WITHOUT ROWID
    """,
    """
    CREATE TRIGGER decisions_are_final BEFORE UPDATE ON decisions
    BEGIN SELECT RAISE(ABORT, 'a decision is never changed'); END
    """,
    # Every attempt at every request. holds: this one has claimed the id; the index lets at most one do so (R6).
    """
    CREATE TABLE requests (
        request_id TEXT NOT NULL, attempt INTEGER NOT NULL, txid TEXT NOT NULL, holds INTEGER NOT NULL,
        PRIMARY KEY (request_id, attempt, txid)
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX one_holder ON requests (request_id) WHERE holds = 1",
    # How far every transaction is. The index has only those that are not ended, whatever the history.
    """
    CREATE TABLE transactions (txid TEXT PRIMARY KEY, decided INTEGER NOT NULL, ended INTEGER NOT NULL) WITHOUT ROWID
    """,
    "CREATE INDEX unfinished ON transactions (txid) WHERE ended = 0",
)

_VERSION_2: Final = (
    # Branches that ended against the decision (R11): they are shown until a person forgets them.
    "CREATE TABLE heuristics (txid TEXT NOT NULL, branch INTEGER NOT NULL, PRIMARY KEY (txid, branch)) WITHOUT ROWID",
    # What proved that this file is an older copy than its participants know, one row each; and, with epoch and
    # position, the moments at which it was lifted above what they know. Proofs after the last of these: quarantine.
    """
    CREATE TABLE restorations (
        number INTEGER PRIMARY KEY, at INTEGER NOT NULL, proof TEXT NOT NULL, epoch INTEGER, position INTEGER
    )
    """,
)

# The statements that bring a file from version n to n + 1 stand at n. A released entry is never changed.
# Nothing but the number: decisions and events of sagas, which earlier programs cannot read.
_VERSION_3: Final[tuple[str, ...]] = ()

MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)
VERSION: Final = len(MIGRATIONS)

# --- opening

# Whether the file holds anything at all.
COUNT_OBJECTS: Final = "SELECT count(*) FROM sqlite_master"
# Makes the journal: its id and label.
INSERT_JOURNAL: Final = "INSERT INTO journal (id, label) VALUES (?, ?)"
# Which journal this is.
SELECT_JOURNAL: Final = "SELECT id, label FROM journal"
# The journal is called something else now.
UPDATE_LABEL: Final = "UPDATE journal SET label = ?"
# The highest epoch given out, or seen when the journal was lifted.
LAST_EPOCH: Final = (
    "SELECT max((SELECT coalesce(max(number), 0) FROM epochs), (SELECT coalesce(max(epoch), 0) FROM restorations))"
)
# Gives out an epoch.
INSERT_EPOCH: Final = "INSERT INTO epochs (number, nonce) VALUES (?, ?)"
# Fences every epoch below one: a file has one coordinator at a time, and the lock says that it is us.
FENCE_BELOW: Final = "INSERT OR IGNORE INTO fences (number, nonce) SELECT number, nonce FROM epochs WHERE number < ?"
# The highest position given out, or seen when the journal was lifted.
LAST_POSITION: Final = (
    "SELECT max((SELECT coalesce(max(position), 0) FROM events), (SELECT coalesce(max(position), 0) FROM restorations))"
)

# --- writing

# Fences one epoch; once is as good as twice.
INSERT_FENCE: Final = "INSERT OR IGNORE INTO fences (number, nonce) VALUES (?, ?)"
# Notes a proof that the file is an older copy.
INSERT_PROOF: Final = "INSERT INTO restorations (at, proof) VALUES (?, ?)"
# Ends the quarantine: everything up to this epoch number and position counts as seen.
INSERT_LIFT: Final = "INSERT INTO restorations (at, proof, epoch, position) VALUES (?, '', ?, ?)"
# Adds or replaces a participant.
UPSERT_PARTICIPANT: Final = (
    "INSERT INTO participants (name, address, system_identifier, timeline, database) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET address = excluded.address, system_identifier = excluded.system_identifier,"
    " timeline = excluded.timeline, database = excluded.database"
)
# The decisions on record of some transactions: their names as a JSON array.
SELECT_DECISIONS: Final = (
    "SELECT txid, decision, branch, request_id FROM decisions WHERE txid IN (SELECT value FROM json_each(?))"
)
# An epoch's horizon (null if it was never given out) and whether it is fenced.
SELECT_EPOCH: Final = (
    "SELECT (SELECT horizon FROM epochs WHERE number = ?1 AND nonce = ?2),"
    " EXISTS (SELECT 1 FROM fences WHERE number = ?1 AND nonce = ?2)"
)
# Who holds some request ids: these as a JSON array.
SELECT_HOLDERS: Final = (
    "SELECT request_id, txid FROM requests WHERE holds = 1 AND request_id IN (SELECT value FROM json_each(?))"
)
# Records decisions; a second one for the same transaction is a constraint violation.
INSERT_DECISIONS: Final = "INSERT INTO decisions (txid, decision, branch, request_id) VALUES {rows}"
# Records attempts at requests, or that one claims its request id.
UPSERT_REQUESTS: Final = (
    "INSERT INTO requests (request_id, attempt, txid, holds) VALUES {rows}"
    " ON CONFLICT (request_id, attempt, txid) DO UPDATE SET holds = excluded.holds WHERE excluded.holds > holds"
)
# A delegate proved refused, or a saga is compensated: its transaction gives the request id back.
RELEASE_REQUEST: Final = "UPDATE requests SET holds = 0 WHERE request_id = ? AND txid = ? AND holds = 1"
# Whether a saga has turned.
HAS_TURNED: Final = "SELECT 1 FROM events WHERE txid = ? AND kind = 'turned'"
# Adds events.
INSERT_EVENTS: Final = "INSERT INTO events (position, txid, at, kind, body) VALUES {rows}"
# Keeps track of how far transactions are; decided and ended only ever go from 0 to 1.
UPSERT_TRANSACTIONS: Final = (
    "INSERT INTO transactions (txid, decided, ended) VALUES {rows}"
    " ON CONFLICT (txid) DO UPDATE SET decided = max(decided, excluded.decided), ended = max(ended, excluded.ended)"
    " WHERE excluded.decided > decided OR excluded.ended > ended"
)
# Branches that ended against the decision; once is as good as twice.
INSERT_HEURISTICS: Final = "INSERT OR IGNORE INTO heuristics (txid, branch) VALUES {rows}"

# Changes nothing and writes a page all the same, so that its commit is synced. An UPDATE to what is there already would
# write none.
REWRITE_A_PAGE: Final = f"PRAGMA user_version = {VERSION}"

# --- pruning

# Whose event is the newest.
NEWEST_TRANSACTION: Final = "SELECT txid FROM events ORDER BY position DESC LIMIT 1"
# The transactions of an epoch, the oldest first: when each ended, its last position, whether its record must stay.
_CANDIDATES: Final = (
    "SELECT t.txid,"
    " CASE WHEN t.ended = 1 THEN (SELECT max(e.at) FROM events e WHERE e.txid = t.txid AND e.kind = 'ended') END,"
    " (SELECT max(e.position) FROM events e WHERE e.txid = t.txid),"
    " EXISTS (SELECT 1 FROM heuristics h WHERE h.txid = t.txid)"
    " FROM transactions t WHERE t.txid >= ? AND t.txid < ?"
)
CANDIDATES: Final = f"{_CANDIDATES} ORDER BY t.txid LIMIT ?"
# What was written below the horizon later, by evidence from the participants. Not what stays there for good.
STRAGGLERS: Final = (
    f"{_CANDIDATES} AND t.ended = 1 AND t.txid NOT IN (SELECT txid FROM heuristics) ORDER BY t.txid LIMIT ?"  # noqa: S608
)
# A horizon only rises.
RAISE_HORIZON: Final = "UPDATE epochs SET horizon = max(horizon, ?) WHERE number = ? AND nonce = ?"
# What names the requests of a transaction.
REQUESTS_IN_EVENTS: Final = "SELECT body FROM events WHERE txid = ? AND kind IN ('begun', 'decided')"
# One attempt at a request.
FORGET_REQUEST: Final = "DELETE FROM requests WHERE request_id = ? AND attempt = ? AND txid = ?"
# Whether a transaction holds a request id.
HOLDS_REQUEST: Final = "SELECT 1 FROM requests WHERE request_id = ? AND txid = ? AND holds = 1"
# All attempts: without the one that was committed, the others would answer for it that it was aborted (R6).
FORGET_ALL_ATTEMPTS: Final = "DELETE FROM requests WHERE request_id = ?"
# Everything else of a transaction.
FORGET_EVENTS: Final = "DELETE FROM events WHERE txid = ?"
FORGET_DECISION: Final = "DELETE FROM decisions WHERE txid = ?"
FORGET_TRANSACTION: Final = "DELETE FROM transactions WHERE txid = ?"

# --- reading

# The proofs since the last lift.
SELECT_PROOFS: Final = (
    "SELECT proof FROM restorations WHERE epoch IS NULL"
    " AND number > coalesce((SELECT max(number) FROM restorations WHERE epoch IS NOT NULL), 0)"
    " GROUP BY proof ORDER BY min(number)"
)
# The highest epoch number that counted as seen at a lift.
SELECT_FLOOR: Final = "SELECT coalesce(max(epoch), 0) FROM restorations"

# All participants.
SELECT_PARTICIPANTS: Final = (
    "SELECT name, address, system_identifier, timeline, database FROM participants ORDER BY name"
)
# All epochs given out, with their fences.
SELECT_EPOCHS: Final = (
    "SELECT number, nonce, EXISTS (SELECT 1 FROM fences f WHERE f.number = e.number AND f.nonce = e.nonce), horizon"
    " FROM epochs e ORDER BY number"
)
# The events of one transaction.
EVENTS_OF_TRANSACTION: Final = "SELECT txid, kind, body FROM events WHERE txid = ? ORDER BY position"
# The same, with their places.
HISTORY_OF_TRANSACTION: Final = "SELECT position, at, kind, body FROM events WHERE txid = ? ORDER BY position"
# The events of the transaction that answers for a request: the holder, else the highest attempt.
EVENTS_OF_REQUEST: Final = (
    "SELECT txid, kind, body FROM events WHERE txid = (SELECT txid FROM requests WHERE request_id = ?"
    " ORDER BY holds DESC, attempt DESC, txid DESC LIMIT 1) ORDER BY position"
)
# The request ids after one, in their order.
SELECT_REQUEST_IDS: Final = "SELECT DISTINCT request_id FROM requests WHERE request_id > ? ORDER BY request_id LIMIT ?"
# The events of what is decided and not ended, the oldest transaction first.
EVENTS_OF_UNFINISHED: Final = (
    "SELECT txid, kind, body FROM events WHERE txid IN"
    " (SELECT txid FROM transactions WHERE ended = 0 AND decided = 1) ORDER BY txid, position"
)
# The events of what has a branch that ended against the decision, the oldest transaction first.
EVENTS_OF_HEURISTICS: Final = (
    "SELECT txid, kind, body FROM events WHERE txid IN (SELECT txid FROM heuristics) ORDER BY txid, position"
)
# The events of the newest transactions below a name.
EVENTS_OF_NEWEST: Final = (
    "SELECT txid, kind, body FROM events WHERE txid IN"
    " (SELECT txid FROM transactions WHERE txid < ? ORDER BY txid DESC LIMIT ?) ORDER BY txid DESC, position"
)
# The same, only of those that are not ended.
EVENTS_OF_NEWEST_UNFINISHED: Final = (
    "SELECT txid, kind, body FROM events WHERE txid IN"
    " (SELECT txid FROM transactions WHERE txid < ? AND ended = 0 ORDER BY txid DESC LIMIT ?)"
    " ORDER BY txid DESC, position"
)

# --- looking at a file without a coordinator

# The newest events.
NEWEST_EVENTS: Final = "SELECT position, txid, at, kind, body FROM events ORDER BY position DESC LIMIT ?"
# How many transactions there are, by decision and whether they have ended.
COUNT_TRANSACTIONS: Final = (
    "SELECT d.decision, t.ended, count(*) FROM transactions t LEFT JOIN decisions d ON d.txid = t.txid GROUP BY 1, 2"
)
# How those ended whose decision is no outcome: delegated transactions, and sagas.
ENDS: Final = (
    "SELECT d.decision, e.position, e.txid, e.at, e.kind, e.body FROM decisions d JOIN events e ON e.txid = d.txid"
    " WHERE d.decision IN ('delegated', 'saga') AND e.kind = 'ended' GROUP BY e.txid"
)
# Of how many transactions a branch ended against the decision.
COUNT_HEURISTIC: Final = "SELECT count(DISTINCT txid) FROM heuristics"
# What happened to those that have not ended, the oldest transaction first.
HISTORIES_OF_UNENDED: Final = (
    "SELECT position, txid, at, kind, body FROM events WHERE txid IN (SELECT txid FROM transactions WHERE ended = 0)"
    " ORDER BY txid, position"
)
