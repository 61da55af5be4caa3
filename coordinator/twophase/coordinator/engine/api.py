"""What the engine takes and gives: the values its callers (gRPC service, embedded use, simulation) see.

Lives here: submissions, answers, rejections, limits. Must not live here: how anything is done, and gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from twophase.contract.names import Epoch, Txid
from twophase.contract.status import Problem
from twophase.coordinator.journal.events import Happening, Reason, TransactionRecord
from twophase.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one coordinator takes. Durations are seconds, sizes are bytes.

    `retention` is how long what has ended everywhere is remembered, its request id with it; it must be longer than the
    longest deadline, `deadline_cap`.
    """

    default_deadline: float = 10.0
    deadline_cap: float = 60.0
    payload_bytes: int = 1 << 20
    operations: int = 256
    participants: int = 64
    running: int = 10_000
    retention: float = 7 * 86_400.0


DEFAULT_LIMITS: Final = Limits()


class Wait(Enum):
    """When `Engine.execute` answers; see `twophase.v1.Wait`."""

    APPLIED = "applied"
    DECIDED = "decided"


class Outcome(Enum):
    """How a transaction ended, or that it did not yet; see `twophase.v1.Outcome`."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    COMPENSATED = "compensated"
    PENDING = "pending"
    NOT_SEEN = "not seen"


class Protocol(Enum):
    """Which protocol runs a transaction; see `twophase.v1.Protocol`."""

    TWO_PHASE = "two-phase commit"
    SAGA = "saga"


@dataclass(frozen=True, slots=True)
class Call:
    """One operation at one participant. As a step of a saga: its name, which is unique among its request's, the places
    of those that come before it, and whether it is the pivot; two-phase commit runs it without regard to them."""

    participant: str
    operation: str
    payload: types_pb2.Payload
    step: str = ""
    after: tuple[int, ...] = ()
    pivot: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """A whole transaction. The form of every name and the limits were checked by the caller; the rest is the engine's.

    `attempt` counts from 1. `seen_epoch` is the epoch of the client's last answer: None if the client gives none
    (execute without that protection), `NEVER_SEEN` if it says that it never had one. `deadline` is in seconds.
    `in_turn`: the branches of a two-phase commit prepare one after the other; a saga's steps have their own order.
    """

    request_id: str
    attempt: int
    seen_epoch: Epoch | NeverSeen | None
    calls: tuple[Call, ...]
    deadline: float
    wait: Wait = Wait.APPLIED
    protocol: Protocol = Protocol.TWO_PHASE
    in_turn: bool = False


class NeverSeen(Enum):
    """The type of `NEVER_SEEN`."""

    NEVER_SEEN = "never seen"


NEVER_SEEN = NeverSeen.NEVER_SEEN


@dataclass(frozen=True, slots=True)
class Result:
    """What one operation returned."""

    participant: str
    operation: str
    payload: types_pb2.Payload


@dataclass(frozen=True, slots=True)
class Answer:
    """How a transaction ended; the fields are those of `twophase.v1.ExecuteResponse`."""

    outcome: Outcome
    txid: Txid | None
    attempt: int
    applied: bool = False
    results: tuple[Result, ...] = ()
    reasons: tuple[Reason, ...] = ()
    pending: tuple[str, ...] = ()
    heuristic: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a transaction: its record, its outcome in the words of the API, its events if asked for."""

    record: TransactionRecord
    outcome: Outcome
    applied: bool
    history: tuple[Happening, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A compensation, or a step after the pivot, that failed so often that somebody must look; the fields are those of
    `twophase.v1.DeadLetter`. `since` is in milliseconds since 1970."""

    txid: Txid
    request_id: str
    step: str
    participant: str
    operation: str
    compensation: bool
    attempts: int
    reason: Reason
    since: int
    branch: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of resolving a dead letter; the fields are those of `twophase.v1.ResolveDeadLetterResponse`."""

    barred: bool
    done: bool


class Which(Enum):
    """Which transactions to list."""

    ALL = "all"
    UNFINISHED = "unfinished"
    HEURISTIC = "heuristic"


class Rejected(Exception):
    """A submission or question that is wrong as such: nothing was started by it. Carries the answer to give."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem
