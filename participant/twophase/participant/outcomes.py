"""How a call on the resource manager ends, as values.

Lives here: the outcomes of `ResourceManager`, and the errors that mean "no answer". Must not live here: how they are
reached (`branch`, `finish`), or how they look on the wire (`service`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from twophase.contract.names import Epoch, Gid
from twophase.participant.errors import ParticipantError
from twophase.v1 import participant_pb2, types_pb2

Results: TypeAlias = tuple[types_pb2.Payload, ...]


class StillRunning(ParticipantError):
    """The branch to abort is still running and would not stop yet. Nothing was concluded: ask again (UNAVAILABLE)."""


class OutcomeUnknown(ParticipantError):
    """The connection was lost, or the database kept refusing, where the branch may be prepared or finished.

    It is never a vote and never an outcome: the caller asks again, or aborts (UNAVAILABLE).
    """


class Forgotten(ParticipantError):
    """The branch lies below its epoch's horizon: its ledger row may be pruned, so nothing can be concluded
    (FAILED_PRECONDITION)."""


class CannotFinish(ParticipantError):
    """Postgres does not let this role or database finish the prepared branch; a person must act, then the same call
    succeeds (FAILED_PRECONDITION). The message says what to type."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database answered, as its own session read it (`DatabaseIdentity` on the wire)."""

    system_identifier: str
    timeline: int
    database: str

    def message(self) -> types_pb2.DatabaseIdentity:
        """The same on the wire."""
        return types_pb2.DatabaseIdentity(
            system_identifier=self.system_identifier, timeline=self.timeline, database=self.database
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What every answer has."""

    identity: Identity | None = field(default=None, kw_only=True)
    """The session that answered; None if there was none (no connection was free, or the vote came from memory)."""


@dataclass(frozen=True, slots=True)
class Prepared(Answer):
    """The vote yes. `results` are empty for a duplicate whose first answer this process does not remember."""

    results: Results


@dataclass(frozen=True, slots=True)
class ReadOnly(Answer):
    """The vote read-only: the local transaction is over."""

    results: Results


@dataclass(frozen=True, slots=True)
class No(Answer):
    """The vote no: nothing of the branch is left."""

    refusal: types_pb2.Refusal


@dataclass(frozen=True, slots=True)
class Applied(Answer):
    """The work and its ledger row are committed, now or before."""

    results: Results


@dataclass(frozen=True, slots=True)
class RefusedForGood(Answer):
    """A committed row in the ledger says that the work was refused and never will be applied."""

    refusal: types_pb2.Refusal


@dataclass(frozen=True, slots=True)
class Retry(Answer):
    """The work was refused this time; no row was left, and the same call may succeed later."""

    refusal: types_pb2.Refusal


@dataclass(frozen=True, slots=True)
class Tombstoned(Answer):
    """The branch is not applied and never will be: a tombstone bars it."""


@dataclass(frozen=True, slots=True)
class ToUndo(Answer):
    """The work that a compensation undoes is committed; `results` are what it returned."""

    results: Results


@dataclass(frozen=True, slots=True)
class Aborted(Answer):
    """The branch was prepared, and is rolled back now."""


@dataclass(frozen=True, slots=True)
class Committed(Answer):
    """The branch is committed, now or before."""


@dataclass(frozen=True, slots=True)
class Lost(Answer):
    """The branch is not there and never will be; a tombstone proves it. A heuristic outcome."""


@dataclass(frozen=True, slots=True)
class PreparedBranch:
    """A branch that is prepared and not finished; `age` in seconds by the database's own clock."""

    gid: Gid
    age: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger."""

    gid: Gid
    kind: types_pb2.BranchKind.ValueType
    outcome: participant_pb2.LedgerOutcome.ValueType
    decision: types_pb2.Decision.ValueType
    results: Results
    refusal: types_pb2.Refusal | None
    fingerprint: bytes
    position: int


@dataclass(frozen=True, slots=True)
class Remembered(Answer):
    """What the database knew of a journal before a handshake: its highest epoch, the highest position in its rows.

    `pruning_left`: there are more rows below a horizon than were pruned.
    """

    last_epoch: Epoch | None
    highest_position: int
    pruning_left: bool = False


@dataclass(frozen=True, slots=True)
class Inspection(Answer):
    """What the database knows of one transaction: its ledger rows in branch order, and its prepared branches."""

    entries: tuple[Entry, ...]
    prepared: tuple[Gid, ...]


@dataclass(frozen=True, slots=True)
class PreparedBranches(Answer):
    """The prepared branches of one journal in this database."""

    branches: tuple[PreparedBranch, ...]


@dataclass(frozen=True, slots=True)
class Observation(Answer):
    """What the prepared branches of one journal hold in this database, and who waits for them; the oldest first."""

    branches: tuple[participant_pb2.ObservedBranch, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis(Answer):
    """How the database is set up, one check for each thing that was looked at."""

    checks: tuple[types_pb2.Check, ...]
