"""The journal's port: what the engine and the supervisor ask of a journal, whichever store is behind it.

Lives here: the interface, its values and its errors. Must not live here: SQL, files, tasks.

The promises, for every store (the behaviour suite in tests/journal holds all of them to it):

- `decide` is write-once and fenced (R5). It returns a commit or a delegation only after it is durable; an abort it may
  return before that (presumed abort: a decision that is lost is made again, the same way).
- What was handed over is visible to every later read of the same journal object, durable or not.
- Events keep the order in which they were handed over.
- A cancelled await loses and fakes nothing: what was handed over is written all the same.
- After a failed write or sync nothing works any more: every call raises `JournalFailed`, also those that were waiting,
  and the process must end (R10). What such a call had proposed is unknown until the journal is opened again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import (
    BranchRef,
    Definition,
    Event,
    Happening,
    Reason,
    RequestRef,
    TransactionRecord,
    Turned,
)
from twophase.coordinator.protocol.decisions import Decision


class JournalError(Exception):
    """The journal cannot do what was asked. The message has the fact, the value and the remedy."""


class JournalLocked(JournalError):
    """Another coordinator has this journal. Nothing was read or written. May be retried when that one has ended."""


class JournalUnusable(JournalError):
    """The file is not a journal, is damaged, or is of a newer schema than this program. Nothing was written."""


class JournalFull(JournalUnusable):
    """There is no room for opening it: on the disk, in a quota, under a limit. May be retried when there is room."""


class JournalFailed(JournalError):
    """A write or sync failed. Whether it took effect is unknown until the journal is opened again; stop the process."""


class JournalClosed(JournalError):
    """The journal was closed before this call. Nothing was written. Not retryable: open it again."""


class EpochFenced(JournalError):
    """The proposer's epoch is fenced, and another coordinator finishes its transactions; or this journal never gave it
    out, as after a restore from a backup. Nothing was written. Stop."""


class NotTheOwner(JournalError):
    """A decision for a transaction of an epoch that is neither the proposer's own nor fenced. Nothing was written."""


class BelowHorizon(JournalError):
    """The transaction is so old that its record may be pruned: a missing record means unknown, not abort."""


@dataclass(frozen=True, slots=True)
class ParticipantRecord:
    """A participant as the journal knows it, durable before its first branch.

    `system_identifier`, `timeline` and `database` are what it said at its last handshake.
    """

    name: str
    address: str
    system_identifier: str
    timeline: int
    database: str


class Basis(Enum):
    """Why `decide` answered as it did."""

    ACCEPTED = "accepted"  # the proposal was taken
    EARLIER = "earlier"  # a decision was there already, perhaps the same
    CLAIMED = "claimed"  # the request id belongs to another transaction: this one is aborted


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer of `decide`: the actual decision, which everyone obeys.

    `claimed_by` is the transaction that holds the request id, where that is the reason (basis CLAIMED).
    """

    decision: Decision
    basis: Basis
    claimed_by: Txid | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the write-once record will say if the proposal is taken.

    `epoch` is the proposer's own, `request` what a commit, a delegation or the start of a saga claims, `branches` those
    that must hear of it, `definition` what the saga is.
    """

    txid: Txid
    decision: Decision
    epoch: Epoch
    request: RequestRef | None
    branches: tuple[BranchRef, ...]
    reasons: tuple[Reason, ...] = ()
    definition: Definition | None = None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch the journal gave out. `horizon` is the lowest sequence whose record is certain to be kept."""

    epoch: Epoch
    fenced: bool
    horizon: int


@dataclass(frozen=True, slots=True)
class Pruning:
    """What of one epoch may be forgotten: transactions below sequence `below` that ended before `ended_before`
    (milliseconds since 1970, by the clock that stamps events) and of which nothing happened after position `up_to`.

    The clock says only what is past retention. That everything which could still arrive has arrived is what `up_to` is
    for: a position that was reached so long ago by a clock that cannot be set. `settled`: a sequence without a record
    is over, too. At most `limit` transactions are looked at.
    """

    epoch: Epoch
    below: int
    ended_before: int
    up_to: int
    settled: bool
    limit: int = 200


@dataclass(frozen=True, slots=True)
class Pruned:
    """The epoch's horizon now, how many records went, and whether another call may find `more`."""

    horizon: int
    forgotten: int
    more: bool


@dataclass(frozen=True, slots=True)
class Restoration:
    """What is known of the journal being, or having been, an older copy than its participants know.

    `proofs` are what shows that it is one, since it was last lifted: while there is any it is in quarantine. `floor` is
    the highest epoch number that counted as seen when it was last lifted, 0 if it never was: what epochs up to it
    decided may be missing here, so that a missing decision proves nothing.
    """

    proofs: tuple[str, ...] = ()
    floor: int = 0


