"""Whether the journal is an older copy than its participants know, and what then must not be done.

Lives here: the proofs, durable in the journal, and which transactions a missing decision says nothing about. Must not
live here: where proofs are found (`peers`, `supervisor`), how branches are settled all the same (`settling`).

A journal that was restored from a backup does not know what was decided after the copy was taken. So nothing new is
begun (its request id may have committed already, R6), and no missing decision means abort (R5). What the journal does
know stays true and is finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.port import Journal

_log = logging.getLogger(__name__)


class Quarantine:
    """What proves that this journal is older than its participants; empty as long as nothing does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._proofs: dict[str, None] = {}
        self._given: frozenset[Epoch] = frozenset({journal.epoch})
        self._floor = 0
        self._listeners: list[Callable[[], None]] = []

    async def load(self) -> None:
        """Knows again what was proven before: starting again is no way out."""
        known = await self._journal.restoration()
        self._floor = known.floor
        self._proofs = dict.fromkeys(known.proofs)
        self._given = frozenset(record.epoch for record in await self._journal.epochs())
        if known.proofs:
            self._alarm(self.proof)

    @property
    def active(self) -> bool:
        """Whether the coordinator is in quarantine."""
        return bool(self._proofs)

    @property
    def proof(self) -> str:
        """The first proof, in words; empty if there is none."""
        return next(iter(self._proofs), "")

    def on_proof(self, listener: Callable[[], None]) -> None:
        """Calls `listener` when the quarantine begins."""
        self._listeners.append(listener)

    async def prove(self, proof: str) -> None:
        """Something proves that the journal is older than its participants. Durable when it returns."""
        if proof in self._proofs:
            return
        first = not self._proofs
        self._proofs[proof] = None
        if first:
            self._alarm(proof)
            for listener in self._listeners:
                listener()
        reach(CrashPoint.RECOVERY_BEFORE_SUSPECT)
        await self._journal.suspect(proof)
        reach(CrashPoint.RECOVERY_AFTER_SUSPECT)

    def is_strange(self, epoch: Epoch) -> bool:
        """Whether the journal never gave this epoch out, and was not lifted above it either."""
        return epoch not in self._given and epoch.number > self._floor

    def doubts(self, txid: Txid) -> bool:
        """Whether a decision on this transaction may have been lost with a newer journal: a missing one says nothing.

        Never of one's own epoch: it is younger than the copy, and its nonce is nobody else's.
        """
        if txid.epoch == self._journal.epoch:
            return False
        return self.active or txid.epoch.number <= self._floor

    def _alarm(self, proof: str) -> None:
        _log.critical(
            "the journal is older than its participants: %s; nothing new is begun and nothing is presumed aborted."
            " Put the newest journal back, or, if it is lost, start with --after-restore",
            proof,
        )
