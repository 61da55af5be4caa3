"""Is this database fit to take part? Asked once, at start; the answer is what to type.

Lives here: the checks before the first branch, each with its remedy. Must not live here: making things right
(`migrations`).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import sql

from twophase.participant.database import CONNECT_TIMEOUT, IDENTITY, check_dsn, identity_of, without_password
from twophase.participant.errors import NotReady
from twophase.participant.migrations import GRANTS, ROUTINES, VERSION
from twophase.participant.outcomes import Identity

log = logging.getLogger("twophase.participant")

Problem: TypeAlias = tuple[str, str]
"""What is wrong, in one line, and what to type."""

_SERVER: Final[LiteralString] = """
SELECT current_setting('max_prepared_transactions')::int, current_setting('max_connections')::int,
       current_setting('transaction_read_only') = 'on', session_user::text, current_database()::text"""

# Who acts: a role's settings may begin with SET ROLE.
_ROLE: Final[LiteralString] = "SELECT current_user::text, current_database()::text"

# Through the catalog, which everyone may read: names in a schema without USAGE are not looked up otherwise.
_TABLES: Final[LiteralString] = """
SELECT class.relname::text, class.oid
FROM pg_class AS class JOIN pg_namespace AS schema ON schema.oid = class.relnamespace
WHERE schema.nspname = 'twophase' AND class.relkind IN ('r', 'p')"""
# What tells the identity. Everyone may call these, unless a hardened installation took that away.
_OF_IDENTITY: Final = "pg_control_system(), pg_is_in_recovery(), pg_current_wal_lsn(), pg_walfile_name(pg_lsn)"
_MAY_USE: Final[LiteralString] = "SELECT has_schema_privilege('twophase', 'USAGE')"
_MAY: Final[LiteralString] = "SELECT has_table_privilege(%s::oid, %s)"
_ROUTINES: Final[LiteralString] = """
SELECT 'twophase.' || proname || '(' || oidvectortypes(proargtypes) || ')', proc.oid
FROM pg_proc AS proc JOIN pg_namespace AS schema ON schema.oid = proc.pronamespace
WHERE schema.nspname = 'twophase'"""
_MAY_CALL: Final[LiteralString] = "SELECT has_function_privilege(%s::oid, 'EXECUTE')"
_META: Final[LiteralString] = "SELECT participant, schema_version FROM twophase.meta"


def preflight(dsn: str, participant: str, *, connections: int) -> Identity:
    """Checks the database behind `dsn` and tells which it is. `connections`: how many branches may run at a time.

    Raises `NotReady` with everything that is wrong and what to type. Fewer slots for prepared transactions than
    connections is only a warning in the log: several branches may then be refused at a time.
    """
    check_dsn(dsn)
    try:
        # A pooler would keep what is prepared here, under names that others use, too.
        with psycopg.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT, prepare_threshold=None
        ) as connection:
            return _check(connection, participant, connections)
    except psycopg.Error as error:
        said = without_password(str(error), dsn=dsn).strip().splitlines()
        raise NotReady(
            f"the participant {participant!r} cannot connect to its database: {said[0] if said else 'no reason given'}",
            "check that Postgres runs there, and the host, port, user, password and database of the DSN",
        ) from None


def _check(connection: psycopg.Connection[Any], participant: str, connections: int) -> Identity:
    try:
        identity = identity_of(connection.execute(IDENTITY).fetchone())
    except psycopg.errors.InsufficientPrivilege as error:
        role, database = _one(connection.execute(_ROLE))
        quoted = sql.Identifier(role).as_string(connection)
        raise NotReady(
            f"the role {role!r} may not read which database {database!r} is: {error.diag.message_primary}",
            f"GRANT EXECUTE ON FUNCTION {_OF_IDENTITY} TO {quoted};",
        ) from None
    problems = [*_server(connection, connections), *ledger_problems(connection, participant)]
    if problems:
        raise NotReady("; ".join(fact for fact, _ in problems), *dict.fromkeys(remedy for _, remedy in problems))
    return identity


def _server(connection: psycopg.Connection[Any], connections: int) -> Iterator[Problem]:
    slots, most, read_only, role, database = _one(connection.execute(_SERVER))
    if slots == 0:
        yield (
            "max_prepared_transactions is 0, so the server prepares no transaction",
            f"ALTER SYSTEM SET max_prepared_transactions = {most};  -- then restart the server",
        )
    elif slots < connections:
        log.warning(
            "max_prepared_transactions is %d, and %d branches may run at a time: some will be refused."
            " ALTER SYSTEM SET max_prepared_transactions = %d, then restart the server",
            slots,
            connections,
            most,
        )
    if read_only:
        yield (
            f"transactions of the role {role!r} in the database {database!r} are read-only by default",
            # For the role in the database: that goes before what is set for either of them alone.
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET default_transaction_read_only = off;")
            .format(sql.Identifier(role), sql.Identifier(database))
            .as_string(connection),
        )


def ledger_problems(connection: psycopg.Connection[Any], participant: str) -> Iterator[Problem]:
    """What is wrong with the ledger of `participant` in this database, or with the rights on it. May be asked inside a
    transaction. Raises `psycopg.Error`.
    """
    role, database = _one(connection.execute(_ROLE))
    quoted = sql.Identifier(role).as_string(connection)
    tables = dict(connection.execute(_TABLES).fetchall())
    migrate = f"twophase ledger sql --participant {participant} --role {shlex.quote(role)} | psql DSN-OF-THE-OWNER"
    if "meta" not in tables:
        yield f"the database {database!r} has no ledger", migrate
        return
    if not _one(connection.execute(_MAY_USE))[0]:
        yield f"the role {role!r} may not use the schema twophase", f"GRANT USAGE ON SCHEMA twophase TO {quoted};"
    for table, rights in GRANTS.items():
        if table not in tables:
            yield f"the ledger in the database {database!r} lacks the table twophase.{table}", migrate
            continue
        missing = [right for right in rights if not _one(connection.execute(_MAY, (tables[table], right)))[0]]
        if missing:
            what = ", ".join(missing)
            yield (
                f"the role {role!r} may not {what} on twophase.{table}",
                f"GRANT {what} ON twophase.{table} TO {quoted};",
            )
    yield from _problems_with_routines(connection, role, migrate)
    try:
        with connection.transaction():
            meta = connection.execute(_META).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return  # told above
    if meta is None:
        yield f"the ledger in the database {database!r} does not say whose it is", migrate
        return
    owner, version = meta
    if owner != participant:
        yield (
            f"the database {database!r} holds the ledger of the participant {owner!r}, not of {participant!r}",
            f"point the DSN at the database of {participant!r}, or start the participant as {owner!r}",
        )
    if version < VERSION:
        yield f"the ledger has version {version}, this release needs {VERSION}", migrate
    elif version > VERSION:
        yield (
            f"the ledger has version {version}, this release knows {VERSION}",
            "start a newer release of twophase: python -m pip install --upgrade twophase",
        )


def _problems_with_routines(connection: psycopg.Connection[Any], role: str, migrate: str) -> Iterator[Problem]:
    there = dict(connection.execute(_ROUTINES).fetchall())
    for routine in ROUTINES:
        if routine not in there:
            yield f"the ledger lacks the procedure {routine}", migrate
        elif not _one(connection.execute(_MAY_CALL, (there[routine],)))[0]:
            quoted = sql.Identifier(role).as_string(connection)
            yield f"the role {role!r} may not call {routine}", f"GRANT EXECUTE ON PROCEDURE {routine} TO {quoted};"


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - each of these queries returns one row
    return tuple(row)
