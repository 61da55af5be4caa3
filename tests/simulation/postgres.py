"""A model of Postgres, as far as a participant's protocol can tell the difference.

Lives here: rows with locks, the ledger's unique key, prepared transactions, sessions that die. Must not live here: what
a participant does with them (`participants`).

What is modelled is what the manual and experience say: a row lock is held until the transaction ends, prepared ones
over crashes; a second writer of a key waits for the first; a waiter gives up after its lock timeout (55P03); PREPARE
and COMMIT PREPARED are atomic and durable; what is not prepared is gone when the session ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


class DatabaseError(Exception):
    """The base of what a statement can end with."""


class LockTimeout(DatabaseError):
    """55P03."""


class UniqueViolation(DatabaseError):
    """23505: the ledger has a row with this key."""


class UndefinedObject(DatabaseError):
    """42704: there is no such prepared transaction."""


@dataclass(slots=True)
class Row:
    """A row of the ledger."""

    outcome: str
    decision: str = ""


@dataclass(eq=False, slots=True)
class Work:
    """What one transaction has done and not committed."""

    changes: list[tuple[str, int, int]] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    locks: list[str] = field(default_factory=list)


class Database:
    """One server with one database."""

    def __init__(self, accounts: int, opening: int) -> None:
        self.balances = dict.fromkeys(range(accounts), opening)
        self.movements: list[tuple[str, int, int]] = []
        self.ledger: dict[str, Row] = {}
        self.prepared: dict[str, Work] = {}
        self.lives = 0
        self._holders: dict[str, Work] = {}
        self._released: dict[str, asyncio.Event] = {}

    def crash(self) -> None:
        """An immediate shutdown and a start: sessions are gone, what is prepared is not."""
        self.lives += 1
        kept = set(map(id, self.prepared.values()))
        for name, holder in tuple(self._holders.items()):
            if id(holder) not in kept:
                self._release(name)

    async def lock(self, work: Work, name: str, *, timeout: float) -> None:
        """Takes a lock for a transaction. Raises `LockTimeout`."""
        try:
            async with asyncio.timeout(timeout):
                while self._holders.get(name, work) is not work:
                    await self._released.setdefault(name, asyncio.Event()).wait()
        except TimeoutError:
            raise LockTimeout(name) from None
        if name not in self._holders:
            self._holders[name] = work
            work.locks.append(name)

    def end(self, work: Work, *, commit: bool) -> None:
        """COMMIT or ROLLBACK."""
        if commit:
            self.ledger.update(work.rows)
            for transfer, account, amount in work.changes:
                self.movements.append((transfer, account, amount))
                self.balances[account] += amount
        for name in work.locks:
            self._release(name)
        work.locks = []

    def prepare(self, gid: str, work: Work) -> None:
        """PREPARE TRANSACTION."""
        self.prepared[gid] = work

    def finish(self, gid: str, *, commit: bool) -> None:
        """COMMIT PREPARED or ROLLBACK PREPARED. Raises `UndefinedObject`."""
        work = self.prepared.pop(gid, None)
        if work is None:
            raise UndefinedObject(gid)
        self.end(work, commit=commit)

    async def insert(self, work: Work, gid: str, row: Row, *, timeout: float) -> None:
        """INSERT INTO the ledger. Raises `UniqueViolation` or `LockTimeout`."""
        await self.lock(work, f"ledger {gid}", timeout=timeout)
        if gid in self.ledger:
            raise UniqueViolation(gid)
        work.rows[gid] = row

    def _release(self, name: str) -> None:
        del self._holders[name]
        waiting = self._released.pop(name, None)
        if waiting is not None:
            waiting.set()
