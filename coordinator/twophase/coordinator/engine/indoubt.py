"""What is in doubt at this moment, and what the coordinator is doing about it.

Lives here: asking all participants, and laying their answers beside the journal and the transactions under way. Must
not live here: doing anything about it (`running`, `supervisor`), gRPC, layout.

The participants are read first: what is prepared then and not under way afterwards has no one at work on it, unless it
was finished in between. Where the journal says so, the participant is asked once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from twophase.contract.names import Gid, InvalidName, Txid
from twophase.coordinator.engine.links import LinkLost, NotOffered
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.running import Running
from twophase.coordinator.engine.underway import Surroundings
from twophase.coordinator.journal.events import TransactionRecord
from twophase.coordinator.journal.port import EpochRecord
from twophase.coordinator.protocol.decisions import SAGA, DecisionKind, Vote
from twophase.coordinator.protocol.twophase import Phase, Standing
from twophase.v1 import participant_pb2

LOOK_SECONDS: Final = 4.0
"""How long one participant may take to answer."""

_PAGE: Final = 500
_MOST: Final = 10_000  # transactions of the journal that are gone through for participants that do not answer

_Seen: TypeAlias = participant_pb2.ObservedBranch


@dataclass(frozen=True, slots=True)
class Doubt:
    """A branch in doubt. `seen` is what its participant tells of it; None if that did not answer, and the journal alone
    says that it is, or may be, prepared there."""

    gid: Gid
    participant: str
    record: TransactionRecord | None
    doing: str
    attempts: int = 0
    last_error: str = ""
    seen: _Seen | None = None

    @property
    def age(self) -> float:
        """Seconds since it was prepared; 0 if that is not known."""
        return self.seen.age.ToNanoseconds() / 1e9 if self.seen is not None else 0.0


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A participant that did not answer, and why not."""

    participant: str
    error: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything in doubt, the oldest first; then what is at participants that did not answer. `quarantine` says why
    nothing is concluded from a missing decision; empty if it is."""

    branches: tuple[Doubt, ...]
    unanswered: tuple[Unanswered, ...]
    quarantine: str


async def survey(around: Surroundings, live: Live) -> Survey:
    """Asks every participant at the same time; takes as long as the slowest, at most `LOOK_SECONDS` and a moment."""
    return await _Survey(around, live).make()


class _Survey:
    def __init__(self, around: Surroundings, live: Live) -> None:
        self._around = around
        self._journal = around.journal
        self._live = live
        self._epochs: dict[object, EpochRecord] = {}

    async def make(self) -> Survey:
        peers = sorted(self._around.peers, key=lambda peer: peer.name)
        answers = await asyncio.gather(*(self._look(peer) for peer in peers))
        self._epochs = {record.epoch: record for record in await self._journal.epochs()}
        found: list[Doubt] = []
        unanswered = []
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, Unanswered):
                unanswered.append(answer)
            else:
                found += await self._at(peer, answer)
        silent = {one.participant for one in unanswered}
        told = [doubt async for doubt in self._told_by_the_journal(silent)] if silent else []
        return Survey(
            (*sorted(found, key=lambda doubt: (-doubt.age, doubt.gid)), *sorted(told, key=lambda doubt: doubt.gid)),
            tuple(unanswered),
            self._around.peers.quarantine.proof,
        )

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _look(self, peer: Peer) -> tuple[_Seen, ...] | Unanswered:
        journal_id = self._journal.journal_id
        answer: participant_pb2.ObserveResponse | participant_pb2.ListPreparedResponse
        try:
            try:
                observe = participant_pb2.ObserveRequest(journal_id=journal_id)
                answer = await peer.link.observe(observe, timeout=LOOK_SECONDS)
            except NotOffered:
                list_prepared = participant_pb2.ListPreparedRequest(journal_id=journal_id)
                answer = await peer.link.list_prepared(list_prepared, timeout=LOOK_SECONDS)
        except LinkLost as error:
            return Unanswered(peer.name, str(error))
        if not peer.speaks_for(answer.identity):
            return Unanswered(peer.name, "the answer comes from another database or timeline than the registered one")
        match answer:
            case participant_pb2.ObserveResponse():
                return tuple(answer.branches)
            case participant_pb2.ListPreparedResponse():
                return tuple(_Seen(gid=branch.gid, age=branch.age) for branch in answer.branches)

    async def _still_prepared(self, peer: Peer) -> frozenset[str]:
        request = participant_pb2.ListPreparedRequest(journal_id=self._journal.journal_id)
        try:
            answer = await peer.link.list_prepared(request, timeout=LOOK_SECONDS)
        except LinkLost:
            return frozenset()
        return frozenset(branch.gid for branch in answer.branches)

    # --- what participants say ----------------------------------------------------------------------------------------

    async def _at(self, peer: Peer, seen: Iterable[_Seen]) -> list[Doubt]:
        found, finished = [], []
        for branch in seen:
            gid = self._ours(branch.gid)
            if gid is None:
                continue
            underway = self._live.get(gid.txid)
            running = underway if isinstance(underway, Running) else None  # a saga prepares nothing
            record = await self._journal.transaction(gid.txid)
            if _is_over(gid, running, record):
                finished.append(
                    Doubt(gid, peer.name, record, "finishes it at the next sweep: it was over", seen=branch)
                )
            else:
                found.append(self._doubt(gid, peer.name, running, record, branch))
        if finished:
            still = await self._still_prepared(peer)
            found += [doubt for doubt in finished if str(doubt.gid) in still]
        return found

    def _ours(self, name: str) -> Gid | None:
        try:
            gid = Gid.parse(name)
        except InvalidName:
            return None
        return gid if gid.journal == self._journal.journal_id else None

    def _doubt(
        self, gid: Gid, participant: str, running: Running | None, record: TransactionRecord | None, seen: _Seen | None
    ) -> Doubt:
        if running is None:
            return Doubt(gid, participant, record, self._prospect(gid.txid, record), seen=seen)
        part = running.parts.get(gid.branch)
        if part is None:
            decided = record is not None and record.decision is not None
            prospect = self._prospect(gid.txid, record) if decided else "leaves it alone while its transaction runs"
            return Doubt(gid, participant, record, prospect, seen=seen)
        doing = _work_on(running, gid.branch)
        return Doubt(gid, participant, record, doing, part.attempts, part.last_error, seen)

    def _prospect(self, txid: Txid, record: TransactionRecord | None) -> str:
        """What will become of a branch that nobody is at work on."""
        if record is not None and record.decision is not None:
            match record.decision.kind:
                case DecisionKind.COMMIT:
                    return "commits it at the next sweep"
                case DecisionKind.ABORT:
                    return "rolls it back at the next sweep"
                case DecisionKind.DELEGATED:
                    return (
                        "nothing: it is prepared although the decision was delegated to one branch; somebody must look"
                    )
                case DecisionKind.SAGA:
                    return "nothing: it is prepared although a saga prepares nothing; somebody must look"
                case _:
                    assert_never(record.decision.kind)
        if self._around.peers.quarantine.doubts(txid):
            return "settles it by evidence only: a decision on it may be lost with a newer journal"
        epoch = self._epochs.get(txid.epoch)
        if epoch is None:
            return "settles it by evidence only: this journal never gave out its epoch"
        if txid.sequence < epoch.horizon:
            return "settles it by evidence only: it is older than this journal's memory"
        if txid.epoch == self._journal.epoch or epoch.fenced:
            return "nobody decided it: aborts it at the next sweep"
        return "leaves it to the coordinator of its epoch"

    # --- what only the journal says -----------------------------------------------------------------------------------

    async def _told_by_the_journal(self, silent: set[str]) -> AsyncIterator[Doubt]:
        """What is, or may be, prepared at participants that do not answer."""
        for running in (each for each in self._live if isinstance(each, Running)):
            for number in running.state.open:
                where = running.parts[number].peer.name
                if where in silent:
                    record = await self._journal.transaction(running.txid)
                    yield self._doubt(running.gid(number), where, running, record, None)
        before: Txid | None = None
        for _ in range(0, _MOST, _PAGE):
            page = await self._journal.transactions(limit=_PAGE, before=before, unfinished_only=True)
            if not page:
                return
            before = page[-1].txid
            for record in page:
                if record.txid in self._live:
                    continue
                for branch in record.branches:
                    if branch.participant in silent and _may_be_prepared(record, branch.number):
                        gid = Gid(self._journal.journal_id, record.txid, branch.number)
                        yield self._doubt(gid, branch.participant, None, record, None)


def _is_over(gid: Gid, running: Running | None, record: TransactionRecord | None) -> bool:
    """Whether the branch is over, as the coordinator knows it."""
    if running is not None:
        return gid.branch in running.parts and gid.branch not in running.state.open
    return record is not None and (record.ended or gid.branch in record.endings)


def _may_be_prepared(record: TransactionRecord, branch: int) -> bool:
    hears = record.hearers is None or branch in record.hearers
    if record.decision == SAGA:
        return False
    return hears and branch not in record.endings and record.votes.get(branch) not in (Vote.READ_ONLY, Vote.NO)


def _work_on(running: Running, branch: int) -> str:
    """What a transaction under way is doing about one of its branches."""
    state, part = running.state, running.parts[branch]
    again = f" as soon as {part.peer.name} is back" if part.peer.away else ""
    if part.attempts:
        again += f": {part.attempts} attempt{'s' * (part.attempts > 1)} in vain"
    match state.phase:
        case Phase.VOTING:
            missing = state.branches(Standing.WORKING, Standing.READING)
            if missing == (branch,):
                return "waits for its vote"
            names = ", ".join(running.parts[number].peer.name for number in missing)
            return f"waits for the vote of {names}" if names else "is about to decide"
        case Phase.DECIDING:
            return "writes the decision to the journal"
        case Phase.COMMITTING:
            return f"commits it{again}"
        case Phase.DELEGATED:
            return f"asks how it ended, which decides{again}"
        case Phase.ABORTING:
            return f"rolls it back{again}"
        case Phase.COMMITTED | Phase.ABORTED:
            return "has finished it"
        case _:
            assert_never(state.phase)