@runtime_checkable
class OnDisk(Protocol):
    """What a journal tells besides if it is a file: for people who look after it."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def label(self) -> str:
        """What people call this installation; empty if nobody said."""
        ...

    @property
    def sync_seconds(self) -> float | None:
        """How long the last forced write took; None if there was none."""
        ...


class Journal(Protocol):
    """An open journal. Opening it took the lock, made sure that what is read is on disk, forced a new epoch (R10)."""

    @property
    def journal_id(self) -> str:
        """What tells this installation from every other: 16 hex digits, made with the journal."""
        ...

    @property
    def epoch(self) -> Epoch:
        """The epoch this opening gave out."""
        ...

    @property
    def position(self) -> int:
        """The position of the last event that is durable. Positions count from 1 and are never reused."""
        ...

    @property
    def syncs(self) -> int:
        """How many forced writes this object has made since it was opened. For tests and metrics."""
        ...

    def decide(self, proposal: Proposal) -> Awaitable[Ruling]:
        """Makes the decision, or returns the one that was made before. One atomic step against the fence, the record
        and the request id:

        - a record is there: it is returned, whatever was proposed;
        - the proposer's epoch is fenced, or unknown to this journal: `EpochFenced`;
        - the transaction is below its epoch's horizon: `BelowHorizon`;
        - the transaction is of another epoch: only ABORT is taken, and only if that epoch is fenced; else
          `NotTheOwner`;
        - a commit, delegation or start of a saga whose request id is held by another transaction: ABORT is recorded and
          returned (CLAIMED). A commit holds its id for ever, the others until an `Ended` with `committed=False`;
        - else the proposal is recorded.

        Durable when it is answered, unless the answer is ABORT. Raises `JournalFailed`. The call itself may hand it
        over, and raise, before anybody awaits the answer.
        """
        ...

    async def turn(self, turned: Turned) -> None:
        """Records that a saga goes back, durably; a second turn of one saga writes nothing. It is checked against the
        fence as a decision is: `EpochFenced` if this epoch is fenced, `NotTheOwner` if the saga's is another one that
        is not. Raises ValueError for what was never started as a saga, and `JournalFailed`.
        """
        ...

    def append(self, event: Event) -> None:
        """Hands over an event that needs no force; it rides along with the next forced write, or goes by itself
        within a moment. `Decided` and `Turned` are not accepted here (ValueError). Raises `JournalFailed` if the
        journal has failed.
        """
        ...

    async def flush(self) -> None:
        """Waits until everything handed over so far is durable."""
        ...

    async def register(self, participant: ParticipantRecord) -> None:
        """Adds or replaces a participant by name, durably."""
        ...

    async def participants(self) -> tuple[ParticipantRecord, ...]:
        """All participants, by name."""
        ...

    async def epochs(self) -> tuple[EpochRecord, ...]:
        """Every epoch given out, the lowest first."""
        ...

    async def fence(self, epoch: Epoch) -> None:
        """Fences an epoch, durably and for ever. Fencing a fenced one, or one that was never given out, is no error."""
        ...

    async def prune(self, pruning: Pruning) -> Pruned:
        """Raises an epoch's horizon past what is over, and forgets what lies below, in one atomic step; durable when it
        returns. Writes nothing if there is nothing to forget.

        Forgotten are a transaction's events, its decision and its claim on a request id; what is decided about it from
        then on is `BelowHorizon`. Records of heuristic outcomes stay (R11), also below the horizon. Epochs and fences
        stay for ever (R5), and so does the newest event: positions are never given out twice. Nothing at or above a
        horizon is ever forgotten. Raises `JournalFailed`.
        """
        ...

    async def suspect(self, proof: str) -> None:
        """Notes, durably, what proves that this journal is older than its participants; once is as good as twice."""
        ...

    async def lift(self, *, epoch: int, position: int) -> None:
        """Ends the quarantine, durably: everything up to this epoch number and position counts as seen. The next
        opening gives out a higher epoch and higher positions; close this one at once."""
        ...

    async def restoration(self) -> Restoration:
        """Whether the journal is in quarantine, and whether it ever was lifted out of one."""
        ...

    async def transaction(self, txid: Txid) -> TransactionRecord | None:
        """What is known of a transaction; None if there is no record."""
        ...

    async def history(self, txid: Txid) -> tuple[Happening, ...]:
        """What happened to a transaction, in the order of the positions; empty if there is no record. The fold of any
        prefix is the transaction as it stood then."""
        ...

    async def request(self, request_id: str) -> TransactionRecord | None:
        """The transaction that holds this request id, else the one with its highest attempt; None if there is none."""
        ...

    async def unfinished(self) -> tuple[TransactionRecord, ...]:
        """Every transaction that is decided and not ended, the oldest first. Costs what is unfinished, not history."""
        ...

    async def heuristics(self) -> tuple[TransactionRecord, ...]:
        """Every transaction of which a branch is known to have ended against the decision (R11), the oldest first.
        Costs what there is of them, not history."""
        ...

    async def transactions(
        self, *, limit: int, before: Txid | None = None, unfinished_only: bool = False
    ) -> tuple[TransactionRecord, ...]:
        """The newest first, at most `limit`, only those older than `before`. Undecided ones count as unfinished."""
        ...

    async def close(self) -> None:
        """Makes everything handed over durable, gives the lock back. A second call does nothing. Every later call of
        another method raises `JournalClosed`.

        Raises `JournalFailed`, after the lock is given back, if what was handed over may be lost.
        """
        ...
