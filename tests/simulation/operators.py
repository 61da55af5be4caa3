"""The people who look at dead letters: they try one again, or take it for done.

Lives here: what an operator does. Must not live here: what clients do (`clients`), what strikes the system (`world`).
"""

from __future__ import annotations

import asyncio

from simulation.clients import Clients
from twophase.coordinator.engine.api import Rejected
from twophase.coordinator.journal.port import JournalError

_LOOKS_EVERY = 0.8
_PATIENCE = 8.0


class Operators(Clients):
    """Everybody who sends something or looks after it."""

    async def operator(self) -> None:
        """Looks now and then, as long as there is trouble."""
        while asyncio.get_running_loop().time() < self.run.setting.seconds:
            await asyncio.sleep(self._chance.expovariate(1 / _LOOKS_EVERY))
            look = self._call(self._look())
            await asyncio.wait({look}, timeout=_PATIENCE)
            if not look.done() or look.cancelled():  # the coordinator died under the call
                self.tell("operator", "gets no answer")
            elif (error := look.exception()) is not None and not isinstance(error, Rejected | JournalError):
                raise error

    async def _look(self) -> None:
        engine = self.engine
        letters = await engine.dead_letters() if engine is not None else ()
        if engine is None or not letters:
            return
        letter = self._chance.choice(letters)
        if self._chance.random() < 1 / 2:
            self.tell("operator", f"tries {letter.step} of {letter.txid} again")
            await engine.retry_dead_letter(letter.txid, letter.step)
            return
        self.tell("operator", f"takes {letter.step} of {letter.txid} for done")
        even_if_away = self._chance.random() < 1 / 2
        done = await engine.resolve_dead_letter(
            letter.txid, letter.step, actor="somebody", reason="done by hand", even_if_away=even_if_away
        )
        self.tell("operator", f"is told: barred {done.barred}, done {done.done}")
