"""What every call of a participant stands on: its process and sessions, its business, its ledger's rows.

Lives here: a participant's life, work on accounts, verdicts, the horizon. Must not live here: the calls of the contract
(`steps` for what commits by itself, `participants` for the rest), the database (`postgres`).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from simulation.deeds import Deed, gid_of, short
from simulation.postgres import Database, DatabaseError, LockTimeout, Record, Row, Tag, UniqueViolation, Work
from twophase.contract.names import Epoch, Gid
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types

LOCK_SECONDS = 0.5
_BRIEF_SECONDS = 0.2
_FINISHING = 2  # connections that are kept for the second phase


class Unanswered(Exception):
    """The call gets no answer."""


class Refused(Exception):
    """The business says no."""


class NotNow(Exception):
    """The business says no for the moment."""


class Forgotten(DatabaseError):
    """The branch lies below its epoch's horizon."""


class Told(Protocol):
    """Where a participant tells what it does."""

    def __call__(self, who: str, what: str) -> None: ...


class Site:
    """One participant's process and its database.

    `patience` is a verdict's lock timeout, `standby` the longest time that a commit waits for one, both in seconds;
    `fickle` is how often the business refuses for no reason, `moody` how often it refuses a step, or a compensation,
    for the moment. `deeds` gets what is committed outside two phases, `failures` counts answers of "not now" by key.
    """

    patience: float | None = _BRIEF_SECONDS

    def __init__(self, name: str, chance: random.Random, tell: Told, *, accounts: int, opening: int) -> None:
        self.name = name
        self.database = Database(accounts, opening)
        self.identity = types.DatabaseIdentity(system_identifier=f"7{name}", timeline=1, database=name)
        self.up = True
        self.position = 0
        self.fickle = 0.0
        self.moody = 0.0
        self.standby = 0.0
        self.deeds: list[Deed] = []
        self.failures: Counter[str] = Counter()
        self._horizons: dict[Epoch, int] = {}
        self._finishing = asyncio.Semaphore(_FINISHING)
        self._chance = chance
        self._tell = tell
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # --- its life -------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Works on a call; whoever waits may go away."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._over)
        return task

    def crash(self) -> None:
        """The process dies, with all its sessions."""
        self.up = False
        self.crash_database()

    def crash_database(self) -> None:
        """Its server is stopped at once, and started."""
        self.database.crash()
        self._lose_sessions()

    def fail_over(self, *, lost: int) -> tuple[Record, ...]:
        """A standby takes its server's place, without the last `lost` records, and on a timeline of its own."""
        gone = self.database.fail_over(lost=lost)
        self._lose_sessions()
        self.identity = types.DatabaseIdentity(
            system_identifier=self.identity.system_identifier,
            timeline=self.database.timeline,
            database=self.identity.database,
        )
        return gone

    def _lose_sessions(self) -> None:
        self._finishing = asyncio.Semaphore(_FINISHING)
        for task in tuple(self._tasks):
            task.cancel()

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()

    async def _pause(self, longest: float = 0.004) -> None:
        await asyncio.sleep(self._chance.uniform(0, longest))

    # --- work ------------------------------------------------------------------------------------------------------

    async def _work(self, work: Work, gid: str, operations: Iterable[pb.BranchOperation]) -> None:
        if gid in self.database.ledger or gid in self.database.prepared:
            raise UniqueViolation(gid)
        if self._chance.random() < self.fickle:
            raise Refused("CLOSED")
        for operation in operations:
            if operation.name == "look":
                continue
            transfer, account, amount = _read(operation)
            await self.database.lock(work, f"account {account}", timeout=LOCK_SECONDS)
            await self._pause()
            # What comes in is taken, also where a compensation has overdrawn the account.
            if amount < 0 and self.database.balance(work, account) + amount < 0:
                raise Refused("NOT_ENOUGH")
            work.changes.append((transfer, account, amount))
        await self._insert(work, gid, Row("applied"), timeout=LOCK_SECONDS)

    async def undo(self, work: Work, operations: Iterable[pb.BranchOperation]) -> None:
        """The compensations that the operations declare. An account may be overdrawn by one."""
        for operation in operations:
            if operation.name == "look":
                continue
            if operation.name != "move":
                raise Refused("NO_COMPENSATION")
            transfer, account, amount = _read(operation)
            await self.database.lock(work, f"account {account}", timeout=LOCK_SECONDS)
            await self._pause()
            work.changes.append((transfer, account, -amount))

    # --- rows ------------------------------------------------------------------------------------------------------

    async def _insert(self, work: Work, key: str, row: Row, *, timeout: float | None) -> None:
        """A row of the ledger, whose trigger looks at the horizon. Raises as `Database.insert`, and `Forgotten`."""
        if self.is_forgotten(key):
            raise Forgotten(key)
        await self.database.insert(work, key, row, timeout=timeout)

    def _commit_locally(self, work: Work) -> None:
        """COMMIT, outside two phases."""
        if self.database.end(work, commit=True) is not Tag.COMMIT:
            raise AssertionError("a transaction that failed is not committed here")
        now = asyncio.get_running_loop().time()
        self.deeds += [Deed(now, self.name, key, row.outcome) for key, row in work.rows.items()]

    async def bar(self, key: str, decision: str) -> str:
        """Places the tombstone, or says what is there. Raises `LockTimeout` while the branch is still running."""
        try:
            await self._verdict(key, Row("tombstone", decision))
        except UniqueViolation:
            return self.database.ledger[key].outcome
        return "tombstone"

    async def _verdict(self, key: str, row: Row) -> None:
        work = Work()
        try:
            await self._insert(work, key, row, timeout=self.patience)
            await self._pause()
            self._commit_locally(work)
            self._tell(self.name, f"writes {row.outcome} for {short(key)}")
        except (UniqueViolation, LockTimeout, Forgotten):
            self.database.end(work, commit=False)
            raise

    def prune(self, epoch: Epoch, sequence: int) -> None:
        """Prunes below a horizon, and refuses what is below it from then on."""
        self._horizons[epoch] = max(sequence, self._horizons.get(epoch, 0))
        for key in tuple(self.database.ledger):
            if self.is_forgotten(key):
                del self.database.ledger[key]

    def is_forgotten(self, key: str) -> bool:
        """Whether it lies below its epoch's horizon."""
        txid = Gid.parse(gid_of(key)).txid
        return txid.sequence < self._horizons.get(txid.epoch, 0)


def _read(operation: pb.BranchOperation) -> tuple[str, int, int]:
    move = json.loads(operation.payload.json)
    return move["transfer"], move["account"], move["amount"]


def refusal(error: Exception) -> types.Refusal:
    """The reason, as it is told."""
    match error:
        case Refused():
            return types.Refusal(kind=types.REFUSAL_KIND_BUSINESS, code=str(error), message="refused")
        case NotNow():
            return types.Refusal(kind=types.REFUSAL_KIND_BUSINESS, code="LATER", message="not now", retryable=True)
        case LockTimeout():
            return types.Refusal(kind=types.REFUSAL_KIND_CONFLICT, code="55P03", message="busy", retryable=True)
        case _:
            return types.Refusal(kind=types.REFUSAL_KIND_ABORTED, code="ABORTED", message="barred")
