"""What a memory journal knows: the fold of everything that was ever written to its disk.

Lives here: the entries of a memory disk and the state they make, with the questions asked of it. Must not live here:
durability, tasks, the rules themselves (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import (
    Begun,
    Compensated,
    DeadLettered,
    Decided,
    Ended,
    Event,
    Finished,
    Happening,
    RequestRef,
    Resolved,
    TransactionRecord,
    Turned,
    Voted,
)
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.port import EpochRecord, ParticipantRecord, Proposal, Restoration
from twophase.coordinator.journal.pruning import Candidate
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, claims_request, releases_request
from twophase.coordinator.protocol.decisions import Ending, contradicts


@dataclass(frozen=True, slots=True)
class Given:
    """An epoch was given out."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Fenced:
    """An epoch was fenced."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Horizon:
    """Records of an epoch below a sequence may have been pruned; those of the sequences in `gone` were."""

    epoch: Epoch
    sequence: int
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspected:
    """The journal was proven to be older than its participants."""

    proof: str


@dataclass(frozen=True, slots=True)
class Lifted:
    """The quarantine was ended: everything up to here counts as seen."""

    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event happened, at this moment of the wall clock, in milliseconds since 1970."""

    at: int
    event: Event


Entry: TypeAlias = Stamped | Given | Fenced | Horizon | Suspected | Lifted | ParticipantRecord


