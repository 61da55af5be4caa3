"""The pruner: it lets the journal and the participants forget what is long over.

Lives here: when something counts as over, beyond what the journal itself records, and telling the participants. Must
not live here: which records that makes prunable (`journal.pruning`), the handshake that carries horizons (`peers`).

The order: the journal raises an epoch's horizon durably, in one step with its own deletions; then the participants hear
of it. A crash in between leaves rows that the next handshake prunes (R8).

The wall clock says only what is past retention. What a horizon must never pass is told without it: transactions under
way, what any participant still holds prepared, and everything that happened so recently, by the monotonic clock of this
process, that a copy of its messages may still be on the way or at work. A participant's check of the horizon may see a
snapshot as old as the branch itself (REPEATABLE READ), so no branch may live from before the end of its transaction
until after the horizon has passed it: that time, and retention with it, is longer than the longest deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid, InvalidName
from twophase.coordinator.engine.api import Limits
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.underway import FINISH_SECONDS, Surroundings
from twophase.coordinator.journal.clock import Clock, wall_clock
from twophase.coordinator.journal.port import EpochRecord, Pruning
from twophase.v1 import participant_pb2

_log = logging.getLogger(__name__)

LONGEST_INTERVAL: Final = 60.0
"""Seconds between two rounds, at most; for a short retention a quarter of it."""
BATCH: Final = 200
"""Transactions forgotten in one write of the journal: a decision waits no longer than for one of these."""
_TELLINGS: Final = 200  # handshakes with one participant in one round; what is left then comes with the next
_PAUSE: Final = 0.02  # seconds between two batches, for everything else that the journal has to do
_QUIET: Final = 3600.0  # seconds after which nothing of before is on the way, if deadlines are shorter


class Pruner:
    """Prunes now and then, for ever. Does nothing while the journal counts as older than its participants, and while
    it is `paused`."""

    def __init__(
        self,
        around: Surroundings,
        live: Live,
        limits: Limits,
        *,
        next_sequence: Callable[[], int],
        paused: Callable[[], bool] = lambda: False,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """`next_sequence` tells the lowest sequence not given out yet, `paused` when nothing is to be written that can
        wait (the disk is full, the coordinator stops). `monotonic` is in seconds; the event loop's
        clock unless another is given."""
        self._around = around
        self._live = live
        self._retention = limits.retention
        self._quiet = max(limits.deadline_cap, min(limits.retention, _QUIET))
        self._next_sequence = next_sequence
        self._paused = paused
        self._clock = clock
        self._monotonic = monotonic or asyncio.get_running_loop().time
        self._started = self._monotonic()
        self._reached: deque[tuple[float, int]] = deque([(self._started, around.journal.position)])

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(min(LONGEST_INTERVAL, self._retention / 4))
            await self.prune()

    async def prune(self) -> int:
        """One round: forgets what can be forgotten, tells the participants. Returns how many records went."""
        if self._around.peers.quarantine.active or self._paused():
            return 0
        now = self._monotonic()
        self._reached.append((now, self._around.journal.position))
        up_to = self._position_at(now - self._quiet)
        forgotten = 0
        if up_to is not None:
            prepared, all_answered = await self._prepared()
            for record in await self._around.journal.epochs():
                if record.horizon < MAX_SEQUENCE:
                    forgotten += await self._prune_epoch(record, up_to, prepared, all_answered=all_answered)
        if forgotten:
            _log.info("forgot %d transactions that ended before retention", forgotten)
        await self._tell()
        return forgotten

    def _position_at(self, moment: float) -> int | None:
        """The highest position known to have been reached by then; None if none is."""
        while len(self._reached) > 1 and self._reached[1][0] <= moment:
            self._reached.popleft()
        at, position = self._reached[0]
        return position if at <= moment else None

    async def _prune_epoch(
        self, record: EpochRecord, up_to: int, prepared: dict[Epoch, int], *, all_answered: bool
    ) -> int:
        journal = self._around.journal
        ours = record.epoch == journal.epoch
        forgotten = 0
        while ours or record.fenced:
            # Of our own epoch this process knows itself what has begun. Of an earlier one nothing is begun any more,
            # and what was has come to light, or to its end, once nobody holds anything of it prepared.
            pruning = Pruning(
                epoch=record.epoch,
                below=min(self._bound(record.epoch), prepared.get(record.epoch, MAX_SEQUENCE)),
                ended_before=self._clock() - round(self._retention * 1000),
                up_to=up_to,
                settled=ours or all_answered,
                limit=BATCH,
            )
            pruned = await journal.prune(pruning)
            self._around.peers.allow(record.epoch, pruned.horizon)
            forgotten += pruned.forgotten
            if not pruned.more or self._paused():
                break
            await asyncio.sleep(_PAUSE)
        return forgotten

    def _bound(self, epoch: Epoch) -> int:
        """The lowest sequence of an epoch that is under way, or may yet begin."""
        first = self._next_sequence() if epoch == self._around.journal.epoch else MAX_SEQUENCE
        return min((txid.sequence for txid in self._live.names() if txid.epoch == epoch), default=first)

    async def _prepared(self) -> tuple[dict[Epoch, int], bool]:
        """The lowest prepared sequence of each epoch, at any participant, and whether all of them said it."""
        answers = await asyncio.gather(*(self._prepared_at(peer) for peer in self._around.peers))
        lowest: dict[Epoch, int] = {}
        for gid in (gid for answer in answers for gid in answer or ()):
            lowest[gid.txid.epoch] = min(gid.txid.sequence, lowest.get(gid.txid.epoch, MAX_SEQUENCE))
        return lowest, None not in answers

    async def _prepared_at(self, peer: Peer) -> list[Gid] | None:
        request = participant_pb2.ListPreparedRequest(journal_id=self._around.journal.journal_id)
        try:
            await self._around.peers.ready(peer, within=FINISH_SECONDS)
            answer = await peer.link.list_prepared(request, timeout=FINISH_SECONDS)
            if not peer.speaks_for(answer.identity):
                return None
            return [Gid.parse(branch.gid) for branch in answer.branches]
        except (LinkLost, InvalidName) as error:
            _log.info("participant %s does not say what is prepared there: %s", peer.name, error)
            return None

    async def _tell(self) -> None:
        """Shakes hands with whoever has not heard of a horizon, or has more to prune below one."""
        await asyncio.gather(*(self._tell_one(peer) for peer in self._around.peers))

    async def _tell_one(self, peer: Peer) -> None:
        peers = self._around.peers
        try:
            for _ in range(_TELLINGS):
                if not peers.has_news(peer) or peers.quarantine.active:
                    return
                await peers.greet(peer)
        except LinkLost as error:
            _log.info("participant %s has not heard what it may forget: %s", peer.name, error)
