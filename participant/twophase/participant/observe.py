"""What the prepared branches of one journal hold in this database, and who waits for them.

Lives here: the statements, and how their rows are put together. Must not live here: when it is asked (`resource`), the
ledger, and anything that writes.

Postgres names no process as the holder of a prepared transaction's locks (`pg_blocking_pids` says 0), and after a
restart its virtual transaction has another name. What stays is the lock on its own transaction id: whoever holds that
one without a process is the prepared transaction, and the other locks of the same virtual transaction are its locks,
too. A session waits for it if it wants one of them in a mode that is in conflict (the manual, 13.3 and `pg_locks`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from google.protobuf.duration_pb2 import Duration

from twophase.contract.names import Gid, InvalidName
from twophase.participant.database import IDENTITY, identity_of, looking, without_password
from twophase.participant.ledger import range_of_journal
from twophase.participant.outcomes import Observation, OutcomeUnknown
from twophase.v1 import participant_pb2, types_pb2

_QUERY: Final = 1_000  # characters of a statement that are told
_MOST_WAITERS: Final = 1_000  # sessions whose place in the queue is asked for; each question locks the table of locks

_ALL_JOURNALS: Final = {"low": "tp-", "high": "tp."}  # '.' follows '-' in ASCII

# The prepared branches in one range of names, here: name, transaction id, age in seconds by the database's own clock,
# owner, and how many transaction ids were given out since.
BRANCHES: Final[LiteralString] = """
SELECT gid, transaction::text, greatest(0, extract(epoch FROM clock_timestamp() - prepared))::float8,
       owner::text, greatest(0, age(transaction))
FROM pg_prepared_xacts
WHERE database = current_database() AND gid COLLATE "C" >= %(low)s AND gid COLLATE "C" < %(high)s
ORDER BY prepared, gid COLLATE "C\""""

# Every lock that a prepared transaction holds, and every lock that somebody waits for; not what serializable ones have
# read, which is in nobody's way. The table of locks is read once: two readings would not fit together. Names come from
# the catalog, and stay empty for what is in another database.
LOCKS: Final[LiteralString] = """
WITH lock AS MATERIALIZED (SELECT * FROM pg_locks WHERE (pid IS NULL OR NOT granted) AND mode <> 'SIReadLock')
SELECT ARRAY[lock.locktype, lock.database::text, lock.relation::text, lock.page::text, lock.tuple::text,
             lock.virtualxid, lock.transactionid::text, lock.classid::text, lock.objid::text, lock.objsubid::text],
       lock.mode, lock.granted, lock.pid, lock.virtualtransaction,
       schema.nspname || '.' || class.relname, class.relkind::text,
       greatest(0, extract(epoch FROM clock_timestamp() - lock.waitstart))::float8
FROM lock
LEFT JOIN pg_class AS class ON class.oid = lock.relation
     AND lock.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
LEFT JOIN pg_namespace AS schema ON schema.oid = class.relnamespace"""

# Who these processes are, and what they are about. Without the right to see it, the statement is a fixed text.
SESSIONS: Final[LiteralString] = """
SELECT pid, usename::text, application_name, left(query, %(cut)s),
       query = '<insufficient privilege>' AND query_start IS NULL
FROM pg_stat_activity WHERE pid = ANY (%(pids)s)"""

# Whom these processes wait for, those before them in the queue included; 0 stands for a prepared transaction.
QUEUE: Final[LiteralString] = """
SELECT pid, pg_blocking_pids(pid) FROM unnest(%(pids)s::int[]) AS pid"""

# Who asks, as SQL writes it.
ROLE: Final[LiteralString] = "SELECT quote_ident(current_user)"

_Tag: TypeAlias = tuple[str | None, ...]

# Which modes each mode is in conflict with (the manual, table 13.2), by their number.
_MODES: Final = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
_CONFLICTS: Final[Mapping[str, frozenset[str]]] = {
    _MODES[mode]: frozenset(_MODES[other] for other in others)
    for mode, others in enumerate(
        ((7,), (6, 7), (4, 5, 6, 7), (3, 4, 5, 6, 7), (2, 3, 5, 6, 7), (2, 3, 4, 5, 6, 7), range(1, 8), range(8))
    )
}
_KINDS: Final = {"i": "index ", "I": "index ", "S": "sequence ", "t": "TOAST table ", "v": "view ", "m": "view "}


@dataclass(frozen=True, slots=True)
class Lock:
    """A row of `LOCKS`. `tag` is what is locked, as Postgres identifies it; `pid` is 0 for a prepared transaction;
    `waiting` is in seconds."""

    tag: _Tag
    mode: str
    granted: bool
    pid: int
    holder: str
    relation: str | None
    relation_kind: str | None
    waiting: float

    @property
    def transaction(self) -> str | None:
        """The transaction id, if that is what is locked."""
        return self.tag[6]

    @property
    def target(self) -> str:
        """What is locked, in words."""
        kind, _, relation, page, row, virtualxid, transaction, catalog, number, part = self.tag
        of = self._of(relation)
        match kind:
            case "relation":
                return of
            case "tuple":
                return f"the row ({page},{row}) of {of}"
            case "page" | "extend":
                return f"{kind} of {of}"
            case "transactionid":
                return f"transaction {transaction}"
            case "virtualxid":
                return f"virtual transaction {virtualxid}"
            case "advisory":
                return f"advisory lock {catalog}/{number}/{part}"
            case _:
                return f"{kind} {catalog}/{number}"

    def _of(self, number: str | None) -> str:
        if self.relation is None:
            return f"relation {number}"
        return _KINDS.get(self.relation_kind or "", "") + self.relation


