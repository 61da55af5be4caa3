"""What is written to the SQLite journal, a batch at a time.

Lives here: the items of a batch, and the one function that judges and writes them in order, in one SQL transaction. It
runs on the writer's thread. Must not live here: when a batch is written, who waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.codec import encode
from twophase.coordinator.journal.events import Begun, Decided, Ended, Event, Finished, RequestRef, Turned
from twophase.coordinator.journal.port import (
    Basis,
    BelowHorizon,
    EpochFenced,
    NotTheOwner,
    ParticipantRecord,
    Proposal,
    Pruned,
    Pruning,
    Ruling,
)
from twophase.coordinator.journal.rules import (
    EpochView,
    Situation,
    Standing,
    claims_request,
    contradicted_by,
    decided_by,
    judge,
    judge_turn,
    needs_force,
    releases_request,
)
from twophase.coordinator.journal.sqlite_prune import prune
from twophase.coordinator.protocol.decisions import Decision, DecisionKind, Ending


@dataclass(frozen=True, slots=True)
class Append:
    """An event. `at` is in milliseconds since 1970, for display only."""

    event: Event
    at: int


@dataclass(frozen=True, slots=True)
class Propose:
    """A proposal, to be judged against everything before it, this batch included."""

    proposal: Proposal
    at: int


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of a saga, by the coordinator of this epoch. `at` as in `Append`."""

    event: Turned
    proposer: Epoch
    at: int


@dataclass(frozen=True, slots=True)
class Register:
    """A participant to add or replace."""

    participant: ParticipantRecord


@dataclass(frozen=True, slots=True)
class Fence:
    """An epoch to fence."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Suspect:
    """A proof that the file is an older copy. `at` as in `Append`."""

    proof: str
    at: int


@dataclass(frozen=True, slots=True)
class Lift:
    """The end of the quarantine. `at` as in `Append`."""

    epoch: int
    position: int
    at: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Nothing to write: whoever waits for it waits for all that came before, on disk if it is `forced`."""

    forced: bool


@dataclass(frozen=True, slots=True)
class Prune:
    """What may be forgotten."""

    pruning: Pruning


Item: TypeAlias = Append | Propose | Turn | Register | Fence | Suspect | Lift | Prune | Mark
# What becomes of an item: a ruling, or the refusal of a proposal or a turn, what was forgotten, None for all else.
Answer: TypeAlias = Ruling | EpochFenced | BelowHorizon | NotTheOwner | ValueError | Pruned | None


@dataclass(frozen=True, slots=True)
class Written:
    """A batch that is written: the answers in the order of the items, and the highest position given out so far."""

    answers: list[Answer]
    position: int


def is_forced(item: Item) -> bool:
    """Whether somebody will rely on it as soon as it is answered."""
    match item:
        case Append():
            return False
        case Propose():
            return needs_force(item.proposal.decision)
        case Turn() | Register() | Fence() | Suspect() | Lift() | Prune():
            return True
        case Mark():
            return item.forced
        case _:
            assert_never(item)


def pages(item: Item) -> int:
    """How many pages it adds to the log, roughly."""
    return item.pruning.limit if isinstance(item, Prune) else 1


def write(connection: sqlite3.Connection, items: Sequence[Item], position: int) -> Written:
    """Writes a batch after `position`, in one SQL transaction. Whether its commit waits for the disk is the caller's
    setting (`PRAGMA synchronous`). Raises sqlite3.Error; then it is unknown what is written."""
    connection.execute("BEGIN IMMEDIATE")
    writing = _Writing(connection, position)
    answers = [writing.take(item) for item in items]
    writing.finish()
    reach(CrashPoint.COORDINATOR_BEFORE_WRITE)
    connection.execute("COMMIT")
    reach(CrashPoint.COORDINATOR_AFTER_WRITE)
    return Written(answers, writing.position)


