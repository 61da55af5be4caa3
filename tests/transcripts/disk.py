"""The journal of a transcript: its entries, and how many of them are on disk.

Lives here: writing, syncing, losing, copying; the rule and the fold are the real ones (`journal.rules`,
`journal.memory_state`). Must not live here: who writes what, and when.

Several coordinators may use it at once, as they do a journal that is shared; and so may one that woke up too late.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import Event, Turned
from twophase.coordinator.journal.memory_state import Entry, Fenced, Given, Horizon, Stamped, State, Suspected
from twophase.coordinator.journal.port import EpochRecord, Proposal, Pruning, Restoration, Ruling
from twophase.coordinator.journal.pruning import plan
from twophase.coordinator.journal.rules import judge, judge_turn

T = TypeVar("T")

_LATER = 1  # every event is stamped 0, so that all of them are past retention whenever somebody prunes


class Disk:
    """What was written. The first `synced` entries outlive the machine."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._synced = 0
        self._openings = 0

    @property
    def state(self) -> State:
        """What all that can be read makes."""
        state = State()
        for entry in self._entries:
            state.apply(entry)
        return state

    def open(self, *, fence: bool) -> Epoch:
        """Gives out an epoch, on disk when it returns, with all that could be read. No nonce comes twice."""
        self._openings += 1
        state = self.state
        epoch = Epoch(state.highest_epoch() + 1, f"{self._openings:08x}")
        if fence:
            self._entries += [Fenced(earlier) for earlier in state.given if earlier not in state.fenced]
        self.force(Given(epoch))
        return epoch

    def judge(self, proposal: Proposal) -> Ruling:
        """The real rule on a proposal. Raises what it raises."""
        return judge(proposal, self.state.situation(proposal))

    def judge_turn(self, turned: Turned, epoch: Epoch) -> None:
        """The real rule on the turn of a saga. Raises what it raises."""
        judge_turn(turned, epoch, self.state.situation_of(turned.txid, epoch))

    def write(self, event: Event) -> None:
        """An event, which is not on disk yet."""
        self._entries.append(Stamped(0, event))

    def force(self, entry: Entry) -> None:
        """An entry, on disk when it returns."""
        self._entries.append(entry)
        self.sync()

    def fence(self, epoch: Epoch) -> None:
        """Fences an epoch, durably."""
        self.force(Fenced(epoch))

    def sync(self) -> None:
        """Everything that was written is on disk."""
        self._synced = len(self._entries)

    def lose(self, *, kept: int = 0) -> int:
        """The machine dies: what was not synced is gone, but for its first entries. How many are gone."""
        before = len(self._entries)
        del self._entries[self._synced + kept :]
        self._synced = len(self._entries)
        return before - len(self._entries)

    def copy(self) -> tuple[Entry, ...]:
        """A backup."""
        return tuple(self._entries[: self._synced])

    def restore(self, copy: tuple[Entry, ...]) -> None:
        """The backup takes the journal's place."""
        self._entries = list(copy)
        self.sync()

    def prune(self, epoch: Epoch, *, below: int) -> int:
        """Forgets what is over below a sequence, by the real rule. The epoch's horizon then."""
        state = self.state
        wanted = Pruning(epoch, below, ended_before=_LATER, up_to=state.position, settled=False)
        planned = plan(wanted, state.horizons.get(epoch, 0), state.candidates(epoch), all_there=True)
        self.force(Horizon(epoch, planned.horizon, planned.gone))
        return planned.horizon


class View:
    """The journal as the engine's modules ask it: as much of the port as they need here."""

    journal_id = "0123456789abcdef"

    def __init__(self, disk: Disk, epoch: Epoch) -> None:
        self._disk = disk
        self.epoch = epoch

    @property
    def position(self) -> int:
        """The last position."""
        return self._disk.state.position

    async def restoration(self) -> Restoration:
        """What is known of its being an older copy."""
        return self._disk.state.restoration

    async def epochs(self) -> tuple[EpochRecord, ...]:
        """The epochs given out."""
        return self._disk.state.epochs()

    async def suspect(self, proof: str) -> None:
        """It is an older copy."""
        self._disk.force(Suspected(proof))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("this coroutine waits for something, and nothing here ever happens by itself")


def sequence_after(txids: list[Txid], epoch: Epoch) -> int:
    """The next sequence of an epoch."""
    return 1 + max((txid.sequence for txid in txids if txid.epoch == epoch), default=0)
