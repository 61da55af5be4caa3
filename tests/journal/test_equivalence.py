"""The same history in both stores gives the same answers, whatever the history."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.samples import BRANCHES, request
from journal.stores import HandSetClock
from twophase.contract.names import MAX_SEQUENCE, Epoch, Txid
from twophase.coordinator.journal.events import (
    Begun,
    Compensated,
    DeadLettered,
    Definition,
    Ended,
    Event,
    Finished,
    Reason,
    RequestRef,
    Resolved,
    SagaStep,
    TransactionRecord,
    Turned,
    Voted,
)
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import Journal, JournalError, Proposal, Pruning, Ruling
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, SAGA, Decision, Ending, Vote, delegated

# Stands for whatever nonce a store gave an epoch, so that two stores can be compared.
NONCE = "00000000"

sequences = st.integers(0, 3)
claims = st.none() | st.builds(request, st.sampled_from(["a", "b"]), st.integers(1, 3))
decisions = st.sampled_from([COMMIT, ABORT, delegated(0), SAGA, SAGA])
WHY = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False)
DEFINITION = Definition((SagaStep("reserve", "stock", "reserve", b"\x00", after=(), pivot=True),), deadline=1_000)


@dataclass(frozen=True)
class Decide:
    """A proposal for a transaction of the epoch that is so many openings old, by one so many openings old."""

    owner_age: int
    proposer_age: int
    sequence: int
    decision: Decision
    claim: RequestRef | None


@dataclass(frozen=True)
class Together:
    """Proposals of one moment."""

    decides: tuple[Decide, ...]


@dataclass(frozen=True)
class Turns:
    """Turns of one moment, each of a saga of the epoch that is so many openings old."""

    sagas: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Append:
    """An event for a transaction of the epoch that is so many openings old."""

    owner_age: int
    make: Callable[[Txid], Event]


@dataclass(frozen=True)
class Fence:
    """Fences the epoch that is so many openings old."""

    age: int


@dataclass(frozen=True)
class Reopen:
    """Closes and opens."""


@dataclass(frozen=True)
class Suspect:
    """Notes a proof that the journal is an older copy."""

    proof: str


@dataclass(frozen=True)
class Lift:
    """Lifts the journal, and opens it again."""

    epoch: int
    position: int


@dataclass(frozen=True)
class Prune:
    """Prunes the epoch that is so many openings old, after the wall clock was moved, forward or back. The newest `late`
    events are too young."""

    age: int
    below: int
    settled: bool
    limit: int
    moved: int
    late: int


Deed = Prune | Together | Turns | Append | Fence | Suspect | Lift | Reopen


def appended(sequence: int, claim: RequestRef | None, committed: bool, kind: int) -> Callable[[Txid], Event]:  # noqa: FBT001
    def make(base: Txid) -> Event:
        name = replace(base, sequence=sequence)
        events: tuple[Event, ...] = (
            Begun(name, claim, BRANCHES),
            Voted(name, 1, Vote.YES),
            Finished(name, 0, Ending.APPLIED if committed else Ending.LOST),
            Ended(name, committed),
            Compensated(name, 0, empty=committed),
            DeadLettered(name, 0, 5, WHY),
            Resolved(name, 0, "ada", "by hand"),
        )
        return events[kind]

    return make


decides = st.builds(Decide, st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, 1]), sequences, decisions, claims)
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(Together, st.lists(decides, min_size=1, max_size=4).map(tuple)),
    st.builds(Turns, st.lists(st.tuples(st.sampled_from([0, 0, 0, 1]), sequences), min_size=1, max_size=3).map(tuple)),
    st.builds(
        Append,
        st.sampled_from([0, 0, 1]),
        st.builds(appended, sequences, claims, st.booleans(), st.sampled_from([0, 1, 2, 3, 3, 4, 5, 6])),
    ),
    st.builds(
        Prune,
        st.integers(0, 2),
        st.sampled_from([0, 2, 4, MAX_SEQUENCE]),
        st.booleans(),
        st.integers(1, 3),
        st.sampled_from([0, 1, 1_000, -1_000]),
        st.sampled_from([0, 0, 0, 3]),
    ),
    st.sampled_from([Fence(0), Fence(1), Reopen(), Reopen(), Suspect("a"), Suspect("b"), Lift(0, 1), Lift(9, 30)]),
)


class Play:
    """One store going through a history. What it says is written down without nonces."""

    def __init__(self, reopen: Callable[[HandSetClock], Awaitable[Journal]]) -> None:
        self.reopen = reopen
        self.clock = HandSetClock()
        self.epochs: list[Epoch] = []
        self.said: list[object] = []

    async def run(self, history: list[Deed]) -> list[object]:
        journal = await self._open()
        for deed in history:
            match deed:
                case Together():
                    answers = await asyncio.gather(
                        *(self._decide(journal, decide) for decide in deed.decides), return_exceptions=True
                    )
                    self.said += [self._plain(answer) for answer in answers]
                case Turns():
                    names = [Txid(self._epoch(age), sequence) for age, sequence in deed.sagas]
                    turns = (journal.turn(Turned(name, (WHY,))) for name in names)
                    self.said += [self._plain(said) for said in await asyncio.gather(*turns, return_exceptions=True)]
                case Append():
                    journal.append(deed.make(Txid(self._epoch(deed.owner_age), 0)))
                case Fence():
                    await journal.fence(self._epoch(deed.age))
                case Prune():
                    await self._prune(journal, deed)
                case Suspect():
                    await journal.suspect(deed.proof)
                case Lift() | Reopen():
                    await self._look(journal)
                    if isinstance(deed, Lift):
                        await journal.lift(epoch=deed.epoch, position=deed.position)
                    await journal.close()
                    journal = await self._open()
        await self._look(journal)
        await journal.close()
        return self.said

    async def _prune(self, journal: Journal, deed: Prune) -> None:
        """Prunes, and holds the store to what must never be lost."""
        epoch = self._epoch(deed.age)
        self.clock.at += deed.moved
        await journal.flush()
        pruning = Pruning(epoch, deed.below, self.clock.at, journal.position - deed.late, deed.settled, deed.limit)
        before = {name: (await journal.transaction(name), await journal.history(name)) for name in self._names()}
        kept = {record.txid for record in await journal.heuristics()}
        horizon = {given.epoch: given.horizon for given in await journal.epochs()}
        pruned = await journal.prune(pruning)
        after = {given.epoch: given.horizon for given in await journal.epochs()}
        for name, (record, history) in before.items():
            if await journal.transaction(name) is not None:
                continue
            assert await journal.history(name) == ()
            if record is None:
                continue
            assert (record.ended, name in kept, name.epoch) == (True, False, epoch)
            assert name.sequence < min(pruned.horizon, deed.below)
            assert history[-1].position <= pruning.up_to
            assert max(one.at for one in history if isinstance(one.event, Ended)) < pruning.ended_before
        for name, (record, _) in before.items():
            if record is not None and not record.ended:
                assert not horizon[name.epoch] <= name.sequence < after[name.epoch]
        assert after == horizon | {epoch: max(horizon[epoch], pruned.horizon)}
        self.said.append(pruned)

    def _names(self) -> list[Txid]:
        return [Txid(epoch, sequence) for epoch, sequence in itertools.product(self.epochs, range(4))]

    async def _open(self) -> Journal:
        journal = await self.reopen(self.clock)
        self.epochs.append(journal.epoch)
        return journal

    def _epoch(self, age: int) -> Epoch:
        return self.epochs[-1 - age % len(self.epochs)]

    async def _decide(self, journal: Journal, decide: Decide) -> Ruling:
        name = Txid(self._epoch(decide.owner_age), decide.sequence)
        proposer = self._epoch(decide.proposer_age)
        definition = DEFINITION if decide.decision == SAGA else None
        return await journal.decide(
            Proposal(name, decide.decision, proposer, decide.claim, BRANCHES, definition=definition)
        )

    async def _look(self, journal: Journal) -> None:
        names = self._names()
        self.said.append([self._plain(await journal.transaction(name)) for name in names])
        for name in names:
            history = await journal.history(name)
            assert (fold(happening.event for happening in history) if history else None) == await journal.transaction(
                name
            )
            self.said.append([happening.position for happening in history])
        self.said.append([self._plain(await journal.request(name)) for name in ("a", "b", "c")])
        listed = [
            await journal.unfinished(),
            await journal.transactions(limit=5),
            await journal.transactions(limit=5, unfinished_only=True),
            await journal.transactions(limit=5, before=names[-2]),
            await journal.heuristics(),
        ]
        self.said.append([[self._plain(record) for record in records] for records in listed])
        self.said.append([(given.epoch.number, given.fenced, given.horizon) for given in await journal.epochs()])
        self.said.append(await journal.restoration())
        await journal.flush()
        self.said.append(journal.position)

    def _plain(self, answer: object) -> object:
        match answer:
            case Ruling(claimed_by=Txid() as holder):
                return replace(answer, claimed_by=_without_nonce(holder))
            case TransactionRecord(txid=name):
                plain = _without_nonce(name)
                dead = {branch: replace(event, txid=plain) for branch, event in answer.dead.items()}
                resolved = {branch: replace(event, txid=plain) for branch, event in answer.resolved.items()}
                return replace(answer, txid=plain, dead=dead, resolved=resolved)
            case JournalError() | ValueError():
                return type(answer)
            case BaseException():
                raise answer
            case _:
                return answer


def _without_nonce(name: Txid) -> Txid:
    return Txid(Epoch(name.epoch.number, NONCE), name.sequence)


@settings(max_examples=60, deadline=None)
@given(st.lists(deeds, max_size=14))
def test_both_stores_answer_alike(history: list[Deed]) -> None:
    disk = MemoryDisk()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"

        async def play() -> tuple[list[object], list[object]]:
            memory = Play(lambda clock: MemoryJournal.open(disk, clock=clock))
            sqlite = Play(lambda clock: SqliteJournal.open(path, clock=clock))
            return await memory.run(history), await sqlite.run(history)

        in_memory, in_sqlite = asyncio.run(play())
    assert in_memory == in_sqlite
