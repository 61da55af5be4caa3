"""Connections: their class, their pools, and which database is at the other end.

Lives here: what business code may not do with a connection, how a used one is cleaned, DSNs without their passwords.
Must not live here: what is sent over a connection in a branch (`branch`, `finish`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, LiteralString

import psycopg
from psycopg import IsolationLevel, pq
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from twophase.participant.errors import NotReady
from twophase.participant.ledger import OF_SESSION
from twophase.participant.outcomes import Identity

CONNECT_TIMEOUT: Final = 5

# For questions of people, who ask again: in seconds, and in Postgres' words. Nothing they read takes a lock for long.
_LOOK_CONNECT_TIMEOUT: Final = 3
_LOOK_TIMEOUTS: Final[LiteralString] = "SET LOCAL statement_timeout = '3s'; SET LOCAL lock_timeout = '1s'"

# A promoted standby's own control file lags behind; the name of the WAL file being written does not.
IDENTITY: Final[LiteralString] = """\
SELECT system_identifier::text, current_database()::text,
       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
FROM pg_control_system()"""

# What outlives a transaction that was just prepared: it has no cursor WITH HOLD, no LISTEN and no temporary object, or
# Postgres would have refused (its manual, PREPARE TRANSACTION, Notes). The rest is in `migrations`.
CLEAN_PREPARED: Final = b"CALL twophase.clean(NULL)"
# DISCARD ALL, less what would throw away psycopg's prepared statements. RESET goes back to what DSN and role say.
CLEAN: Final = b"CLOSE ALL; UNLISTEN *; DISCARD TEMP; " + CLEAN_PREPARED


def check_dsn(dsn: str) -> None:
    """Raises `NotReady` if `dsn` is no connection string; the message does not repeat it."""
    try:
        misread = _is_misread(dsn, conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:
        misread = True
    if misread:
        raise NotReady(
            "the DSN is neither a connection URI nor a list of key=value (it is not shown, it may hold a password)",
            "postgresql://USER@HOST:5432/DATABASE (special characters percent-encoded; PGPASSWORD holds the password)",
        )


def _is_misread(dsn: str, parts: Mapping[str, Any]) -> bool:
    """True if libpq takes some of a URI's password for the host, the port or the database: the password has a '/' or
    '@' that is not percent-encoded. Errors would name it."""
    _, is_uri, rest = dsn.partition("://")
    database = rest.partition("?")[0].partition("/")[2]
    ports = str(parts.get("port", "")).split(",")
    return bool(is_uri) and (
        "@" in str(parts.get("host", "")) or "@" in database or any(port and not port.isdecimal() for port in ports)
    )


def without_password(text: str, *, dsn: str) -> str:
    """`text` as it may be logged: without the password of `dsn`, whatever it came from."""
    try:
        password = conninfo_to_dict(dsn).get("password")
    except psycopg.ProgrammingError:
        return "the connection string is malformed"
    return text.replace(str(password), "***") if password else text


def identity_of(row: tuple[Any, ...] | None) -> Identity:
    """Reads the row of `IDENTITY`. Raises `NotReady` on a standby."""
    assert row is not None  # noqa: S101 - the function in it always returns one row
    system_identifier, database, timeline = row
    if timeline is None:
        raise NotReady(
            f"the database {database!r} is a standby and takes no writes",
            "point the DSN at the primary; with several hosts in it add target_session_attrs=read-write",
        )
    return Identity(system_identifier=system_identifier, timeline=int(timeline, 16), database=database)


# What would end the branch's transaction, or begin another one. `with connection:` commits, too.
_OURS_ALONE: Final = (
    *("commit", "rollback", "close", "__enter__", "__aenter__"),
    *("set_autocommit", "set_isolation_level", "set_read_only", "set_deferrable"),
    *("tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback"),
)
_PREPARE_THRESHOLD: Final = 5

# Seconds. While a database is away a pool doubles its pause between two attempts, and after an outage of a minute would
# sleep for another one. Given up after this, it dials again as soon as somebody wants a connection.
_DIAL_AGAIN: Final = 1.0

# A database that has gone silent is given up after some ten seconds (libpq's parameters, the manual, 34.1.2), not
# after the system's two hours: its connections are few, and one of them may be needed to finish a branch.
_NOTICE_SILENCE: Final[Mapping[str, int]] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
KEPT: Final = 60.0
"""In seconds: the longest that a connection at work stays out of its pool, which retires old ones."""

_CUT_SHORT_BY: Final = "SyncRepWaitForLSN"
_SAVEPOINTS: Final = "Use connection.transaction() for savepoints, and raise Refused to roll everything back."


class _Lendable(psycopg.BaseConnection[Any]):
    """The half of a connection that does no I/O: who has it."""

    lent: bool = False
    clean: bool = False
    """True if nothing of an earlier branch is left in the session."""
    cut_short: bool = False
    """True if the server said, since this was last set to False, that it did not wait for a synchronous standby."""
    identity: Identity
    role: str
    """Who acts, as `ledger.mark` wants it."""
    keeps_statements: bool = True
    """False if a pooler stands between: the next transaction may be another session's, which knows nothing of the
    statements prepared in this one, or knows others by their names."""

    def introduce(self, row: tuple[Any, ...] | None) -> None:
        """Takes what `OF_SESSION` told of the session."""
        assert row is not None  # noqa: S101 - it always returns one row
        self.role, process = row
        # A pooler tells its clients a number of its own for their session.
        self.keeps_statements = process == self.pgconn.backend_pid
        self._prepare_as_usual()

    def _prepare_as_usual(self) -> None:
        self.prepare_threshold = _PREPARE_THRESHOLD if self.keeps_statements else None

    def watch(self) -> None:
        """Listens to what the server says beside its answers."""
        self.add_notice_handler(self._hear)

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        # Its text is translated.
        self.cut_short = self.cut_short or notice.source_function == _CUT_SHORT_BY

    def lend(self) -> None:
        """From now on business code has it."""
        self.lent = True
        self.clean = False
        # The branch was begun by hand. Should business code end it with SQL of its own, what it sends next must not
        # be committed statement by statement, but fall into a transaction that is rolled back.
        self._autocommit = False

    def take_back(self) -> None:
        """Business code has it no longer; what it changed in the object is undone."""
        self.lent = False
        self._autocommit = True
        self._prepare_as_usual()
        self._notice_handlers.clear()
        self._notify_handlers.clear()
        self.watch()
        self._adapters = None

    @property
    def at_rest(self) -> bool:
        """True if the connection is whole and outside a transaction, known for certain."""
        return (
            not self.closed
            and self.pgconn.transaction_status == pq.TransactionStatus.IDLE
            and self.pgconn.pipeline_status == pq.PipelineStatus.OFF
            and self._num_transactions == 0
        )


class WorkConnection(_Lendable, psycopg.Connection[Any]):
    """What a `def` operation gets: a psycopg connection inside a branch, whose end is not in its hands."""

    def take_back(self) -> None:
        super().take_back()
        self.row_factory = tuple_row
        self.cursor_factory = psycopg.Cursor
        self.server_cursor_factory = psycopg.ServerCursor


class AsyncWorkConnection(_Lendable, psycopg.AsyncConnection[Any]):
    """What an `async def` operation gets: a psycopg connection inside a branch, whose end is not in its hands."""

    def take_back(self) -> None:
        super().take_back()
        self.row_factory = tuple_row
        self.cursor_factory = psycopg.AsyncCursor
        self.server_cursor_factory = psycopg.AsyncServerCursor


def _ours_alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, refused while business code has the connection."""
    name = method.__name__

    @functools.wraps(method)
    def guarded(self: _Lendable, /, *args: Any, **kwargs: Any) -> Any:
        if self.lent:
            raise psycopg.ProgrammingError(
                f"connection.{name}() is not for business code: twophase ends the branch's transaction. {_SAVEPOINTS}"
            )
        return method(self, *args, **kwargs)

    return guarded


