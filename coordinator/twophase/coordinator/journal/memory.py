"""The memory journal: the port without a file, for tests, simulations and embedded use that may forget.

Lives here: `MemoryDisk`, which keeps what was synced, and `MemoryJournal` on it. Must not live here: what the entries
mean (`memory_state`) and the rules (`rules`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.clock import Clock, wall_clock
from twophase.coordinator.journal.events import Event, Happening, TransactionRecord, Turned
from twophase.coordinator.journal.memory_state import Entry, Fenced, Given, Horizon, Lifted, Stamped, State, Suspected
from twophase.coordinator.journal.port import (
    Basis,
    EpochRecord,
    JournalClosed,
    JournalFailed,
    JournalLocked,
    ParticipantRecord,
    Proposal,
    Pruned,
    Pruning,
    Restoration,
    Ruling,
)
from twophase.coordinator.journal.pruning import plan
from twophase.coordinator.journal.rules import check_event, check_limit, decided_by, judge, judge_turn, needs_force


async def _at_once() -> None:
    """A sync that takes no time and does not fail."""


class MemoryDisk:
    """What outlives a journal object: share one between the openings of a journal.

    `sync` is awaited before anything counts as durable: it may wait, to hold a write up, or raise, to fail the journal.
    """

    def __init__(self, *, sync: Callable[[], Awaitable[None]] = _at_once) -> None:
        self.sync = sync
        self.journal_id = secrets.token_hex(8)
        self.durable: list[Entry] = []
        self.volatile: list[Entry] = []
        self.holder: MemoryJournal | None = None

    def write(self, entry: Entry) -> None:
        """Takes an entry; it is not durable yet."""
        self.volatile.append(entry)

    def crash(self, *, survivors: int = 0) -> None:
        """The machine dies. What was not synced is gone, but for its first `survivors` entries: a disk may have written
        more than it was asked to. The open journal fails, and another one may be opened.

        An entry of which only a part was written is one that did not survive, and so is everything after it: a log
        with checksums ends before the first one that does not fit.
        """
        self.keep(survivors)
        self.volatile.clear()
        self._let_go("the machine crashed")

    def kill(self) -> None:
        """The process dies, and the machine does not: what was not synced can be read, and may still be lost."""
        self._let_go("the process was killed")

    def _let_go(self, why: str) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.fail(ConnectionAbortedError(why))

    def keep(self, count: int) -> None:
        """The first `count` volatile entries are durable from now on."""
        self.durable += self.volatile[:count]
        del self.volatile[:count]


class MemoryJournal:
    """The port's `Journal` on a `MemoryDisk`. Use from one event loop."""

    def __init__(self, disk: MemoryDisk, state: State, epoch: Epoch, clock: Clock) -> None:
        """For `open` only."""
        self._disk = disk
        self._state = state
        self._epoch = epoch
        self._clock = clock
        self._position = _position_after(0, disk.durable)
        self._syncs = 0
        self._wanted = len(disk.durable)
        self._syncing: asyncio.Task[None] | None = None
        self._cause: BaseException | None = None
        self._closed = False

    @classmethod
    async def open(cls, disk: MemoryDisk | None = None, *, clock: Clock = wall_clock) -> MemoryJournal:
        """Opens the journal on a disk, a new one if none is given. `clock` stamps its events.

        Raises `JournalLocked` if it is open already, and `JournalFailed` if the new epoch cannot be synced.
        """
        disk = disk or MemoryDisk()
        if disk.holder is not None:
            raise JournalLocked(f"journal {disk.journal_id} is in use; close it, or let its disk crash")
        state = State()
        for entry in disk.durable + disk.volatile:
            state.apply(entry)
        epoch = Epoch(state.highest_epoch() + 1, secrets.token_hex(4))
        journal = cls(disk, state, epoch, clock)
        disk.holder = journal
        try:
            await journal._write([*(Fenced(earlier) for earlier in state.given), Given(epoch)])
        except JournalFailed:
            disk.holder = None
            raise
        journal._syncs = 0
        return journal

    def fail(self, cause: BaseException) -> None:
        """Nothing works any more, as after a failed write."""
        self._cause = self._cause or cause

    @property
    def journal_id(self) -> str:
        """See the port."""
        return self._disk.journal_id

    @property
    def epoch(self) -> Epoch:
        """See the port."""
        return self._epoch

    @property
    def position(self) -> int:
        """See the port."""
        return self._position

    @property
    def syncs(self) -> int:
        """See the port."""
        return self._syncs

    async def decide(self, proposal: Proposal) -> Ruling:
        """See the port."""
        self._check()
        ruling = judge(proposal, self._state.situation(proposal))
        if ruling.basis is not Basis.EARLIER:
            self._hand_over(Stamped(self._clock(), decided_by(proposal, ruling.decision)))
        if needs_force(ruling.decision) or ruling.claimed_by is not None:
            # An earlier decision, or the claim that stands in the way, may itself be waiting for its sync.
            await self._force()
        return ruling

    async def turn(self, turned: Turned) -> None:
        """See the port."""
        self._check()
        judge_turn(turned, self._epoch, self._state.situation_of(turned.txid, self._epoch))
        if turned.txid not in self._state.turned:
            self._hand_over(Stamped(self._clock(), turned))
        await self._force()

    def append(self, event: Event) -> None:
        """See the port."""
        self._check()
        check_event(event)
        self._hand_over(Stamped(self._clock(), event))

    async def flush(self) -> None:
        """See the port."""
        self._check()
        await self._force()

    async def register(self, participant: ParticipantRecord) -> None:
        """See the port."""
        self._check()
        await self._write([participant])

    async def fence(self, epoch: Epoch) -> None:
        """See the port."""
        self._check()
        await self._write([Fenced(epoch)])

    async def prune(self, pruning: Pruning) -> Pruned:
        """See the port."""
        await self._settle()
        horizon = self._state.horizons.get(pruning.epoch, 0)
        if pruning.epoch not in self._state.given:
            return Pruned(horizon, 0, more=False)
        candidates = [one for one in self._state.candidates(pruning.epoch) if one.sequence < pruning.below]
        known = [one for one in candidates if one.sequence >= horizon][: pruning.limit]
        late = [one for one in candidates if one.sequence < horizon and one.ended_at is not None and not one.kept]
        more = len(known) == pruning.limit
        planned = plan(pruning, horizon, (*late[: pruning.limit], *known), all_there=not more)
        changed = planned.horizon > horizon or bool(planned.gone)
        if changed:
            await self._write([Horizon(pruning.epoch, planned.horizon, planned.gone)])
        return Pruned(planned.horizon, len(planned.gone), more=more and changed)

    async def suspect(self, proof: str) -> None:
        """See the port."""
        self._check()
        await self._write([Suspected(proof)])

    async def lift(self, *, epoch: int, position: int) -> None:
        """See the port."""
        self._check()
        await self._write([Lifted(epoch, position)])

    async def restoration(self) -> Restoration:
        """See the port."""
        await self._settle()
        return self._state.restoration

    async def participants(self) -> tuple[ParticipantRecord, ...]:
        """See the port."""
        await self._settle()
        return tuple(record for _, record in sorted(self._state.participants.items()))

    async def epochs(self) -> tuple[EpochRecord, ...]:
        """See the port."""
        await self._settle()
        return self._state.epochs()

    async def transaction(self, txid: Txid) -> TransactionRecord | None:
        """See the port."""
        await self._settle()
        return self._state.record(txid)

    async def history(self, txid: Txid) -> tuple[Happening, ...]:
        """See the port."""
        await self._settle()
        return self._state.history(txid)

    async def request(self, request_id: str) -> TransactionRecord | None:
        """See the port."""
        await self._settle()
        return self._state.request(request_id)

    async def unfinished(self) -> tuple[TransactionRecord, ...]:
        """See the port."""
        await self._settle()
        return self._state.unfinished()

    async def heuristics(self) -> tuple[TransactionRecord, ...]:
        """See the port."""
        await self._settle()
        return self._state.heuristics()

    async def transactions(
        self, *, limit: int, before: Txid | None = None, unfinished_only: bool = False
    ) -> tuple[TransactionRecord, ...]:
        """See the port."""
        check_limit(limit)
        await self._settle()
        return tuple(islice(self._state.newest(before=before, unfinished_only=unfinished_only), limit))

    async def close(self) -> None:
        """See the port."""
        if self._closed:
            return
        self._closed = True
        try:
            self._check_health()
            await self._force()
        finally:
            if self._disk.holder is self:
                self._disk.holder = None

    async def _write(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._hand_over(entry)
        await self._force()

    def _hand_over(self, entry: Entry) -> None:
        self._state.apply(entry)
        self._disk.write(entry)

    async def _force(self) -> None:
        """Waits until everything handed over so far is durable, whoever stops waiting."""
        self._wanted = len(self._disk.durable) + len(self._disk.volatile)
        await self._reach(self._wanted)

    async def _settle(self) -> None:
        """A read never shows a decision that is still waiting for its sync (R4)."""
        self._check()
        await self._reach(self._wanted)

    async def _reach(self, count: int) -> None:
        while len(self._disk.durable) < count and self._cause is None:
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync(), name=f"sync of {self._disk.journal_id}")
                self._syncing.add_done_callback(self._synced)
            await asyncio.wait({self._syncing})
        self._check_health()

    async def _sync(self) -> None:
        """One sync, for all that were waiting when it began."""
        count = len(self._disk.volatile)
        await self._disk.sync()
        self._check_health()
        self._position = _position_after(self._position, self._disk.volatile[:count])
        self._disk.keep(count)
        self._syncs += 1

    def _synced(self, task: asyncio.Task[None]) -> None:
        self._syncing = None
        cause = asyncio.CancelledError("its sync was cancelled") if task.cancelled() else task.exception()
        if cause is not None:
            self.fail(cause)

    def _check(self) -> None:
        if self._closed:
            raise JournalClosed(f"journal {self._disk.journal_id} is closed; open it again")
        self._check_health()

    def _check_health(self) -> None:
        if self._cause is not None:
            raise JournalFailed(
                f"journal {self._disk.journal_id} failed: {self._cause}; what was being written is unknown until it is"
                " opened again, so stop this process and start it anew"
            ) from self._cause


def _position_after(position: int, entries: Iterable[Entry]) -> int:
    """The position of the last event, when the one before these entries was at `position`."""
    for entry in entries:
        if isinstance(entry, Lifted):
            position = max(position, entry.position)
        elif isinstance(entry, Stamped):
            position += 1
    return position
