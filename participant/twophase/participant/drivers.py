"""Runs the steps of a branch on a connection: the same steps, sync and async.

Lives here: how an `Exchange` becomes one round trip, and how business code is called. Must not live here: what the
steps are (`branch`), where connections come from (`lanes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from twophase.participant.branch import WorkStopped
from twophase.participant.database import AsyncWorkConnection, WorkConnection
from twophase.participant.errors import ParticipantError
from twophase.participant.exchanges import DoWork, Exchange, Reply, Statement, Steps, Worked
from twophase.participant.refusals import ConnectionGone
from twophase.participant.work import Work

_T = TypeVar("_T")

_CUT_SHORT_BY: Final = "SyncRepWaitForLSN"
_LEAVE_SECONDS: Final = 1.0


class WorkQuit(ParticipantError):
    """Business code raised what would end a process or a task (SystemExit, a stray CancelledError)."""


class _Notices:
    """Watches for the warning that a synchronous standby was not waited for (its text is translated)."""

    def __init__(self) -> None:
        self.cut_short = False

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        self.cut_short = self.cut_short or notice.source_function == _CUT_SHORT_BY


def drive(steps: Steps[_T], connection: WorkConnection, work: Work | None = None) -> _T:
    """Runs `steps` to their end in this thread. Raises what they raise; the connection is left as they leave it."""

    def perform(command: Exchange | DoWork) -> object:
        if isinstance(command, Exchange):
            return _exchange(command, connection)
        assert work is not None  # noqa: S101 - steps that yield DoWork come with work
        connection.lend()
        try:
            results = work.run(connection)
        except Exception:
            raise
        except BaseException as error:  # in a thread, nothing but the operation itself raises these
            raise WorkQuit(f"the operation raised {type(error).__name__}") from error
        finally:
            connection.take_back()
        return Worked(results, connection.info.transaction_status)

    try:
        command = next(steps)
        while True:
            try:
                answer = perform(command)
            except Exception as error:  # noqa: BLE001 - the steps decide what an error means
                command = steps.throw(error)
            else:
                command = steps.send(answer)
    except StopIteration as stop:
        value: _T = stop.value
        return value


def _exchange(exchange: Exchange, connection: WorkConnection) -> tuple[Reply, ...]:
    _check_free(connection)
    notices = _Notices()
    connection.add_notice_handler(notices)
    try:
        if len(exchange.statements) == 1:
            (only,) = exchange.statements
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute(only.query, only.params, prepare=_prepare(only))
            return (_reply(cursor, notices),)
        with connection.pipeline():
            cursors = [
                connection.cursor(row_factory=tuple_row).execute(each.query, each.params, prepare=_prepare(each))
                for each in exchange.statements
            ]
        return tuple(_reply(cursor, notices) for cursor in cursors)
    except Exception as error:
        if not _is_servers_no(error, connection.pgconn):
            connection.pgconn.finish()
            raise ConnectionGone("the connection to the participant's database was lost") from error
        raise
    finally:
        connection.remove_notice_handler(notices)


async def drive_async(
    steps: Steps[_T], connection: AsyncWorkConnection, work: Work, *, expires: Callable[[], asyncio.Timeout]
) -> _T:
    """`drive` in the event loop. `expires` makes the timeout that stops the business code."""

    async def perform(command: Exchange | DoWork) -> object:
        if isinstance(command, Exchange):
            return await _exchange_async(command, connection)
        connection.lend()
        stop = expires()
        try:
            async with stop:
                results = await work.run_async(connection)
        except TimeoutError as error:
            if stop.expired():
                raise WorkStopped("the business code was stopped") from error
            raise
        except (SystemExit, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise WorkQuit(f"the operation raised {type(error).__name__}") from error
        finally:
            connection.take_back()
        return Worked(results, connection.info.transaction_status)

    try:
        command = next(steps)
        while True:
            try:
                answer = await perform(command)
            except Exception as error:  # noqa: BLE001 - the steps decide what an error means
                command = steps.throw(error)
            else:
                command = steps.send(answer)
    except StopIteration as stop:
        value: _T = stop.value
        return value


async def _exchange_async(exchange: Exchange, connection: AsyncWorkConnection) -> tuple[Reply, ...]:
    _check_free(connection)
    notices = _Notices()
    connection.add_notice_handler(notices)
    try:
        if len(exchange.statements) == 1:
            (only,) = exchange.statements
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(only.query, only.params, prepare=_prepare(only))
            return (await _reply_async(cursor, notices),)
        async with connection.pipeline():
            cursors = [
                await connection.cursor(row_factory=tuple_row).execute(each.query, each.params, prepare=_prepare(each))
                for each in exchange.statements
            ]
        return tuple([await _reply_async(cursor, notices) for cursor in cursors])
    except Exception as error:
        if not _is_servers_no(error, connection.pgconn):
            connection.pgconn.finish()
            raise ConnectionGone("the connection to the participant's database was lost") from error
        raise
    finally:
        connection.remove_notice_handler(notices)


def _check_free(connection: WorkConnection | AsyncWorkConnection) -> None:
    """Business code may leave behind what holds the connection's lock for ever (a stream read halfway, a thread)."""
    if connection.lock.locked():
        if isinstance(connection, WorkConnection):
            _let_go(connection)
        connection.pgconn.finish()
        raise ConnectionGone("business code still used the connection after its end, so it was closed")


def _let_go(connection: WorkConnection) -> None:
    """Waits a moment until a thread that is inside the connection has left it.

    What `finish` frees must not be in use: that ends the whole process. With its socket cut the thread gets an error at
    once; a stream that was read halfway has nobody inside, and keeps the lock for ever.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as session:
        session.shutdown(socket.SHUT_RDWR)
    if connection.lock.acquire(timeout=_LEAVE_SECONDS):
        connection.lock.release()


def _prepare(statement: Statement) -> bool | None:
    """What has a GID in its text is never sent again: only statements with parameters are worth preparing."""
    return False if statement.params is None else None


def _reply(cursor: psycopg.Cursor[Any], notices: _Notices) -> Reply:
    while cursor.nextset():
        pass
    rows = tuple(cursor.fetchall()) if cursor.description is not None else ()
    return Reply(cursor.statusmessage or "", rows, notices.cut_short)


async def _reply_async(cursor: psycopg.AsyncCursor[Any], notices: _Notices) -> Reply:
    while cursor.nextset():
        pass
    rows = tuple(await cursor.fetchall()) if cursor.description is not None else ()
    return Reply(cursor.statusmessage or "", rows, notices.cut_short)


def _is_servers_no(error: Exception, pgconn: pq.abc.PGconn) -> bool:
    """True if a living server refused a statement. Everything else leaves the session in a state nobody knows."""
    return (
        isinstance(error, psycopg.Error)
        and error.sqlstate is not None
        and error.diag.severity_nonlocalized == "ERROR"
        and pgconn.status == pq.ConnStatus.OK
    )