def _inside_the_branch(method: Callable[..., Any]) -> Callable[..., Any]:
    """`transaction()`, refused where it would begin a transaction of its own, and commit it."""

    @functools.wraps(method)
    def guarded(self: _Lendable, /, *args: Any, **kwargs: Any) -> Any:
        if self.lent and self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            raise psycopg.ProgrammingError(
                "the branch's transaction is over: business code ended it with SQL of its own (COMMIT or ROLLBACK)."
                f" {_SAVEPOINTS}"
            )
        return method(self, *args, **kwargs)

    return guarded


# Set from outside the class bodies, so that the methods keep psycopg's own signatures for type checkers.
for _class in (WorkConnection, AsyncWorkConnection):
    for _name in _OURS_ALONE:
        if hasattr(_class, _name):
            setattr(_class, _name, _ours_alone(getattr(_class, _name)))
    setattr(_class, "transaction", _inside_the_branch(_class.transaction))  # noqa: B010


def sync_pool(dsn: str, participant: str, *, use: str, size: int) -> ConnectionPool[WorkConnection]:
    """Connections for `def` operations or, of their own, for the second phase (R13); not open yet."""
    return ConnectionPool(
        dsn,
        connection_class=WorkConnection,
        kwargs=_parameters(dsn, participant),
        min_size=1,
        max_size=size,
        open=False,
        configure=_identify,
        reconnect_timeout=_DIAL_AGAIN,
        name=f"twophase {participant} {use}",
        num_workers=1,
    )


