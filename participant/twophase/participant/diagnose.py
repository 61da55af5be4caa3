"""Is this database set up as prepared transactions need it? Asked at any time; the answer is for people.

Lives here: the checks, each a fact and, where something should be done, what to type. Must not live here: making things
right, refusing to start (`preflight`), and anything that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import sql

from twophase.contract.names import Gid, InvalidName
from twophase.participant.database import IDENTITY, identity_of, looking, without_password
from twophase.participant.errors import NotReady
from twophase.participant.migrations import VERSION
from twophase.participant.outcomes import Diagnosis, Identity
from twophase.participant.preflight import ledger_problems
from twophase.v1 import types_pb2

_Connection: TypeAlias = "psycopg.Connection[Any]"
_Result: TypeAlias = types_pb2.CheckResult.ValueType

_Finding: TypeAlias = tuple[_Result, str, str]
_Ask: TypeAlias = Callable[[_Connection], _Finding]

_OK: Final = types_pb2.CHECK_RESULT_OK
_WARNING: Final = types_pb2.CHECK_RESULT_WARNING
_PROBLEM: Final = types_pb2.CHECK_RESULT_PROBLEM

_OLD: Final = 60.0  # seconds after which a prepared transaction is worth a person's look: most last milliseconds
_FEW_SLOTS: Final = 0.1  # the share of free slots below which branches may soon be refused

_LOOK: Final = "twophase indoubt  -- says what each waits for, and who waits for it"

# The row locks of a prepared transaction could be overlooked by others on these lines of releases before these minor
# ones. (The fix is of March 2026 and went into 17 and 18.)
_FIXED_IN: Final = {17: 10, 18: 4}

# The server: version, read-only, who is asked for what.
_SERVER: Final[LiteralString] = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
       session_user::text, current_database()::text, current_setting('default_transaction_read_only') = 'on'"""

# Slots for prepared transactions, and how many are taken, over all databases of the server.
_SLOTS: Final[LiteralString] = """
SELECT current_setting('max_prepared_transactions')::int, current_setting('max_connections')::int,
       (SELECT count(*) FROM pg_prepared_xacts)"""

# What is switched off that durability rests on; synchronous_commit as this role gets it.
_DURABILITY: Final[LiteralString] = """
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')"""

# Standbys: which of them commits wait for, and how many are connected (their states only with pg_monitor).
_STANDBYS: Final[LiteralString] = """
SELECT current_setting('synchronous_standby_names'), count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')),
       count(*) FILTER (WHERE sync_state IS NULL)
FROM pg_stat_replication"""

# Every prepared transaction of the server, the oldest first.
_PREPARED: Final[LiteralString] = """
SELECT gid, database::text, owner::text, greatest(0, extract(epoch FROM clock_timestamp() - prepared))::float8,
       database = current_database()
FROM pg_prepared_xacts ORDER BY prepared, gid COLLATE "C\""""

# How far the oldest prepared transaction holds VACUUM back, in transaction ids, and when the server becomes anxious.
_HORIZON: Final[LiteralString] = """
SELECT greatest(0, age(transaction)), gid, current_setting('autovacuum_freeze_max_age')::int
FROM pg_prepared_xacts ORDER BY age(transaction) DESC, gid COLLATE "C" LIMIT 1"""

# Whether the role sees what other roles' sessions are about.
_SEES: Final[LiteralString] = """
SELECT pg_has_role('pg_read_all_stats', 'USAGE'), quote_ident(current_user)"""


def diagnose(dsn: str, participant: str, journal_id: str) -> Diagnosis:
    """Looks at everything once, over a connection of its own. Blocks, for some seconds at most.

    A database that cannot be reached is one of the findings; the other checks are left out then.
    """
    try:
        with looking(dsn, participant) as connection:
            identity = _identity(connection)
            checks = [_asked(subject, ask, connection, dsn) for subject, ask in _checks(participant, journal_id)]
            return Diagnosis(tuple(checks), identity=identity)
    except psycopg.Error as error:
        finding = f"the database cannot be reached: {_said(error, dsn)}"
        remedy = "check that Postgres runs there, and the host, port, user, password and database of the DSN"
        return Diagnosis((check("server", _PROBLEM, finding, remedy),))


