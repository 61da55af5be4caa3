"""The transactions under way in this process.

Lives here: who is in the set, and from when to when. Must not live here: anything about one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from twophase.contract.names import Txid
from twophase.coordinator.engine.underway import Underway


class Live:
    """Every transaction is in here from before its first message until all its branches are over.

    Recovery relies on it: a prepared branch whose transaction is not in here, and not decided, has no owner at work.
    """

    def __init__(self) -> None:
        self._running: dict[Txid, Underway] = {}

    def add(self, running: Underway) -> None:
        """Keeps the transaction until it has ended. Call it before the transaction sends anything."""
        self._running[running.txid] = running
        ended = running.until(lambda: running.ended)
        ended.add_done_callback(lambda _: self._running.pop(running.txid))

    def get(self, txid: Txid) -> Underway | None:
        """The transaction, if it is under way."""
        return self._running.get(txid)

    def names(self) -> frozenset[Txid]:
        """The transactions under way at this moment."""
        return frozenset(self._running)

    def __iter__(self) -> Iterator[Underway]:
        return iter(tuple(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._running
