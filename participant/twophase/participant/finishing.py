"""The lane of the second phase: its connections, which no business code ever gets, and its threads (R13).

Lives here: running the steps of `finish` and `compensate`, and lending the `committer` the connections that they leave.
Must not live here: work (`lanes`), what the steps are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from psycopg_pool import PoolClosed, PoolTimeout

from twophase.contract.names import Gid
from twophase.participant.committing import Committer
from twophase.participant.database import WorkConnection, sync_pool
from twophase.participant.drivers import drive
from twophase.participant.exchanges import Steps
from twophase.participant.lanes import CLOSE_TIMEOUT, signed
from twophase.participant.outcomes import Answer, Committed, Identity, OutcomeUnknown

_A = TypeVar("_A", bound=Answer)

# In seconds. What waits longer for one of these connections is asked for again by the coordinator.
_FINISH_TIMEOUT: Final = 2.0


class FinishLane:
    """The second phase: always in threads, with connections that no business code ever gets."""

    def __init__(self, dsn: str, participant: str, *, size: int) -> None:
        self._size = size
        self._pool = sync_pool(dsn, participant, use="finish", size=size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"twophase-{participant}-finish")
        self._committer = Committer(give_back=self._pool.putconn)
        self._leasing: asyncio.Future[WorkConnection] | None = None
        self._steps = 0
        self.identity: Identity | None = None
        self._pool.open()

    def commit(self, gid: Gid) -> asyncio.Future[Committed | None] | None:
        """`Committed`, as the event loop heard it; None, now or in the future, if the steps have to be run."""
        if self._committer.is_busy and self._leasing is None and len(self._committer) + self._steps < self._size:
            self._leasing = asyncio.get_running_loop().run_in_executor(
                self._threads, self._pool.getconn, _FINISH_TIMEOUT
            )
            self._leasing.add_done_callback(self._leased)
        return self._committer.commit(gid) if len(self._committer) else None

    def _leased(self, leasing: asyncio.Future[WorkConnection]) -> None:
        self._leasing = None
        if leasing.cancelled() or isinstance(leasing.exception(), PoolTimeout | PoolClosed):
            return
        connection = leasing.result()
        if len(self._committer) + self._steps >= self._size:  # the steps came first
            self._pool.putconn(connection)
            return
        self.identity = connection.identity
        self._committer.add(connection)

    async def run(self, make: Callable[[], Steps[_A]]) -> _A:
        """Raises what the steps raise, and `OutcomeUnknown` if the database cannot be reached."""
        self._steps += 1
        if len(self._committer) + self._steps > self._size:
            self._committer.give_up_one()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, make)
        finally:
            self._steps -= 1

    def _run(self, make: Callable[[], Steps[_A]]) -> _A:
        for tries_left in reversed(range(self._size + 1)):
            try:
                connection = self._pool.getconn(_FINISH_TIMEOUT)
            except (PoolTimeout, PoolClosed) as error:
                raise OutcomeUnknown("the participant's database cannot be reached; ask again") from error
            try:
                self.identity = connection.identity
                return signed(drive(make(), connection), connection)
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
        if self._leasing is not None:
            await asyncio.wait([self._leasing])
            await asyncio.sleep(0)  # until `_leased` was called
        await self._committer.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self._pool.close(CLOSE_TIMEOUT)