@dataclass(slots=True)
class State:
    """All of it. `decided` and `holders` answer `decide` without a look at the history."""

    position: int = 0
    newest_txid: Txid | None = None
    given: list[Epoch] = field(default_factory=list)
    fenced: set[Epoch] = field(default_factory=set)
    horizons: dict[Epoch, int] = field(default_factory=dict)
    participants: dict[str, ParticipantRecord] = field(default_factory=dict)
    events: dict[Txid, list[Happening]] = field(default_factory=dict)
    decided: dict[Txid, Decided] = field(default_factory=dict)
    turned: set[Txid] = field(default_factory=set)
    ended: set[Txid] = field(default_factory=set)
    attempts: dict[str, set[tuple[int, Txid]]] = field(default_factory=dict)
    holders: dict[str, Txid] = field(default_factory=dict)
    contradicted: set[Txid] = field(default_factory=set)
    restoration: Restoration = field(default_factory=Restoration)

    def apply(self, entry: Entry) -> None:
        """Takes the next entry."""
        match entry:
            case Given():
                self.given.append(entry.epoch)
            case Fenced():
                self.fenced.add(entry.epoch)
            case Horizon():
                self.horizons[entry.epoch] = entry.sequence
                for sequence in entry.gone:
                    self._forget(Txid(entry.epoch, sequence))
            case Suspected():
                self._suspect(entry.proof)
            case Lifted():
                self.position = max(self.position, entry.position)
                self.restoration = Restoration(floor=max(self.restoration.floor, entry.epoch))
            case ParticipantRecord():
                self.participants[entry.name] = entry
            case Stamped():
                self.position += 1
                self.newest_txid = entry.event.txid
                self.events.setdefault(entry.event.txid, []).append(Happening(self.position, entry.at, entry.event))
                self._apply_event(entry.event)
            case _:
                assert_never(entry)

    def situation(self, proposal: Proposal) -> Situation:
        """What `rules.judge` must know about a proposal."""
        holder = None if proposal.request is None else self.holders.get(proposal.request.request_id)
        return replace(self.situation_of(proposal.txid, proposal.epoch), holder=holder)

    def situation_of(self, txid: Txid, proposer: Epoch) -> Situation:
        """The same about a transaction, whatever its request."""
        existing = self.decided.get(txid)
        return Situation(
            existing=None if existing is None else existing.decision,
            proposer=self._view(proposer),
            owner=self._view(txid.epoch),
            holder=None,
        )

    def record(self, txid: Txid) -> TransactionRecord | None:
        """A transaction."""
        happenings = self.events.get(txid)
        return None if happenings is None else fold(happening.event for happening in happenings)

    def history(self, txid: Txid) -> tuple[Happening, ...]:
        """What happened to a transaction."""
        return tuple(self.events.get(txid, ()))

    def request(self, request_id: str) -> TransactionRecord | None:
        """The holder of a request id, else its highest attempt."""
        holder = self.holders.get(request_id)
        if holder is not None:
            return self.record(holder)
        attempts = self.attempts.get(request_id)
        return None if attempts is None else self.record(max(attempts)[1])

    def epochs(self) -> tuple[EpochRecord, ...]:
        """The epochs given out."""
        return tuple(EpochRecord(epoch, epoch in self.fenced, self.horizons.get(epoch, 0)) for epoch in self.given)

    def newest(self, *, before: Txid | None, unfinished_only: bool) -> Iterator[TransactionRecord]:
        """Transactions, the newest first."""
        for txid in sorted(self.events, reverse=True):
            if (before is None or txid < before) and not (unfinished_only and txid in self.ended):
                yield self._known(txid)

    def unfinished(self) -> tuple[TransactionRecord, ...]:
        """Transactions that are decided and not ended, the oldest first."""
        return tuple(self._known(txid) for txid in sorted(self.decided.keys() - self.ended))

    def heuristics(self) -> tuple[TransactionRecord, ...]:
        """Transactions of which a branch ended against the decision, the oldest first."""
        return tuple(self._known(txid) for txid in sorted(self.contradicted))

    def highest_epoch(self) -> int:
        """The highest epoch number given out, or seen when the journal was lifted."""
        return max(self.restoration.floor, *(epoch.number for epoch in self.given), 0)

    def candidates(self, epoch: Epoch) -> list[Candidate]:
        """The transactions of an epoch, the oldest first, as pruning sees them."""
        return [
            Candidate(
                sequence=txid.sequence,
                ended_at=max((one.at for one in history if isinstance(one.event, Ended)), default=None),
                position=history[-1].position,
                kept=txid in self.contradicted,
                newest=txid == self.newest_txid,
            )
            for txid, history in sorted(self.events.items())
            if txid.epoch == epoch
        ]

    def _forget(self, txid: Txid) -> None:
        for request_id in {request for request, attempts in self.attempts.items() if txid in {t for _, t in attempts}}:
            left = {attempt for attempt in self.attempts.pop(request_id) if attempt[1] != txid}
            if self.holders.get(request_id) == txid:
                # Without the one that was committed, the others would answer for it that it was aborted (R6).
                del self.holders[request_id]
            elif left:
                self.attempts[request_id] = left
        del self.events[txid]
        self.decided.pop(txid, None)
        self.turned.discard(txid)
        self.ended.discard(txid)

    def _known(self, txid: Txid) -> TransactionRecord:
        return fold(happening.event for happening in self.events[txid])

    def _suspect(self, proof: str) -> None:
        known = self.restoration
        if proof not in known.proofs:
            self.restoration = Restoration((*known.proofs, proof), known.floor)

    def _apply_event(self, event: Event) -> None:
        match event:
            case Begun():
                self._attempt(event.txid, event.request)
            case Decided():
                self.decided[event.txid] = event
                self._attempt(event.txid, event.request)
                if event.request is not None and claims_request(event.decision):
                    self.holders[event.request.request_id] = event.txid
            case Ended():
                self.ended.add(event.txid)
                self._release(event)
            case Finished():
                decided = self.decided.get(event.txid)
                lost = event.ending is Ending.LOST
                if lost or (decided is not None and contradicts(decided.decision, event.ending)):
                    self.contradicted.add(event.txid)
            case Turned():
                self.turned.add(event.txid)
            case Voted() | Compensated() | DeadLettered() | Resolved():
                pass
            case _:
                assert_never(event)

    def _attempt(self, txid: Txid, request: RequestRef | None) -> None:
        if request is not None:
            self.attempts.setdefault(request.request_id, set()).add((request.attempt, txid))

    def _release(self, event: Ended) -> None:
        decided = self.decided.get(event.txid)
        if decided is None or decided.request is None:
            return
        request_id = decided.request.request_id
        held = self.holders.get(request_id) == event.txid  # the end may be told twice, with another attempt in between
        if held and releases_request(decided.decision, committed=event.committed):
            del self.holders[request_id]

    def _view(self, epoch: Epoch) -> EpochView:
        horizon = self.horizons.get(epoch, 0)
        if epoch in self.fenced:
            return EpochView(Standing.FENCED, horizon)
        return EpochView(Standing.OPEN, horizon) if epoch in self.given else EpochView(Standing.STRANGE)
