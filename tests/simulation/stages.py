"""The two stages of a script: the model of Postgres on virtual time, and a real server.

Lives here: how a statement is sent, how a wait is seen, which word an answer is. Must not live here: the scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from fixtures.virtual_time import VirtualLoop
from simulation import postgres as model
from simulation.scripts import ACCOUNTS, OPENING, Answer, Stage, Statement, Visible
from twophase.sandbox.postgres import Cluster, StopMode

_BRIEF: Final = 0.03
_SECONDS: Final = 30.0

_TAGS: Final = {
    "COMMIT": Answer.DONE,
    "PREPARE TRANSACTION": Answer.DONE,
    "ROLLBACK": Answer.ROLLED_BACK,
}


# --- the model --------------------------------------------------------------------------------------------------------

_ERRORS: Final[Mapping[type[model.DatabaseError], Answer]] = {
    model.LockTimeout: Answer.LOCK_TIMEOUT,
    model.UniqueViolation: Answer.DUPLICATE,
    model.DuplicateObject: Answer.NAME_TAKEN,
    model.UndefinedObject: Answer.NOT_FOUND,
    model.InFailedTransaction: Answer.FAILED_BEFORE,
}


class OnTheModel(Stage):
    """`simulation.postgres`, in an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = VirtualLoop()
        self.database = model.Database(ACCOUNTS, OPENING)
        self._works: dict[str, model.Work] = {}
        self._tasks: dict[str, asyncio.Task[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._tasks):
            self._end(name)
        self._loop.close()

    def start(self, name: str, statement: Statement) -> None:
        """See the stage."""
        self._tasks[name] = self._loop.create_task(self._run(name, statement))

    def settle(self, under_way: frozenset[str]) -> Mapping[str, str]:
        """See the stage. A virtual second is longer than any brief wait."""
        self._loop.run_until_complete(asyncio.sleep(1.0))
        ended = {name for name in under_way if self._tasks[name].done()}
        return {name: self._tasks.pop(name).result() for name in ended}

    def kill(self, name: str) -> None:
        """See the stage."""
        self._end(name)
        self.database.end(self._works.pop(name, model.Work()), commit=False)

    def stop(self) -> None:
        """See the stage."""
        self.database.crash()
        for name in tuple(self._tasks):
            self._end(name)
        self._works.clear()

    def visible(self) -> Visible:
        """See the stage."""
        database = self.database
        return Visible(
            tuple(database.balances.values()), tuple(sorted(database.ledger)), tuple(sorted(database.prepared))
        )

    def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            self._loop.run_until_complete(asyncio.wait({task}))

    async def _run(self, name: str, statement: Statement) -> str:
        try:
            return await self._answer(name, statement)
        except model.DatabaseError as error:
            return _ERRORS[type(error)].value

    async def _answer(self, name: str, statement: Statement) -> str:
        database, timeout = self.database, _BRIEF if statement.brief else None
        match statement.verb:
            case "commit" | "roll back":
                database_tag = database.end(self._taken(name), commit=statement.verb == "commit")
                return _word(statement, database_tag.value)
            case "prepare":
                return _word(statement, database.prepare(statement.on, self._taken(name)).value)
            case "commit prepared" | "roll back prepared":
                database.finish(statement.on, commit=statement.verb == "commit prepared")
                return Answer.DONE.value
            case _:
                pass
        work = self._works.setdefault(name, model.Work())
        match statement.verb:
            case "look":
                return str(database.balance(work, int(statement.on)))
            case "insert":
                await database.insert(work, statement.on, model.Row("applied"), timeout=timeout)
            case _:
                await database.lock(work, statement.wants, timeout=timeout)
                if statement.verb == "move":
                    work.changes.append((name, int(statement.on), statement.amount))
        return Answer.DONE.value

    def _taken(self, name: str) -> model.Work:
        return self._works.pop(name, None) or model.Work()


# --- a server ---------------------------------------------------------------------------------------------------------

_STATES: Final = {
    "55P03": Answer.LOCK_TIMEOUT,
    "23505": Answer.DUPLICATE,
    "42710": Answer.NAME_TAKEN,
    "42704": Answer.NOT_FOUND,
    "25P02": Answer.FAILED_BEFORE,
    "57P01": Answer.GONE,
    "57P02": Answer.GONE,
}

# Granted before whoever held it is answered, so it never shows a wait that is over.
_WAITING: Final = "SELECT pid FROM pg_locks WHERE NOT granted AND pid = ANY(%s)"


@dataclass(slots=True)
class _Session:
    connection: psycopg.Connection
    statement: Statement | None = None
    answer: Future[str] | None = None

    @property
    def pid(self) -> int:
        return self.connection.info.backend_pid


class OnAServer(Stage):
    """Sessions at a database of a real server, each in a thread of its own. Makes the tables anew."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        super().__init__()
        self._cluster = cluster
        self._database = database
        self._sessions: dict[str, _Session] = {}
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="session")
        self._admin = cluster.connect(database)
        for gid in self._prepared():
            self._admin.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        self._admin.execute("CREATE TABLE IF NOT EXISTS account (id integer PRIMARY KEY, balance integer NOT NULL)")
        self._admin.execute("CREATE TABLE IF NOT EXISTS ledger (gid text PRIMARY KEY)")
        self._admin.execute("TRUNCATE account, ledger")
        self._admin.execute("INSERT INTO account SELECT id, %s FROM generate_series(0, %s) id", (OPENING, ACCOUNTS - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._sessions):
            self.kill(name)
        self._pool.shutdown()
        self._admin.close()

    def start(self, name: str, statement: Statement) -> None:
        """See the stage."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(self._cluster.connect(self._database))
            # As whoever waits gives up by its lock timeout or not at all.
            session.connection.execute("SET deadlock_timeout = '1h'")
        session.statement = statement
        session.answer = self._pool.submit(_send, session.connection, statement)

    def settle(self, under_way: frozenset[str]) -> Mapping[str, str]:
        """See the stage."""
        running = {name: self._sessions[name] for name in under_way}
        for _ in range(10_000):
            # First who has an answer, then who waits: whoever let another one go on had its own answer later.
            ended = {name: session for name, session in running.items() if _answer_of(session).done()}
            rest = {name: session for name, session in running.items() if name not in ended}
            pids = [session.pid for session in rest.values()]
            waiting = {pid for (pid,) in self._admin.execute(_WAITING, (pids,))} if pids else set()
            if all(session.pid in waiting and not _is_brief(session) for session in rest.values()):
                return {name: _answer_of(session).result() for name, session in ended.items()}
            wait([_answer_of(session) for session in rest.values()], timeout=0.005, return_when=FIRST_COMPLETED)
        raise AssertionError(f"these have no answer and wait for no lock: {sorted(running)}")

    def kill(self, name: str) -> None:
        """See the stage."""
        session = self._sessions.pop(name, None)
        if session is None:
            return
        self._admin.execute("SELECT pg_terminate_backend(%s, %s)", (session.pid, int(_SECONDS * 1000)))
        _is_gone(session)

    def stop(self) -> None:
        """See the stage."""
        self._admin.close()
        self._cluster.restart(StopMode.IMMEDIATE)
        for session in self._sessions.values():
            _is_gone(session)
        self._sessions.clear()
        self._admin = self._cluster.connect(self._database)

    def visible(self) -> Visible:
        """See the stage."""
        balances = self._admin.execute("SELECT balance FROM account ORDER BY id").fetchall()
        ledger = self._admin.execute("SELECT gid FROM ledger ORDER BY gid").fetchall()
        return Visible(tuple(one for (one,) in balances), tuple(one for (one,) in ledger), tuple(self._prepared()))

    def _prepared(self) -> list[str]:
        found = self._admin.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        ).fetchall()
        return [gid for (gid,) in found]


