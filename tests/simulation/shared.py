"""A journal that several coordinators share, and a coordinator on it that can be frozen.

Lives here: what such a journal does that the memory journal does not. Must not live here: its rules (`journal.rules`),
who freezes whom (`world`).

It follows the newest journal on its disk: one state, judged in one place, as a database server would hold it. A fenced
owner may still ask, and is refused whatever it wants to write.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twophase.coordinator.journal.events import Turned
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.port import EpochFenced, Proposal, Ruling


class SharedJournal(MemoryJournal):
    """The journal as one coordinator sees it. While `awake` is not set, what it wants decided is not on its way yet."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.awake = asyncio.Event()
        self.awake.set()
        self._newest: MemoryJournal = self
        self._waiting = 0

    @property
    def position(self) -> int:
        """See the port."""
        return super().position if self._newest is self else self._newest.position

    def follow(self, newest: MemoryJournal) -> None:
        """Another coordinator has opened the journal, perhaps after its server died with what was not synced."""
        self._newest = newest
        self._state = newest._state
        self._wanted = len(self._disk.durable)

    def lose_connection(self) -> None:
        """The journal's server died. Whoever waits for it hears of that, others do not."""
        if self._waiting:
            self.fail(ConnectionAbortedError("the journal's server died"))

    async def _reach(self, count: int) -> None:
        self._waiting += 1
        try:
            await super()._reach(count)
        finally:
            self._waiting -= 1

    async def decide(self, proposal: Proposal) -> Ruling:
        """See the port."""
        await self.awake.wait()
        return await super().decide(proposal)

    async def turn(self, turned: Turned) -> None:
        """See the port."""
        await self.awake.wait()
        await super().turn(turned)

    async def suspect(self, proof: str) -> None:
        """See the port."""
        await self.awake.wait()
        if self.epoch in self._state.fenced:
            raise EpochFenced(f"epoch {self.epoch} is fenced: it writes nothing more")
        await super().suspect(proof)
