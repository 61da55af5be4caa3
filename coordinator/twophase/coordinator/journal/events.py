"""What the journal remembers of a transaction, event by event, and the state that is made of them.

Lives here: the events, `Happening` and `TransactionRecord`. Must not live here: how the state is made of events
(`fold`), their written form (`codec`), and where they are kept.

An event is a fact that happened; it is never changed. The decision is one of them, and with the turn of a saga the only
one for which order and durability carry a promise (R4, R5); the others ride along with the next forced write and may be
lost in a crash, in which case recovery finds the fact again by asking the participants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from twophase.contract.names import Txid
from twophase.coordinator.protocol.decisions import Decision, Ending, Vote


@dataclass(frozen=True, slots=True)
class BranchRef:
    """A branch of a transaction: its number and the participant it is at."""

    number: int
    participant: str


@dataclass(frozen=True, slots=True)
class RequestRef:
    """The request a transaction runs for: the client's id, which attempt at it, a hash (32 bytes) of its content."""

    request_id: str
    attempt: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a transaction was aborted, as `twophase.v1.Refusal` says it; `kind` is the enum's name without prefix."""

    kind: str
    code: str
    message: str
    retryable: bool
    participant: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True)
class SagaStep:
    """A step of a saga. Its number is its place in the definition, and its branch's; `after` are the numbers of those
    that come before it, `payload` is the operation's, serialised (`twophase.v1.Payload`)."""

    name: str
    participant: str
    operation: str
    payload: bytes
    after: tuple[int, ...]
    pivot: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """All that a saga is: whoever takes it up needs nothing else. `deadline` is in milliseconds, from its start and
    from every resumption."""

    steps: tuple[SagaStep, ...]
    deadline: int


@dataclass(frozen=True, slots=True)
class Begun:
    """Work is about to be sent to these branches."""

    txid: Txid
    request: RequestRef | None
    branches: tuple[BranchRef, ...]


@dataclass(frozen=True, slots=True)
class Voted:
    """A branch voted, or its vote was lost."""

    txid: Txid
    branch: int
    vote: Vote


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision, written by `Journal.decide` and by nothing else.

    It repeats what recovery needs, since `Begun` may not have reached the disk in an earlier write: the request, all
    branches that must hear of it, for an abort the reasons, and for a saga what it is.
    """

    txid: Txid
    decision: Decision
    request: RequestRef | None
    branches: tuple[BranchRef, ...]
    reasons: tuple[Reason, ...] = ()
    definition: Definition | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A branch ended, by its participant's own word."""

    txid: Txid
    branch: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class Ended:
    """Every branch is finished; nothing more will happen. `committed` is the outcome, also of a delegated one; if that
    is not applied, the `reasons` say why: its decision came before them."""

    txid: Txid
    committed: bool
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Turned:
    """A saga goes back from here, written by `Journal.turn` and by nothing else. A row that will stay in the ledger of
    its pivot, or of a step before it, says that the step is not applied."""

    txid: Txid
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Compensated:
    """A saga's step is undone; or, if `empty`, there is nothing to undo and never will be."""

    txid: Txid
    branch: int
    empty: bool


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A compensation, or a step after the pivot, failed `attempts` times in a row; it is tried again all the same."""

    txid: Txid
    branch: int
    attempts: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Resolved:
    """A person took a dead letter for done: who, and why."""

    txid: Txid
    branch: int
    actor: str
    reason: str


Event: TypeAlias = Begun | Voted | Decided | Finished | Ended | Turned | Compensated | DeadLettered | Resolved


@dataclass(frozen=True, slots=True)
class Happening:
    """An event with its place in the journal. Positions are the order; `at` is in milliseconds since 1970, by a wall
    clock that may have been set back in between, and is for display only."""

    position: int
    at: int
    event: Event


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """The state of one transaction: the fold of its events.

    `branches` are all that are known, in the order of their numbers. `hearers` are those the decision must reach, by
    number; None before it is made. Read-only branches, and those that refused, are not among them.
    `committed` is None while the outcome is not known: before the decision, and after a delegation until the branch is
    asked; of a saga, before it is certain that it will be done or undone. `ended` is True once every branch is over.
    `votes` and `endings` map branch numbers to what is known.

    Of a saga: `definition` is what it is, `turned` whether it goes back; `compensated` are the steps of which that is
    known, with whether there was nothing to undo, `dead` its dead letters, and `resolved` what a person said of them.
    """

    txid: Txid
    request: RequestRef | None
    branches: tuple[BranchRef, ...]
    hearers: frozenset[int] | None
    decision: Decision | None
    committed: bool | None
    ended: bool
    reasons: tuple[Reason, ...]
    votes: dict[int, Vote]
    endings: dict[int, Ending]
    definition: Definition | None = None
    turned: bool = False
    compensated: dict[int, bool] = field(default_factory=dict)
    dead: dict[int, DeadLettered] = field(default_factory=dict)
    resolved: dict[int, Resolved] = field(default_factory=dict)