@dataclass(frozen=True, slots=True)
class _Session:
    user: str
    application: str
    query: str


@dataclass(slots=True)
class _Branch:
    transaction: str
    told: participant_pb2.ObservedBranch
    locks: list[Lock] = field(default_factory=list)


def observe(dsn: str, participant: str, journal_id: str | None) -> Observation:
    """Looks once, over a connection of its own. Blocks, for some seconds at most. None: the branches of every journal.

    Raises `OutcomeUnknown` if the database does not answer (ask again), and `NotReady` if it is a standby.
    """
    try:
        with looking(dsn, participant) as connection:
            identity = identity_of(connection.execute(IDENTITY).fetchone())
            branches = tuple(_branches(connection, journal_id))
            if branches:
                _look_at_locks(connection, branches)
            return Observation(tuple(branch.told for branch in branches), identity=identity)
    except psycopg.Error as error:
        said = without_password(str(error), dsn=dsn).strip().splitlines()
        raise OutcomeUnknown(
            f"the participant's database cannot be looked at: {said[0] if said else type(error).__name__}; ask again"
        ) from None


def _branches(connection: psycopg.Connection[Any], journal_id: str | None) -> Iterator[_Branch]:
    names = _ALL_JOURNALS if journal_id is None else range_of_journal(journal_id)
    for name, transaction, age, owner, horizon_age in connection.execute(BRANCHES, names):
        try:
            Gid.parse(name)
        except InvalidName:
            continue  # it begins like one of ours, and is not: somebody else's (R9)
        told = participant_pb2.ObservedBranch(
            gid=name, age=_duration(age), owner=owner or "", horizon_age=max(0, horizon_age)
        )
        yield _Branch(transaction, told)


def _look_at_locks(connection: psycopg.Connection[Any], branches: Sequence[_Branch]) -> None:
    locks = [
        Lock(tuple(tag), mode, granted, pid or 0, holder, name, kind, waiting or 0.0)
        for tag, mode, granted, pid, holder, name, kind, waiting in connection.execute(LOCKS)
    ]
    _give_locks([lock for lock in locks if lock.granted], branches)
    waits = {lock.pid: lock for lock in locks if not lock.granted}
    directly = [{lock.pid for lock in waiting_for(branch.locks, waits.values())} for branch in branches]
    if any(directly):
        longest_first = sorted(waits, key=lambda pid: (-waits[pid].waiting, pid))
        queue = _queue(connection, longest_first[:_MOST_WAITERS])
        sessions = _sessions(connection, longest_first)
        for branch, first in zip(branches, directly, strict=True):
            behind = behind_of(first, queue)
            branch.told.waiters.extend(
                _waiter(waits[pid], sessions[pid], behind[pid])
                for pid in longest_first
                if pid in behind and pid in sessions  # else it has gone meanwhile
            )


def _give_locks(held: Sequence[Lock], branches: Sequence[_Branch]) -> None:
    """Finds out which locks are whose."""
    by_holder: defaultdict[str, list[Lock]] = defaultdict(list)
    for lock in held:
        by_holder[lock.holder].append(lock)
    holder_of = {lock.transaction: lock.holder for lock in held if lock.transaction is not None}
    for branch in branches:
        # One that is not there was finished between the two readings.
        branch.locks = by_holder[holder_of.get(branch.transaction, "")]
        told = {(lock.target, lock.mode) for lock in branch.locks if lock.transaction is None}
        branch.told.locks.extend(types_pb2.HeldLock(target=target, mode=mode) for target, mode in sorted(told))


def waiting_for(held: Iterable[Lock], wanted: Iterable[Lock]) -> Iterator[Lock]:
    """Those of `wanted` that cannot be granted while `held` are held."""
    modes: defaultdict[_Tag, set[str]] = defaultdict(set)
    for lock in held:
        modes[lock.tag].add(lock.mode)
    for want in wanted:
        if _CONFLICTS.get(want.mode, frozenset()) & modes.get(want.tag, set()):
            yield want


def behind_of(first: Iterable[int], queue: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """The sessions `first`, and all that wait behind one of them, each with the one it waits for; 0 for `first`.

    `queue` has for each waiting session those it waits for.
    """
    found = dict.fromkeys(first, 0)
    ahead = set(found)
    while ahead:
        following = {
            pid: min(ahead.intersection(blockers))
            for pid, blockers in queue.items()
            if pid not in found and ahead.intersection(blockers)
        }
        found |= following
        ahead = set(following)
    return found


def _queue(connection: psycopg.Connection[Any], pids: list[int]) -> dict[int, list[int]]:
    return dict(connection.execute(QUEUE, {"pids": pids}).fetchall())


def _sessions(connection: psycopg.Connection[Any], pids: list[int]) -> dict[int, _Session]:
    rows = connection.execute(SESSIONS, {"pids": pids, "cut": _QUERY}).fetchall()
    ((role,),) = connection.execute(ROLE).fetchall()
    hidden = f"(not visible to the role {role}; GRANT pg_monitor TO {role} shows it)"
    return {
        pid: _Session(user or "", application or "", hidden if invisible else query or "")
        for pid, user, application, query, invisible in rows
    }


def _waiter(wait: Lock, session: _Session, behind: int) -> types_pb2.Waiter:
    return types_pb2.Waiter(
        pid=wait.pid,
        user=session.user,
        application=session.application,
        waiting=_duration(wait.waiting),
        query=session.query,
        behind=behind,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
