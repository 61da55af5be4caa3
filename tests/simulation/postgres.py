"""A model of Postgres, as far as a participant's protocol can tell the difference.

Lives here: rows with locks, the ledger's unique key, prepared transactions, sessions that die, a standby's promotion.
Must not live here: what a participant does with them (`participants`).

What is modelled is what the manual and experience say, and `test_the_model` asks a real server the same:

- A row lock is held until the transaction ends, a prepared one's over crashes. A waiter gives up after its lock timeout
  (55P03). A second writer of a key waits for the first: if that one commits, 23505, else it goes on.
- A statement that fails ends its transaction's work and gives back its locks at once; what follows is refused (25P02),
  and COMMIT and PREPARE TRANSACTION answer ROLLBACK, without an error.
- PREPARE TRANSACTION and COMMIT PREPARED are atomic and durable. A GID that is taken is refused (42710), and the
  transaction is gone with it. A GID that is not there is 42704, whoever finished it, and however.
- What is not prepared is gone when its session ends: `end` without a commit, for one; `crash`, for all.
- A failover to an asynchronous standby (`fail_over`): the last records are lost, and with them whatever they did. This
  is the one point that the test does not ask a server.

Left out, since no participant of the simulation can come across it: several databases or roles on one server (0A000,
42501), a branch that two sessions finish at the same time (55000), no free slot (53200), COMMIT PREPARED in a
transaction block (25001), what cannot be prepared. Also left out: deadlocks (a lock timeout ends the wait),
and who of several waiters comes first, on which Postgres promises nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias


class DatabaseError(Exception):
    """The base of what a statement can end with."""


class LockTimeout(DatabaseError):
    """55P03."""


class UniqueViolation(DatabaseError):
    """23505: the ledger has a row with this key."""


class UndefinedObject(DatabaseError):
    """42704: there is no such prepared transaction."""


class DuplicateObject(DatabaseError):
    """42710: a transaction is prepared under this GID."""


class InFailedTransaction(DatabaseError):
    """25P02: an earlier statement of the transaction failed."""


class Tag(Enum):
    """The command tag of what ends a transaction."""

    COMMIT = "COMMIT"
    PREPARE = "PREPARE TRANSACTION"
    ROLLBACK = "ROLLBACK"


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
    failed: bool = False

    def copy(self) -> Work:
        """The same work, held by nobody yet."""
        return Work(list(self.changes), {gid: replace(row) for gid, row in self.rows.items()}, list(self.locks))


@dataclass(frozen=True, slots=True)
class Committed:
    """A record of the log: a transaction's own commit."""

    work: Work


@dataclass(frozen=True, slots=True)
class Prepared:
    """A record of the log: PREPARE TRANSACTION."""

    gid: str
    work: Work


@dataclass(frozen=True, slots=True)
class Finished:
    """A record of the log: COMMIT PREPARED or ROLLBACK PREPARED."""

    gid: str
    commit: bool


Record: TypeAlias = Committed | Prepared | Finished


