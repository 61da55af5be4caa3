"""Where the steps of branches run: lanes of connections, and threads for those that block.

Lives here: getting a connection, running steps on it, giving it back clean or closing it, stopping what is too late.
The second phase has a lane of its own, in `finishing` (R13). Must not live here: what the steps are (`branch`),
who may ask for them (`resource`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, Generic, Protocol, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from twophase.participant import database
from twophase.participant.branch import Stale
from twophase.participant.crew import Crew, Outbox
from twophase.participant.database import (
    AsyncWorkConnection,
    WorkConnection,
    async_pool,
    sync_pool,
)
from twophase.participant.drivers import clean, clean_async, drive, drive_async
from twophase.participant.exchanges import Steps
from twophase.participant.outcomes import Answer
from twophase.participant.refusals import ConnectionGone, NoConnection
from twophase.participant.terms import Branch
from twophase.participant.work import Work

_A = TypeVar("_A", bound=Answer)

log = logging.getLogger("twophase.participant")

# In seconds. A cancel request opens a connection of its own.
_CANCEL_TIMEOUT: Final = 2.0
# A cancel request that finds the session between two statements is lost: it is repeated.
_CANCEL_EVERY: Final = 0.25
CLOSE_TIMEOUT: Final = 5.0
# A pool that has given up dialling begins anew only when it is asked: those that wait ask again.
_ASK_AGAIN: Final = 1.0


class Run(Protocol):
    """A branch on its way. `stop` makes it end soon, if it is where it can be stopped."""

    def stop(self) -> None: ...


class WorkLane(Protocol):
    """Runs business code, inside the steps of its branch."""

    def run(
        self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]
    ) -> asyncio.Future[_A]:
        """Has what the steps raise, `NoConnection` and `ConnectionGone` if they never began. Not to be cancelled."""
        ...

    async def close(self) -> None: ...


class _SyncRun(Generic[_A]):
    """A branch for a thread. Cancelling is aimed at its session, and the session may go on to another branch: under the
    lock it cannot, and afterwards a session that was aimed at is closed."""

    def __init__(
        self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, lane: SyncWorkLane
    ) -> None:
        loop = asyncio.get_running_loop()
        self.make = make
        self.branch = branch
        self.work = work
        self.answered: asyncio.Future[_A] = loop.create_future()
        self._lane = lane
        self._watchdog = loop.call_at(branch.deadline.at, self._too_late)
        self._lock = threading.Lock()
        self._connection: WorkConnection | None = None
        self._cancelled = False
        self.asked = False
        """True while a request to cancel it is on its way, or waits for a thread."""

    def stop(self) -> None:
        self._lane.cancel(self)

    def over(self) -> None:
        """Nobody waits for the answer any more: the watchdog may go."""
        self._watchdog.cancel()

    def _too_late(self) -> None:
        if self._lane.withdraw(self):
            self.answered.set_exception(_no_connection())
            return
        self.stop()
        self._watchdog = asyncio.get_running_loop().call_later(_CANCEL_EVERY, self._too_late)

    def cancel(self) -> None:
        """In a thread: asks the server to stop what the session is at."""
        try:
            self._ask_to_stop()
        finally:
            self.asked = False

    def _ask_to_stop(self) -> None:
        with self._lock:
            if self._connection is None:
                return
            self._cancelled = True
            try:
                self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
            except psycopg.Error as error:
                log.warning("a branch could not be cancelled (%s); it stops at its own timeout", type(error).__name__)

    def begin(self, connection: WorkConnection) -> None:
        with self._lock:
            self._connection = connection

    def end(self) -> bool:
        """True if the session is still good for another branch."""
        with self._lock:
            self._connection = None
            return not self._cancelled


class SyncWorkLane:
    """`def` operations: as many threads as connections. Made in the event loop that waits for them."""

    def __init__(self, dsn: str, participant: str, *, size: int) -> None:
        pool = sync_pool(dsn, participant, use="work", size=size)
        outbox = Outbox(asyncio.get_running_loop())
        self._pool = pool
        self._crew: Crew[_SyncRun[Any]] = Crew(
            lambda: _Worker(pool, outbox, tries=size + 1), size=size, name=f"twophase-{participant}-work"
        )
        self._cancellers = ThreadPoolExecutor(2, thread_name_prefix=f"twophase-{participant}-cancel")
        self._pool.open()

    def run(
        self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]
    ) -> asyncio.Future[_A]:
        run = _SyncRun(make, branch, work, self)
        runs.add(run)

        def over(_: asyncio.Future[_A]) -> None:
            run.over()
            runs.discard(run)

        run.answered.add_done_callback(over)
        self._crew.submit(run)
        return run.answered

    def withdraw(self, run: _SyncRun[Any]) -> bool:
        """True if the branch was not begun, and never will be."""
        return self._crew.withdraw(run)

    def cancel(self, run: _SyncRun[Any]) -> None:
        """Stops what the branch's session is at, in a thread of its own: that takes a connection."""
        if run.asked:  # a server that is frozen takes no request: they would pile up until it goes on
            return
        run.asked = True
        with contextlib.suppress(RuntimeError):  # the lane is closing, and waits for the branch itself
            self._cancellers.submit(run.cancel)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._crew.close()
        self._cancellers.shutdown()
        self._pool.close(CLOSE_TIMEOUT)


class _Worker:
    """One thread's work on branches. It keeps its connection from one to the next."""

    def __init__(self, pool: ConnectionPool[WorkConnection], outbox: Outbox, *, tries: int) -> None:
        self._pool = pool
        self._outbox = outbox
        self._tries = tries
        self._kept: WorkConnection | None = None
        self._until = 0.0

    def perform(self, job: _SyncRun[Any]) -> None:
        """Answers once, before a connection is cleaned, which nobody has to wait for."""
        # A restart of the server leaves dead connections in the pool: at most every one of them is tried.
        for _ in range(self._tries):
            connection = self._kept
            if connection is None:
                connection = self._connection(job.branch)
                if connection is None:
                    break
                self._until = time.monotonic() + database.KEPT
            job.begin(connection)
            try:
                answer = drive(job.make(job.branch, connection.role), connection, job.work)
                self._outbox.put(job.answered, signed(answer, connection), None)
                return
            except Stale:
                connection.pgconn.finish()
            except BaseException as error:  # noqa: BLE001 - it is told to whoever waits, in the event loop
                self._outbox.put(job.answered, None, error)
                return
            finally:
                self._keep(connection, good=job.end())
        gone = ConnectionGone("the participant's database could not be reached before the deadline")
        self._outbox.put(job.answered, None, gone)

    def _connection(self, branch: Branch) -> WorkConnection | None:
        while (left := branch.deadline.left()) > 0:
            try:
                return self._pool.getconn(min(left, _ASK_AGAIN))
            except PoolTimeout:
                continue
            except PoolClosed:
                break
        return None

    def rest(self) -> None:
        connection, self._kept = self._kept, None
        if connection is not None:
            self._pool.putconn(connection)

    def _keep(self, connection: WorkConnection, *, good: bool) -> None:
        """Only what is known to be at rest, and rid of what business code left in the session, is used again."""
        self._kept = connection
        if not good or not connection.at_rest:
            connection.close()
        elif not connection.clean:
            try:
                clean(connection)
            except (psycopg.Error, ConnectionGone) as error:
                log.warning("a connection could not be cleaned (%s) and is closed", type(error).__name__)
            if not connection.clean:
                connection.close()
        if connection.closed or time.monotonic() >= self._until:
            self.rest()


class _AsyncRun:
    """A branch in a task; only its business code is stopped, never a PREPARE."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._timeout: asyncio.Timeout | None = None

    def expires(self) -> asyncio.Timeout:
        self._timeout = asyncio.timeout_at(self._branch.deadline.at)
        return self._timeout

    @property
    def stopped(self) -> bool:
        """True if psycopg cancelled a statement, and the request may still be on its way."""
        return self._timeout is not None and self._timeout.expired()

    def stop(self) -> None:
        if self._timeout is not None:
            with contextlib.suppress(RuntimeError):  # not entered yet, or left already
                self._timeout.reschedule(asyncio.get_running_loop().time())


class AsyncWorkLane:
    """`async def` operations: in the event loop, as many at a time as there are connections."""

    def __init__(self, dsn: str, participant: str, *, size: int) -> None:
        self._size = size
        self._pool = async_pool(dsn, participant, size=size)
        self._slots = asyncio.Semaphore(size)
        self._cleaning: set[asyncio.Task[None]] = set()

    def run(
        self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]
    ) -> asyncio.Future[_A]:
        return asyncio.ensure_future(self._in_turn(make, branch, work, runs))

    async def _in_turn(
        self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]
    ) -> _A:
        await self._pool.open()
        async with _slot(self._slots, branch):
            run = _AsyncRun(branch)
            runs.add(run)
            try:
                return await self._run(make, branch, work, run)
            finally:
                runs.discard(run)

    async def _run(self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, run: _AsyncRun) -> _A:
        for _ in range(self._size + 1):
            connection = await self._connection(branch)
            if connection is None:
                break
            known = False
            try:
                answer = signed(
                    await drive_async(make(branch, connection.role), connection, work, expires=run.expires), connection
                )
                known = True
                return answer
            except Stale:
                continue
            finally:
                cleaning = asyncio.create_task(self._give_back(connection, good=known and not run.stopped))
                self._cleaning.add(cleaning)
                cleaning.add_done_callback(self._cleaning.discard)
        raise ConnectionGone("the participant's database could not be reached before the deadline")

    async def _connection(self, branch: Branch) -> AsyncWorkConnection | None:
        while (left := branch.deadline.left()) > 0:
            try:
                return await self._pool.getconn(min(left, _ASK_AGAIN))
            except PoolTimeout:
                continue
            except PoolClosed:
                break
        return None

    async def _give_back(self, connection: AsyncWorkConnection, *, good: bool) -> None:
        """As in the sync lane."""
        if good and connection.at_rest:
            try:
                if not connection.clean:
                    await clean_async(connection)
            except (psycopg.Error, ConnectionGone) as error:
                log.warning("a connection could not be cleaned (%s) and is closed", type(error).__name__)
            if not connection.clean:
                await connection.close()
        else:
            await connection.close()
        await self._pool.putconn(connection)

    async def close(self) -> None:
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._pool.close(CLOSE_TIMEOUT)


@contextlib.asynccontextmanager
async def _slot(slots: asyncio.Semaphore, branch: Branch) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(branch.deadline.at):
            await slots.acquire()
    except TimeoutError:
        raise _no_connection() from None
    try:
        yield
    finally:
        slots.release()


def signed(answer: _A, connection: WorkConnection | AsyncWorkConnection) -> _A:
    """The answer with the identity of the session that gave it."""
    return replace(answer, identity=connection.identity)


def _no_connection() -> NoConnection:
    return NoConnection(
        "every connection for work was busy until the deadline; send the request again, or give the participant more"
        " work connections"
    )