def _is_gone(session: _Session) -> None:
    """Who was waiting learns it, and nobody else is asked."""
    if session.answer is not None and session.statement is not None:
        session.answer.exception(timeout=_SECONDS)
    session.connection.close()


def _answer_of(session: _Session) -> Future[str]:
    assert session.answer is not None
    return session.answer


def _is_brief(session: _Session) -> bool:
    return session.statement is not None and session.statement.brief


def _send(connection: psycopg.Connection, statement: Statement) -> str:
    try:
        return _sent(connection, statement)
    except psycopg.Error as error:
        if error.sqlstate in _STATES:
            return _STATES[error.sqlstate].value
        if connection.closed:
            return Answer.GONE.value
        raise


def _sent(connection: psycopg.Connection, statement: Statement) -> str:
    execute: Callable[..., psycopg.Cursor[tuple[int]]] = connection.execute
    gid = sql.Literal(statement.on)
    match statement.verb:
        case "commit prepared" | "roll back prepared":
            verb = "COMMIT" if statement.verb == "commit prepared" else "ROLLBACK"
            execute(sql.SQL("{} PREPARED {}").format(sql.SQL(verb), gid))
            return Answer.DONE.value
        case _:
            pass
    status = psycopg.pq.TransactionStatus
    if connection.info.transaction_status == status.IDLE:
        execute("BEGIN")
    match statement.verb:
        case "commit" | "roll back":
            ended = execute("COMMIT" if statement.verb == "commit" else "ROLLBACK")
            return _word(statement, ended.statusmessage or "")
        case "prepare":
            return _word(statement, execute(sql.SQL("PREPARE TRANSACTION {}").format(gid)).statusmessage or "")
        case _:
            pass
    execute(f"SET LOCAL lock_timeout = {int(_BRIEF * 1000) if statement.brief else 0}")
    match statement.verb:
        case "look":
            row = execute("SELECT balance FROM account WHERE id = %s", (int(statement.on),)).fetchone()
            assert row is not None
            return str(row[0])
        case "insert":
            execute("INSERT INTO ledger VALUES (%s)", (statement.on,))
        case "lock":
            execute("SELECT FROM account WHERE id = %s FOR UPDATE", (int(statement.on),))
        case _:
            change = (statement.amount, int(statement.on))
            execute("UPDATE account SET balance = balance + %s WHERE id = %s", change)
    return Answer.DONE.value


def _word(statement: Statement, tag: str) -> str:
    """The tag of what ends a transaction, as a word; to roll back is what was asked, or it is not."""
    return Answer.DONE.value if statement.verb == "roll back" and tag == "ROLLBACK" else _TAGS[tag].value
