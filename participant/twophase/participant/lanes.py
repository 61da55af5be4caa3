"""Where the steps of branches run: lanes of connections, and threads for those that block.

Lives here: getting a connection, running steps on it, giving it back clean or closing it, stopping what is too late.
Work and the second phase have lanes of their own (R13). Must not live here: what the steps are (`branch`, `finish`),
who may ask for them (`resource`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from twophase.participant.branch import Stale
from twophase.participant.database import (
    AsyncWorkConnection,
    WorkConnection,
    async_pool,
    sync_pool,
)
from twophase.participant.drivers import clean, clean_async, drive, drive_async
from twophase.participant.exchanges import Steps
from twophase.participant.outcomes import Answer, Identity, OutcomeUnknown
from twophase.participant.refusals import ConnectionGone, NoConnection
from twophase.participant.terms import Branch
from twophase.participant.work import Deadline, Work

_A = TypeVar("_A", bound=Answer)

log = logging.getLogger("twophase.participant")

# In seconds. A cancel request opens a connection of its own.
_CANCEL_TIMEOUT: Final = 2.0
# What waits longer for one of the second phase's connections is asked for again by the coordinator.
_FINISH_TIMEOUT: Final = 2.0
# A cancel request that finds the session between two statements is lost: it is repeated.
_CANCEL_EVERY: Final = 0.25
_CLOSE_TIMEOUT: Final = 5.0


class Run(Protocol):
    """A branch on its way. `stop` makes it end soon, if it is where it can be stopped."""

    def stop(self) -> None: ...


class WorkLane(Protocol):
    """Runs business code, inside the steps of its branch."""

    async def run(self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]) -> _A:
        """Raises what the steps raise, `NoConnection` and `ConnectionGone` if they never began."""
        ...

    async def close(self) -> None: ...


class _SyncRun:
    """A branch in a thread. Cancelling is aimed at its session, and the session may go on to another branch: under the
    lock it cannot, and afterwards a session that was aimed at is closed."""

    def __init__(self, executor: ThreadPoolExecutor, deadline: Deadline) -> None:
        self._executor = executor
        self._watchdog = asyncio.get_running_loop().call_at(deadline.at, self._too_late)
        self._lock = threading.Lock()
        self._connection: WorkConnection | None = None
        self._cancelled = False

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the lane is closing, and waits for the branch itself
            self._executor.submit(self._cancel)

    def over(self) -> None:
        """Nobody waits for the answer any more: the watchdog may go."""
        self._watchdog.cancel()

    def _too_late(self) -> None:
        self.stop()
        self._watchdog = asyncio.get_running_loop().call_later(_CANCEL_EVERY, self._too_late)

    def _cancel(self) -> None:
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
    """`def` operations: as many threads as connections."""

    def __init__(self, dsn: str, participant: str, *, size: int) -> None:
        self._size = size
        self._pool = sync_pool(dsn, participant, use="work", size=size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"twophase-{participant}-work")
        self._cancellers = ThreadPoolExecutor(2, thread_name_prefix=f"twophase-{participant}-cancel")
        self._slots = asyncio.Semaphore(size)
        self._pool.open()

    async def run(self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]) -> _A:
        loop = asyncio.get_running_loop()
        async with _slot(self._slots, branch):
            run = _SyncRun(self._cancellers, branch.deadline)
            answered: asyncio.Future[_A] = loop.create_future()

            def answer(value: _A | None, error: BaseException | None) -> None:
                loop.call_soon_threadsafe(_settle, answered, value, error)

            runs.add(run)
            try:
                self._threads.submit(self._run, make, branch, work, run, answer)
                return await answered
            finally:
                run.over()
                runs.discard(run)

    def _run(
        self,
        make: Callable[[Branch, str], Steps[_A]],
        branch: Branch,
        work: Work,
        run: _SyncRun,
        answer: Callable[[_A | None, BaseException | None], None],
    ) -> None:
        """In a thread: answers once, before the connection is cleaned, which nobody has to wait for."""
        # A restart of the server leaves dead connections in the pool: at most every one of them is tried.
        for _ in range(self._size + 1):
            try:
                connection = self._pool.getconn(branch.deadline.left())
            except (PoolTimeout, PoolClosed):
                break
            run.begin(connection)
            try:
                answer(_signed(drive(make(branch, connection.role), connection, work), connection), None)
                return
            except Stale:
                connection.pgconn.finish()
            except BaseException as error:  # noqa: BLE001 - it is told to whoever waits, in the event loop
                answer(None, error)
                return
            finally:
                self._give_back(connection, good=run.end())
        answer(None, ConnectionGone("the participant's database could not be reached before the deadline"))

    def _give_back(self, connection: WorkConnection, *, good: bool) -> None:
        """Only what is known to be at rest, and rid of what business code left in the session, is used again."""
        if good and connection.at_rest:
            try:
                if not connection.clean:
                    clean(connection)
            except (psycopg.Error, ConnectionGone) as error:
                log.warning("a connection could not be cleaned (%s) and is closed", type(error).__name__)
            if not connection.clean:
                connection.close()
        else:
            connection.close()
        self._pool.putconn(connection)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self._cancellers.shutdown()
        self._pool.close(_CLOSE_TIMEOUT)


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

    async def run(self, make: Callable[[Branch, str], Steps[_A]], branch: Branch, work: Work, runs: set[Run]) -> _A:
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
            try:
                connection = await self._pool.getconn(branch.deadline.left())
            except (PoolTimeout, PoolClosed):
                break
            known = False
            try:
                answer = _signed(
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
        await self._pool.close(_CLOSE_TIMEOUT)


class FinishLane:
    """The second phase: always in threads, with connections that no business code ever gets."""

    def __init__(self, dsn: str, participant: str, *, size: int) -> None:
        self._size = size
        self._pool = sync_pool(dsn, participant, use="finish", size=size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"twophase-{participant}-finish")
        self.identity: Identity | None = None
        self._pool.open()

    async def run(self, make: Callable[[], Steps[_A]]) -> _A:
        """Raises what the steps raise, and `OutcomeUnknown` if the database cannot be reached."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, make)

    def _run(self, make: Callable[[], Steps[_A]]) -> _A:
        for tries_left in reversed(range(self._size + 1)):
            try:
                connection = self._pool.getconn(_FINISH_TIMEOUT)
            except (PoolTimeout, PoolClosed) as error:
                raise OutcomeUnknown("the participant's database cannot be reached; ask again") from error
            try:
                self.identity = connection.identity
                return _signed(drive(make(), connection), connection)
            except OutcomeUnknown:
                # A dead connection of the pool, most likely. The steps are idempotent: again, on another one.
                if not connection.closed or not tries_left:
                    raise
            finally:
                if not connection.at_rest:
                    connection.close()
                self._pool.putconn(connection)
        raise AssertionError("the last try raises")

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self._pool.close(_CLOSE_TIMEOUT)


@contextlib.asynccontextmanager
async def _slot(slots: asyncio.Semaphore, branch: Branch) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(branch.deadline.at):
            await slots.acquire()
    except TimeoutError:
        raise NoConnection(
            "every connection for work was busy until the deadline; send the request again, or give the participant"
            " more work connections"
        ) from None
    try:
        yield
    finally:
        slots.release()


def _signed(answer: _A, connection: WorkConnection | AsyncWorkConnection) -> _A:
    return replace(answer, identity=connection.identity)


def _settle(future: asyncio.Future[_A], value: _A | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif value is not None:
        future.set_result(value)