@dataclass(slots=True)
class _Writing:
    """One batch on its way. Rows that nothing in the batch asks for again are written at its end, together: the events,
    and one for each transaction, whether it is `decided` and `ended` now. `epochs` is what was read of them."""

    connection: sqlite3.Connection
    position: int
    events: list[tuple[int, str, int, str, str]] = field(default_factory=list)
    progress: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    epochs: dict[Epoch, EpochView] = field(default_factory=dict)
    turned: set[Txid] = field(default_factory=set)

    def take(self, item: Item) -> Answer:
        match item:
            case Append():
                self._append(item.event, item.at)
                return None
            case Propose():
                return self._decide(item.proposal, item.at)
            case Turn():
                return self._turn(item.event, item.proposer, item.at)
            case Register():
                row = item.participant
                self.connection.execute(
                    schema.UPSERT_PARTICIPANT,
                    (row.name, row.address, row.system_identifier, row.timeline, row.database),
                )
                return None
            case Fence():
                self.connection.execute(schema.INSERT_FENCE, (item.epoch.number, item.epoch.nonce))
                self.epochs.clear()
                return None
            case Suspect():
                self.connection.execute(schema.INSERT_PROOF, (item.at, item.proof))
                return None
            case Lift():
                self.connection.execute(schema.INSERT_LIFT, (item.at, item.epoch, item.position))
                return None
            case Prune():
                self.epochs.clear()
                return prune(self.connection, item.pruning)
            case Mark():
                return None
            case _:
                assert_never(item)

    def finish(self) -> None:
        self.connection.executemany(schema.INSERT_EVENT, self.events)
        self.connection.executemany(
            schema.UPSERT_TRANSACTION, [(txid, *reached) for txid, reached in self.progress.items()]
        )

    def _append(self, event: Event, at: int) -> None:
        self.position += 1
        txid = str(event.txid)
        self.events.append((self.position, txid, at, *encode(event)))
        decided, ended = self.progress.get(txid, (False, False))
        self.progress[txid] = (decided or isinstance(event, Decided), ended or isinstance(event, Ended))
        match event:
            case Begun(request=RequestRef() as request):
                self._attempt(txid, request, claims=False)
            case Finished(ending=Ending.LOST):
                self.connection.execute(schema.INSERT_LOST, (txid, event.branch))
            case Finished():
                for against in contradicted_by(event.ending):
                    self.connection.execute(schema.INSERT_HEURISTIC, (txid, event.branch, against.value))
            case Ended(committed=False):
                self._release(txid)
            case _:
                pass

    def _decide(self, proposal: Proposal, at: int) -> Answer:
        txid = str(proposal.txid)
        try:
            ruling = judge(proposal, self._situation(proposal.txid, proposal.epoch, proposal.request))
        except (EpochFenced, BelowHorizon, NotTheOwner) as refusal:
            return refusal
        if ruling.basis is Basis.EARLIER:
            return ruling
        decision = ruling.decision
        request = proposal.request
        request_id = None if request is None else request.request_id
        self.connection.execute(schema.INSERT_DECISION, (txid, decision.kind.value, decision.branch, request_id))
        if request is not None:
            self._attempt(txid, request, claims=claims_request(decision))
        self._append(decided_by(proposal, decision), at)
        return ruling

    def _turn(self, turned: Turned, proposer: Epoch, at: int) -> Answer:
        try:
            judge_turn(turned, proposer, self._situation(turned.txid, proposer, None))
        except (EpochFenced, NotTheOwner, ValueError) as refusal:
            return refusal
        txid = str(turned.txid)
        already = self.connection.execute(schema.HAS_TURNED, (txid,)).fetchone() is not None
        if not already and turned.txid not in self.turned:
            self.turned.add(turned.txid)
            self._append(turned, at)
        return None

    def _situation(self, txid: Txid, proposed_by: Epoch, request: RequestRef | None) -> Situation:
        existing, _ = self._decision(str(txid))
        proposer = self._epoch(proposed_by)
        owner = proposer if txid.epoch == proposed_by else self._epoch(txid.epoch)
        return Situation(existing, proposer, owner, self._holder(request))

    def _decision(self, txid: str) -> tuple[Decision | None, str | None]:
        row = self.connection.execute(schema.SELECT_DECISION, (txid,)).fetchone()
        if row is None:
            return None, None
        kind, branch, request_id = row
        return Decision(DecisionKind(kind), branch), request_id

    def _epoch(self, epoch: Epoch) -> EpochView:
        if epoch not in self.epochs:
            self.epochs[epoch] = self._look_at(epoch)
        return self.epochs[epoch]

    def _look_at(self, epoch: Epoch) -> EpochView:
        horizon, fenced = self.connection.execute(schema.SELECT_EPOCH, (epoch.number, epoch.nonce)).fetchone()
        if fenced:
            return EpochView(Standing.FENCED, horizon or 0)
        return EpochView(Standing.STRANGE) if horizon is None else EpochView(Standing.OPEN, horizon)

    def _holder(self, request: RequestRef | None) -> Txid | None:
        if request is None:
            return None
        row = self.connection.execute(schema.SELECT_HOLDER, (request.request_id,)).fetchone()
        return None if row is None else Txid.parse(row[0])

    def _attempt(self, txid: str, request: RequestRef, *, claims: bool) -> None:
        self.connection.execute(schema.UPSERT_REQUEST, (request.request_id, request.attempt, txid, claims))

    def _release(self, txid: str) -> None:
        decision, request_id = self._decision(txid)
        if request_id is not None and releases_request(decision, committed=False):
            self.connection.execute(schema.RELEASE_REQUEST, (request_id, txid))
