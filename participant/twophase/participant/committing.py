"""COMMIT PREPARED without a thread: sent by the event loop, which hears the answer itself.

Lives here: the one statement that ends nearly every branch, where it succeeds. Whatever else comes back is for the
steps of `finish`, which begin anew and are idempotent (R8). Must not live here: those steps, and what any answer but
success means.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Gid
from twophase.participant import database
from twophase.participant.database import WorkConnection
from twophase.participant.outcomes import Committed

_TAG: Final = b"COMMIT PREPARED"

# In seconds: how long commits wait while no session answers; all may be waiting for a standby.
_PATIENCE: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Wanted:
    gid: Gid
    answer: asyncio.Future[Committed | None]

    def end(self, answer: Committed | None) -> None:
        if not self.answer.done():  # else nobody waits for it any more
            self.answer.set_result(answer)


class Committer:
    """Sessions that commit prepared branches, one at a time each. All of it in the event loop."""

    def __init__(self, *, give_back: Callable[[WorkConnection], None]) -> None:
        """`give_back` takes a connection, closed or at rest, and does not block."""
        self._give_back = give_back
        self._sessions: set[_Session] = set()
        self._idle: list[_Session] = []
        self._waiting: deque[_Wanted] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._owed = 0
        self._emptied: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def is_busy(self) -> bool:
        """True if a commit sent now would wait for another one."""
        return not self._idle

    def add(self, connection: WorkConnection) -> None:
        """One more session; the connection is at rest, and from now on the committer's alone."""
        session = _Session(connection, self._next)
        self._sessions.add(session)
        self._next(session)

    def commit(self, gid: Gid) -> asyncio.Future[Committed | None]:
        """`Committed` if Postgres said so; None if it said anything else, or nothing, or was not asked in
        time: then the steps are to be run.

        Cancelling the future stops nothing. There must be a session.
        """
        loop = asyncio.get_running_loop()
        wanted = _Wanted(gid, loop.create_future())
        if self._idle:
            self._idle.pop().send(wanted)
        else:
            self._waiting.append(wanted)
            self._alarm = self._alarm or loop.call_later(_PATIENCE, self._look)
        return wanted.answer

    def give_up_one(self) -> None:
        """Somebody else wants a connection: one is given back, at once or when an answer has come."""
        if self._idle:
            self._dismiss(self._idle.pop())
        elif self._owed < len(self._sessions):
            self._owed += 1

    async def close(self) -> None:
        """Waits for what was sent, and gives every connection back; what was not sent is left to the steps."""
        if self._alarm is not None:
            self._alarm.cancel()
        while self._idle:
            self._dismiss(self._idle.pop())
        if self._sessions:
            self._owed = len(self._sessions)
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _look(self) -> None:
        """Where no session has answered for long, what waits for one is left to the steps."""
        if self._heard + _PATIENCE <= time.monotonic():
            while self._waiting:
                self._waiting.popleft().end(None)
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(_PATIENCE, self._look) if self._waiting else None

    def _next(self, session: _Session) -> None:
        """What comes after an answer, or after the end of the session."""
        self._heard = time.monotonic()
        if not session.is_good:
            if session in self._idle:
                self._idle.remove(session)
            session.leave()
            session.connection.pgconn.finish()
            self._dismiss(session)
        elif self._owed or (session.until <= self._heard and not self._waiting):
            self._dismiss(session)
        elif self._waiting:
            session.send(self._waiting.popleft())
        else:
            self._idle.append(session)

    def _dismiss(self, session: _Session) -> None:
        session.leave()
        self._sessions.discard(session)
        self._owed = max(0, self._owed - 1)
        self._give_back(session.connection)
        if self._sessions:
            return
        while self._waiting:
            self._waiting.popleft().end(None)
        if self._emptied is not None:
            self._emptied.set_result(None)


class _Session:
    """A connection in the event loop. `done` is called when it is free again, and when it is lost."""

    def __init__(self, connection: WorkConnection, done: Callable[[_Session], None]) -> None:
        self.connection = connection
        self.wanted: _Wanted | None = None
        self.is_good = True
        self.until = time.monotonic() + database.KEPT
        self._done = done
        self._results: list[pq.abc.PGresult] = []
        self._loop = asyncio.get_running_loop()
        self._socket = connection.pgconn.socket
        self._loop.add_reader(self._socket, self._hear)

    def send(self, wanted: _Wanted) -> None:
        self.wanted = wanted
        reach(CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED)
        pgconn = self.connection.pgconn
        try:
            pgconn.send_query(f"COMMIT PREPARED '{wanted.gid}'".encode())
            # So few bytes always fit, unless nobody reads them; the loop must not wait for that.
            self.is_good = pgconn.flush() == 0
        except psycopg.Error:
            self.is_good = False
        if not self.is_good:
            # Not from here: whoever sends is about to wait for the answer.
            self.leave()
            self._loop.call_soon(self._end, None)

    def leave(self) -> None:
        """The event loop hears nothing more of the connection."""
        self._loop.remove_reader(self._socket)

    def _hear(self) -> None:
        pgconn = self.connection.pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    break
                self._results.append(result)
            else:
                return
        except psycopg.Error:  # the connection is lost, at work or at rest
            self.is_good = False
        if self.is_good and self.wanted is None:
            return  # a notice, while it was at rest
        results, self._results = self._results, []
        self.is_good = self.is_good and self.connection.at_rest
        if [(result.status, result.command_status) for result in results] == [(pq.ExecStatus.COMMAND_OK, _TAG)]:
            reach(CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED)
            self._end(Committed(identity=self.connection.identity))
        else:
            self._end(None)

    def _end(self, answer: Committed | None) -> None:
        wanted, self.wanted = self.wanted, None
        if wanted is not None:
            wanted.end(answer)
        self._done(self)