def _checks(participant: str, journal_id: str) -> Iterator[tuple[str, _Ask]]:
    """What is looked at, in the order in which it is told. The subjects stay the same from release to release."""
    yield "server", _server
    yield "prepared slots", _slots
    yield "ledger", lambda connection: _ledger(connection, participant)
    yield "durability", _durability
    yield "standbys", _standbys
    yield "old branches", lambda connection: _old_branches(connection, journal_id)
    yield "foreign prepared transactions", lambda connection: _foreign(connection, journal_id)
    yield "vacuum horizon", _horizon
    yield "view of sessions", _view


def check(subject: str, result: _Result, finding: str, remedy: str = "") -> types_pb2.Check:
    """A check as it is told."""
    return types_pb2.Check(subject=subject, result=result, finding=finding, remedy=remedy)


def _asked(subject: str, ask: _Ask, connection: _Connection, dsn: str) -> types_pb2.Check:
    """One check. What the server refuses to tell is a finding, and no reason not to look at the rest."""
    try:
        with connection.transaction():
            return check(subject, *ask(connection))
    except psycopg.Error as error:
        if connection.closed:
            raise
        remedy = "GRANT what the message names to the role of the service, or look with psql as a superuser"
        return check(subject, _WARNING, f"cannot be looked at: {_said(error, dsn)}", remedy)


def _identity(connection: _Connection) -> Identity | None:
    """Which database answers; None on a standby, or if the role may not read it: both are told elsewhere."""
    try:
        with connection.transaction():
            return identity_of(connection.execute(IDENTITY).fetchone())
    except (NotReady, psycopg.errors.InsufficientPrivilege):
        return None


def _server(connection: _Connection) -> _Finding:
    version, number, standby, role, database, read_only = _one(connection, _SERVER)
    major, minor = divmod(number, 10_000)
    finding = f"PostgreSQL {version}, database {database!r}, as {role!r}"
    if standby:
        remedy = "point the DSN at the primary; with several hosts in it add target_session_attrs=read-write"
        return _PROBLEM, f"{finding}: a standby, which takes no writes", remedy
    if read_only:
        altered = sql.SQL("ALTER ROLE {} IN DATABASE {} SET default_transaction_read_only = off;")
        remedy = altered.format(sql.Identifier(role), sql.Identifier(database)).as_string(connection)
        return _PROBLEM, f"{finding}: transactions are read-only by default", remedy
    wanted = _FIXED_IN.get(major)
    if wanted is not None and minor < wanted:
        fact = f"before {major}.{wanted} others can overlook the row locks of a prepared transaction"
        return _WARNING, f"{finding}: {fact}", f"install PostgreSQL {major}.{wanted} or later, and restart the server"
    return _OK, finding, ""


def _slots(connection: _Connection) -> _Finding:
    slots, connections, taken = _one(connection, _SLOTS)
    more = f"ALTER SYSTEM SET max_prepared_transactions = {connections};  -- then restart the server"
    if slots == 0:
        return _PROBLEM, "max_prepared_transactions is 0, so the server prepares no transaction", more
    finding = f"max_prepared_transactions is {slots}: {taken} taken, {slots - taken} free"
    remedies = [_LOOK]
    if slots < connections:
        finding += f"; max_connections is {connections}, and each may prepare one"
        remedies.append(more)
    if taken >= slots:
        return _PROBLEM, finding, "\n".join(remedies)
    if slots - taken < slots * _FEW_SLOTS:
        return _WARNING, finding, "\n".join(remedies)
    if slots < connections:
        return _WARNING, finding, more
    return _OK, finding, ""


def _ledger(connection: _Connection, participant: str) -> _Finding:
    problems = list(ledger_problems(connection, participant))
    if not problems:
        return _OK, f"the ledger of {participant!r}, version {VERSION}, with the rights it needs", ""
    remedies = dict.fromkeys(remedy for _, remedy in problems)
    return _PROBLEM, "; ".join(fact for fact, _ in problems), "\n".join(remedies)


