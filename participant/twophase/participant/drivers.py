"""Runs the steps of a branch on a connection: the same steps, sync and async.

Lives here: how an `Exchange` becomes one round trip, and how business code is called. Must not live here: what the
steps are (`branch`), where connections come from (`lanes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.generators import execute

from twophase.participant.branch import WorkStopped
from twophase.participant.database import CLEAN, AsyncWorkConnection, WorkConnection
from twophase.participant.errors import ParticipantError
from twophase.participant.exchanges import DoWork, Exchange, Reply, Statement, Steps, Worked
from twophase.participant.refusals import ConnectionGone
from twophase.participant.work import Work

_T = TypeVar("_T")

_LEAVE_SECONDS: Final = 1.0
_GOOD: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_CLEANING: Final = Exchange((), cleaning=CLEAN)


class WorkQuit(ParticipantError):
    """Business code raised what would end a process or a task (SystemExit, a stray CancelledError)."""


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
        return Worked(results, connection.pgconn.transaction_status)

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


def clean(connection: WorkConnection) -> None:
    """Rids a session of what business code may have left in it; `connection.clean` tells whether that worked.

    Raises `psycopg.Error` and `ConnectionGone`.
    """
    _exchange(_CLEANING, connection)


def _exchange(exchange: Exchange, connection: WorkConnection) -> tuple[Reply, ...]:
    script = exchange.script()
    connection.cut_short = False
    try:
        if script is None:
            _check_free(connection)
            results: Sequence[pq.abc.PGresult | None] = _pipelined(exchange, connection)
        elif connection.lock.acquire(blocking=False):
            try:
                results = _at_once(exchange, script, connection)
            finally:
                connection.lock.release()
        else:
            raise _still_used(connection)
        return _told(exchange, results, connection)
    except psycopg.Error as error:
        _check_servers_no(error, connection)
        raise


def _at_once(exchange: Exchange, script: bytes, connection: WorkConnection) -> Sequence[pq.abc.PGresult | None]:
    pgconn = connection.pgconn
    if len(exchange.statements) == 1 and not exchange.cleaning:
        return (pgconn.exec_(script),)  # hears the last answer only, at less cost
    pgconn.send_query(script)
    return connection.wait(execute(pgconn))


def _pipelined(exchange: Exchange, connection: WorkConnection) -> list[pq.abc.PGresult | None]:
    with connection.pipeline():
        cursors = [
            connection.cursor().execute(each.query, each.params, prepare=_prepare(each)) for each in exchange.statements
        ]
    return [cursor.pgresult for cursor in cursors]


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
        return Worked(results, connection.pgconn.transaction_status)

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


async def clean_async(connection: AsyncWorkConnection) -> None:
    """`clean` in the event loop."""
    await _exchange_async(_CLEANING, connection)


async def _exchange_async(exchange: Exchange, connection: AsyncWorkConnection) -> tuple[Reply, ...]:
    _check_free(connection)
    script = exchange.script()
    connection.cut_short = False
    try:
        if script is None:
            results = await _pipelined_async(exchange, connection)
        else:
            async with connection.lock:
                connection.pgconn.send_query(script)
                results = await connection.wait(execute(connection.pgconn))
        return _told(exchange, results, connection)
    except psycopg.Error as error:
        _check_servers_no(error, connection)
        raise


async def _pipelined_async(exchange: Exchange, connection: AsyncWorkConnection) -> list[pq.abc.PGresult | None]:
    async with connection.pipeline():
        cursors = [
            await connection.cursor().execute(each.query, each.params, prepare=_prepare(each))
            for each in exchange.statements
        ]
    return [cursor.pgresult for cursor in cursors]


def _told(
    exchange: Exchange, results: Sequence[pq.abc.PGresult | None], connection: WorkConnection | AsyncWorkConnection
) -> tuple[Reply, ...]:
    """One reply for each statement. Raises what the first that failed was answered."""
    wanted = len(exchange.statements)
    if wanted == 1 and not exchange.cleaning:
        return (_reply(results[-1] if results else None, connection),)
    replies = tuple([_reply(result, connection) for result in results[:wanted]])
    if len(replies) < wanted:
        raise psycopg.OperationalError(f"{len(replies)} answers to {wanted} statements")
    if exchange.cleaning:
        connection.clean = _is_clean(results[wanted:])
    return replies


def _reply(result: pq.abc.PGresult | None, connection: WorkConnection | AsyncWorkConnection) -> Reply:
    if result is None or result.status not in _GOOD:
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            raise psycopg.OperationalError("a statement was not answered")
        raise psycopg.errors.error_from_result(result, connection.info.encoding)
    tag = (result.command_status or b"").decode()
    if not result.ntuples:
        return Reply(tag, (), connection.cut_short)
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return Reply(tag, tuple(transformer.load_rows(0, result.ntuples, tuple)), connection.cut_short)


def _is_clean(results: Sequence[pq.abc.PGresult | None]) -> bool:
    """True if all went well, and nothing was left behind."""
    for result in results:
        if result is None or result.status not in _GOOD:
            return False
    last = results[-1] if results else None
    return last is not None and last.ntuples == 1 and last.get_value(0, 0) == b"f"


def _check_free(connection: WorkConnection | AsyncWorkConnection) -> None:
    """Business code may leave behind what holds the connection's lock for ever (a stream read halfway, a thread)."""
    if connection.lock.locked():
        raise _still_used(connection)


def _still_used(connection: WorkConnection | AsyncWorkConnection) -> ConnectionGone:
    if isinstance(connection, WorkConnection):
        _let_go(connection)
    connection.pgconn.finish()
    return ConnectionGone("business code still used the connection after its end, so it was closed")


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


def _check_servers_no(error: psycopg.Error, connection: WorkConnection | AsyncWorkConnection) -> None:
    """Raises `ConnectionGone` unless a living server refused a statement. Everything else leaves the session in a state
    nobody knows."""
    pgconn = connection.pgconn
    if error.sqlstate is None or error.diag.severity_nonlocalized != "ERROR" or pgconn.status != pq.ConnStatus.OK:
        pgconn.finish()
        raise ConnectionGone("the connection to the participant's database was lost") from error