class Database:
    """One server with one database."""

    def __init__(self, accounts: int, opening: int) -> None:
        self._opening = dict.fromkeys(range(accounts), opening)
        self.balances = dict(self._opening)
        self.movements: list[tuple[str, int, int]] = []
        self.ledger: dict[str, Row] = {}
        self.prepared: dict[str, Work] = {}
        self.timeline = 1
        self._log: list[Record] = []
        self._holders: dict[str, Work] = {}
        self._released: dict[str, asyncio.Event] = {}

    # --- what strikes it ----------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """An immediate shutdown and a start: sessions are gone, what is prepared is not."""
        kept = set(map(id, self.prepared.values()))
        for name, holder in tuple(self._holders.items()):
            if id(holder) not in kept:
                holder.locks.clear()
                self._release(name)

    def fail_over(self, *, lost: int) -> tuple[Record, ...]:
        """A standby is promoted that had not got the last `lost` records: what they did is undone, also a commit or a
        rollback of what had been prepared before. Returns them."""
        self.crash()
        for gid in tuple(self.prepared):
            self._give_back(self.prepared.pop(gid))
        kept = max(0, len(self._log) - lost)
        gone = tuple(self._log[kept:])
        del self._log[kept:]
        self.balances = dict(self._opening)
        self.movements, self.ledger = [], {}
        for record in self._log:
            self._redo(record)
        self.timeline += 1
        return gone

    def committed_rows(self) -> tuple[tuple[str, Row], ...]:
        """The rows that were committed outside two phases, also those that were pruned since."""
        return tuple(item for record in self._log if isinstance(record, Committed) for item in record.work.rows.items())

    # --- a transaction ------------------------------------------------------------------------------------------------

    async def lock(self, work: Work, name: str, *, timeout: float | None) -> None:
        """Takes a lock for a transaction; `timeout` in seconds, None for ever. Raises `LockTimeout`,
        `InFailedTransaction`."""
        if work.failed:
            raise InFailedTransaction(name)
        try:
            async with asyncio.timeout(timeout):
                while self._holders.get(name, work) is not work:
                    await self._released.setdefault(name, asyncio.Event()).wait()
        except TimeoutError:
            self._fail(work)
            raise LockTimeout(name) from None
        if name not in self._holders:
            self._holders[name] = work
            work.locks.append(name)

    async def insert(self, work: Work, gid: str, row: Row, *, timeout: float | None) -> None:
        """INSERT INTO the ledger. Raises `UniqueViolation`, `LockTimeout`, `InFailedTransaction`."""
        if not work.failed and (gid in self.ledger or gid in work.rows):
            self._fail(work)
            raise UniqueViolation(gid)
        await self.lock(work, f"ledger {gid}", timeout=timeout)
        if gid in self.ledger:
            self._fail(work)
            raise UniqueViolation(gid)
        work.rows[gid] = row

    def balance(self, work: Work, account: int) -> int:
        """What a transaction reads: what is committed, and its own changes. Raises `InFailedTransaction`."""
        if work.failed:
            raise InFailedTransaction(f"account {account}")
        return self.balances[account] + sum(amount for _, changed, amount in work.changes if changed == account)

    def end(self, work: Work, *, commit: bool) -> Tag:
        """COMMIT or ROLLBACK; a failed transaction is rolled back either way."""
        commit = commit and not work.failed
        if commit:
            self._write(Committed(work.copy()))
        self._give_back(work)
        return Tag.COMMIT if commit else Tag.ROLLBACK

    # --- two phases ---------------------------------------------------------------------------------------------------

    def prepare(self, gid: str, work: Work) -> Tag:
        """PREPARE TRANSACTION; a failed transaction is rolled back instead. Raises `DuplicateObject`."""
        if work.failed:
            return self.end(work, commit=False)
        if gid in self.prepared:
            self.end(work, commit=False)
            raise DuplicateObject(gid)
        self._write(Prepared(gid, work.copy()))
        work.locks.clear()
        return Tag.PREPARE

    def finish(self, gid: str, *, commit: bool) -> None:
        """COMMIT PREPARED or ROLLBACK PREPARED. Raises `UndefinedObject`."""
        if gid not in self.prepared:
            raise UndefinedObject(gid)
        self._write(Finished(gid, commit))

    # --- the log, and what it does ------------------------------------------------------------------------------------

    def _write(self, record: Record) -> None:
        self._log.append(record)
        self._redo(record)

    def _redo(self, record: Record) -> None:
        match record:
            case Committed(work):
                self._show(work)
            case Prepared(gid, work):
                branch = self.prepared[gid] = work.copy()
                self._holders.update(dict.fromkeys(branch.locks, branch))
            case Finished(gid, commit):
                branch = self.prepared.pop(gid)
                if commit:
                    self._show(branch)
                self._give_back(branch)

    def _show(self, work: Work) -> None:
        self.ledger.update({gid: replace(row) for gid, row in work.rows.items()})
        for transfer, account, amount in work.changes:
            self.movements.append((transfer, account, amount))
            self.balances[account] += amount

    def _fail(self, work: Work) -> None:
        work.failed = True
        self._give_back(work)

    def _give_back(self, work: Work) -> None:
        for name in work.locks:
            self._release(name)
        work.locks.clear()

    def _release(self, name: str) -> None:
        del self._holders[name]
        waiting = self._released.pop(name, None)
        if waiting is not None:
            waiting.set()