def _durability(connection: _Connection) -> _Finding:
    settings = dict(connection.execute(_DURABILITY).fetchall())
    result, facts, remedies = _OK, [], []
    if settings["synchronous_commit"] == "off":
        # PREPARE, and every commit of twophase's own, reaches the disk all the same.
        result = _WARNING
        facts.append("synchronous_commit is off: what this role commits by itself can be lost in a crash")
        remedies.append("ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();")
    if settings["full_page_writes"] == "off":
        result = _WARNING
        facts.append("full_page_writes is off: a crash can damage the database, unless its disk writes pages whole")
        remedies.append("ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();")
    if settings["fsync"] == "off":
        result = _PROBLEM
        facts.append("fsync is off: a crash of the machine loses what was prepared and committed")
        remedies.append("ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();")
    if result == _OK:
        return _OK, f"fsync and full_page_writes are on, synchronous_commit is {settings['synchronous_commit']}", ""
    return result, "; ".join(facts), "\n".join(remedies)


def _standbys(connection: _Connection) -> _Finding:
    names, connected, waited_for, hidden = _one(connection, _STANDBYS)
    if not names and not connected:
        return _OK, "none: a prepared branch is as durable as this server's disk", ""
    if not names:
        finding = f"{connected} connected, none synchronous: a failover can lose a branch that was prepared"
        return _WARNING, finding, "ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf();"
    finding = f"synchronous_standby_names is {names!r}, {connected} connected"
    if hidden:
        return _OK, f"{finding} (which of them are synchronous, this role may not see)", ""
    if not waited_for:
        remedy = "start a standby of that name; until then every commit and every PREPARE waits for it"
        return _PROBLEM, f"{finding}, none of them synchronous", remedy
    return _OK, f"{finding}, {waited_for} of them synchronous", ""


def _old_branches(connection: _Connection, journal_id: str) -> _Finding:
    own = [row for row in _prepared(connection) if _journal_of(row[0]) == journal_id and row[4]]
    old = [row for row in own if row[3] >= _OLD]
    finding = f"prepared here by this coordinator: {len(own)}, for longer than a minute: {len(old)}"
    if not old:
        return _OK, finding, ""
    gid, _, _, age, _ = old[0]
    finding += f"; the oldest, {gid}, for {age:.0f} s"
    return _WARNING, finding, _LOOK


def _foreign(connection: _Connection, journal_id: str) -> _Finding:
    foreign = [row for row in _prepared(connection) if _journal_of(row[0]) != journal_id]
    if not foreign:
        return _OK, "none on this server", ""
    gid, database, owner, age, _ = foreign[0]
    what = "of another coordinator" if _journal_of(gid) else "of another program"
    oldest = f"the oldest, {gid!r} in database {database!r}, is {age:.0f} s old, {what}, owned by {owner!r}"
    finding = f"on this server: {len(foreign)}, never touched by twophase; {oldest}"
    if age < _OLD:
        return _OK, finding, ""
    return _WARNING, finding, "ask whoever prepares transactions there; SELECT * FROM pg_prepared_xacts; lists them"


def _horizon(connection: _Connection) -> _Finding:
    row = connection.execute(_HORIZON).fetchone()
    if row is None:
        return _OK, "no prepared transaction holds VACUUM back", ""
    age, gid, anxious = row
    if age < anxious // 10:
        return _OK, f"prepared transactions hold VACUUM back by {age:,} transaction ids", ""
    finding = f"the oldest prepared transaction, {gid!r}, holds VACUUM back by {age:,} transaction ids"
    remedy = "twophase indoubt  -- or, if it is foreign, whoever prepared it; it must be finished"
    if age >= anxious:
        return _PROBLEM, f"{finding}, over autovacuum_freeze_max_age ({anxious:,})", remedy
    return _WARNING, finding, remedy


def _view(connection: _Connection) -> _Finding:
    sees, role = _one(connection, _SEES)
    if sees:
        return _OK, f"the role {role} sees the statements of all sessions", ""
    # Nothing is wrong with a role that sees no more than it must.
    return _OK, f"statements of other roles that wait are not shown; GRANT pg_monitor TO {role} shows them", ""


def _prepared(connection: _Connection) -> list[tuple[str, str, str, float, bool]]:
    return connection.execute(_PREPARED).fetchall()


def _journal_of(name: str) -> str:
    """The journal whose branch has this name; empty if it is no name of ours."""
    try:
        return Gid.parse(name).journal
    except InvalidName:
        return ""


def _one(connection: _Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None  # noqa: S101 - each of these queries returns one row
    return tuple(row)


def _said(error: psycopg.Error, dsn: str) -> str:
    lines = without_password(str(error), dsn=dsn).strip().splitlines()
    return lines[0] if lines else type(error).__name__