def async_pool(dsn: str, participant: str, *, size: int) -> AsyncConnectionPool[AsyncWorkConnection]:
    """Connections for `async def` operations; not open yet."""
    return AsyncConnectionPool(
        dsn,
        connection_class=AsyncWorkConnection,
        kwargs=_parameters(dsn, participant),
        min_size=1,
        max_size=size,
        open=False,
        configure=_identify_async,
        reconnect_timeout=_DIAL_AGAIN,
        name=f"twophase {participant} work",
        num_workers=1,
    )


@contextlib.contextmanager
def looking(dsn: str, participant: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own, inside a transaction that only reads, for people's questions: they never take one of the
    pools' connections, and end by themselves after a few seconds.

    Raises `psycopg.Error`, as what is done with it may.
    """
    check_dsn(dsn)
    own = {"connect_timeout": _LOOK_CONNECT_TIMEOUT, "prepare_threshold": None}  # a pooler would keep what is prepared
    parameters = {**_parameters(dsn, participant), **own}
    with psycopg.Connection.connect(dsn, **parameters) as connection:
        # A database may be set to another level, and one whole picture is wanted. SET LOCAL: the connection may be a
        # pooler's, and somebody else's next.
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            connection.execute(_LOOK_TIMEOUTS)
            yield connection


def _parameters(dsn: str, participant: str) -> dict[str, Any]:
    given = conninfo_to_dict(dsn)
    return {
        **{name: value for name, value in _NOTICE_SILENCE.items() if name not in given},
        "autocommit": True,
        "prepare_threshold": _PREPARE_THRESHOLD,
        "connect_timeout": CONNECT_TIMEOUT,
        "fallback_application_name": f"twophase {participant}",
    }


def _identify(connection: WorkConnection) -> None:
    connection.watch()
    connection.identity = identity_of(connection.execute(IDENTITY).fetchone())
    connection.introduce(connection.execute(OF_SESSION).fetchone())


async def _identify_async(connection: AsyncWorkConnection) -> None:
    connection.watch()
    connection.identity = identity_of(await (await connection.execute(IDENTITY)).fetchone())
    connection.introduce(await (await connection.execute(OF_SESSION)).fetchone())
