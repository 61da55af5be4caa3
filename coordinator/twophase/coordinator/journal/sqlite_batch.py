"""What is written to the SQLite journal, a batch at a time.

Lives here: the items of a batch, and the one function that judges and writes them in order, in one SQL transaction. It
runs on the writer's thread. Must not live here: when a batch is written, who waits for it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias, assert_never

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.codec import encode
from twophase.coordinator.journal.events import Begun, Decided, Definition, Ended, Event, Finished, RequestRef, Turned
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
    decided_by,
    judge,
    judge_turn,
    needs_force,
    releases_request,
)
from twophase.coordinator.journal.sqlite_prune import prune
from twophase.coordinator.protocol.decisions import Decision, DecisionKind, Ending, contradicts


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


# How many rows a statement writes at most.
_ROWS_AT_ONCE: Final = 64
# Of 4 KiB, in base64.
_PAYLOAD_IN_A_PAGE: Final = 3072

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
    match item:
        case Prune():
            return item.pruning.limit
        case Propose(Proposal(definition=Definition() as saga)):
            return 1 + sum(len(step.payload) for step in saga.steps) // _PAYLOAD_IN_A_PAGE
        case _:
            return 1


def write(
    connection: sqlite3.Connection, items: Sequence[Item], position: int, *, never_empty: bool = False
) -> Written:
    """Writes a batch after `position`, in one SQL transaction. Whether its commit waits for the disk is the caller's
    setting (`PRAGMA synchronous`), and then it waits for all that was written before; but a commit that changes nothing
    waits for nothing. `never_empty` sees to it that something changes. Raises sqlite3.Error; then it is unknown what is
    written."""
    connection.execute("BEGIN IMMEDIATE")
    writing = _Writing(connection, position)
    writing.look_ahead(items)
    answers = [writing.take(item) for item in items]
    writing.put()
    if never_empty and writing.position == position:
        connection.execute(schema.REWRITE_A_PAGE)
    reach(CrashPoint.COORDINATOR_BEFORE_WRITE)
    connection.execute("COMMIT")
    reach(CrashPoint.COORDINATOR_AFTER_WRITE)
    return Written(answers, writing.position)


@dataclass(slots=True)
class _Writing:
    """One batch on its way.

    Every statement lets go of the interpreter's lock and has to win it back from the event loop, so a batch is a
    handful of them, however large it is: what its items ask for is read before them, what they amount to is written
    after them. An item that needs more has the rows before it `put` first, and the rest is read anew.

    To be written: the events, the decisions, the attempts at requests, the branches that ended against the decision,
    and for each transaction whether it is decided and whether it is ended now. Read: the decisions and the holders of
    request ids by name, None where there is none, and the epochs.
    """

    connection: sqlite3.Connection
    position: int
    events: list[tuple[int, str, int, str, str]] = field(default_factory=list)
    decisions: list[tuple[str, str, int | None, str | None]] = field(default_factory=list)
    requests: list[tuple[str, int, str, bool]] = field(default_factory=list)
    heuristics: list[tuple[str, int]] = field(default_factory=list)
    progress: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    decided: dict[str, tuple[Decision, str | None] | None] = field(default_factory=dict)
    holders: dict[str, str | None] = field(default_factory=dict)
    epochs: dict[Epoch, EpochView] = field(default_factory=dict)

    def look_ahead(self, items: Iterable[Item]) -> None:
        """Reads what proposals, and branches that end, will be compared with."""
        names: list[str] = []
        request_ids: list[str] = []
        for item in items:
            match item:
                case Append(event=Finished() as event):
                    names.append(str(event.txid))
                case Propose(proposal):
                    names.append(str(proposal.txid))
                    if proposal.request is not None:
                        request_ids.append(proposal.request.request_id)
                case _:
                    pass
        self._read_decisions(names)
        self._read_holders(request_ids)

    def take(self, item: Item) -> Answer:
        match item:
            case Append():
                self._append(item.event, item.at)
                return None
            case Propose():
                return self._decide(item.proposal, item.at)
            case Mark():
                return None
            case _:
                self.put()
                self.decided.clear()
                self.holders.clear()
                self.epochs.clear()
                return self._take_apart(item)

    def _take_apart(self, item: Turn | Register | Fence | Suspect | Lift | Prune) -> Answer:
        match item:
            case Turn():
                return self._turn(item.event, item.proposer, item.at)
            case Register():
                row = item.participant
                self.connection.execute(
                    schema.UPSERT_PARTICIPANT,
                    (row.name, row.address, row.system_identifier, row.timeline, row.database),
                )
            case Fence():
                self.connection.execute(schema.INSERT_FENCE, (item.epoch.number, item.epoch.nonce))
            case Suspect():
                self.connection.execute(schema.INSERT_PROOF, (item.at, item.proof))
            case Lift():
                self.connection.execute(schema.INSERT_LIFT, (item.at, item.epoch, item.position))
            case Prune():
                return prune(self.connection, item.pruning)
            case _:
                assert_never(item)
        return None

    def put(self) -> None:
        """Writes what is to be written so far."""
        progress = [(txid, *reached) for txid, reached in self.progress.items()]
        self._put(schema.INSERT_EVENTS, self.events)
        self._put(schema.INSERT_DECISIONS, self.decisions)
        self._put(schema.UPSERT_REQUESTS, self.requests)
        self._put(schema.UPSERT_TRANSACTIONS, progress)
        self._put(schema.INSERT_HEURISTICS, self.heuristics)
        for rows in (self.events, self.decisions, self.requests, self.heuristics, self.progress):
            rows.clear()

    def _put(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            values = [value for row in some for value in row]
            self.connection.execute(_of_rows(sql, len(some), len(some[0])), values)

    def _append(self, event: Event, at: int) -> None:
        self.position += 1
        txid = str(event.txid)
        self.events.append((self.position, txid, at, *encode(event)))
        decided, ended = self.progress.get(txid, (False, False))
        self.progress[txid] = (decided or isinstance(event, Decided), ended or isinstance(event, Ended))
        match event:
            case Begun(request=RequestRef() as request):
                self._attempt(txid, request, claims=False)
            case Finished():
                self._compare(txid, event)
            case Ended(committed=False):
                self._release(txid)
            case _:
                pass

    def _compare(self, txid: str, finished: Finished) -> None:
        """A branch that was to be committed and is lost ended against whatever was decided, also if that is not on
        record here; every other one, if it contradicts the decision on record."""
        made, _ = self._decision(txid)
        lost = finished.ending is Ending.LOST
        if lost or (made is not None and contradicts(made, finished.ending)):
            self.heuristics.append((txid, finished.branch))

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
        self.decisions.append((txid, decision.kind.value, decision.branch, request_id))
        self.decided[txid] = decision, request_id
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
        if not already:
            self._append(turned, at)
        return None

    def _situation(self, txid: Txid, proposed_by: Epoch, request: RequestRef | None) -> Situation:
        existing, _ = self._decision(str(txid))
        proposer = self._epoch(proposed_by)
        owner = proposer if txid.epoch == proposed_by else self._epoch(txid.epoch)
        return Situation(existing, proposer, owner, self._holder(request))

    def _decision(self, txid: str) -> tuple[Decision | None, str | None]:
        if txid not in self.decided:
            self._read_decisions([txid])
        return self.decided[txid] or (None, None)

    def _read_decisions(self, names: Sequence[str]) -> None:
        if names:
            self.decided.update(dict.fromkeys(names))
            rows = self.connection.execute(schema.SELECT_DECISIONS, (json.dumps(names),)).fetchall()
            for txid, kind, branch, request_id in rows:
                self.decided[txid] = Decision(DecisionKind(kind), branch), request_id

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
        if request.request_id not in self.holders:
            self._read_holders([request.request_id])
        holder = self.holders[request.request_id]
        return None if holder is None else Txid.parse(holder)

    def _read_holders(self, request_ids: Sequence[str]) -> None:
        if request_ids:
            self.holders.update(dict.fromkeys(request_ids))
            self.holders.update(self.connection.execute(schema.SELECT_HOLDERS, (json.dumps(request_ids),)).fetchall())

    def _attempt(self, txid: str, request: RequestRef, *, claims: bool) -> None:
        self.requests.append((request.request_id, request.attempt, txid, claims))
        if claims:
            self.holders[request.request_id] = txid

    def _release(self, txid: str) -> None:
        decision, request_id = self._decision(txid)
        if request_id is not None and releases_request(decision, committed=False):
            self.put()
            self.connection.execute(schema.RELEASE_REQUEST, (request_id, txid))
            self.holders.pop(request_id, None)


@lru_cache(maxsize=512)
def _of_rows(sql: str, rows: int, columns: int) -> str:
    """The statement for so many rows."""
    row = f"({', '.join('?' * columns)})"
    return sql.format(rows=", ".join([row] * rows))
