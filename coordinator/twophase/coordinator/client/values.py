"""What the client takes and gives, as plain values.

Lives here: operations, results, transactions, and their reading from the contract's messages. Must not live here:
writing payloads (`payloads`), errors, calls.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from twophase.coordinator.client.errors import ResultMismatch
from twophase.coordinator.client.refusal import Refusal
from twophase.v1 import coordinator_pb2, types_pb2

M = TypeVar("M", bound=Message)


class Wait(Enum):
    """When `execute` answers: when every branch is applied and can be read, or as soon as the decision is durable."""

    APPLIED = "applied"
    DECIDED = "decided"


class Protocol(Enum):
    """Which protocol runs a transaction. TWO_PHASE: every branch holds its locks until all agree. SAGA: each step
    commits at once, and is compensated if a later one is refused."""

    TWO_PHASE = "two-phase"
    SAGA = "saga"


class Outcome(Enum):
    """How a transaction ended. COMPENSATED: a saga that turned; every step of it is, or will be, undone. PENDING
    becomes one of the others by itself; NOT_SEEN does not mean aborted."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    COMPENSATED = "compensated"
    PENDING = "pending"
    NOT_SEEN = "not seen"


@dataclass(frozen=True, slots=True)
class Operation:
    """One piece of work at one participant; made by `operation`."""

    participant: str
    name: str
    payload: types_pb2.Payload


@dataclass(frozen=True, slots=True)
class Result:
    """What one operation returned."""

    participant: str
    name: str
    payload: types_pb2.Payload

    @property
    def value(self) -> Any:
        """What was returned as JSON, as Python values; None if nothing was. Raises `ResultMismatch` for a message."""
        match self.payload.WhichOneof("content"):
            case "json":
                try:
                    return json.loads(self.payload.json)
                except ValueError as error:
                    raise ResultMismatch(f"the result of {self} is not JSON: {error}; ask its service") from error
            case "message":
                kind = self.payload.message.TypeName()
                raise ResultMismatch(f"the result of {self} is a message {kind}; read it with .decode({kind})")
            case None:
                return None

    def decode(self, message_type: type[M]) -> M:
        """What was returned as a protobuf message of this type. Raises `ResultMismatch` for anything else."""
        wanted = message_type.DESCRIPTOR.full_name
        if self.payload.WhichOneof("content") != "message":
            raise ResultMismatch(f"the result of {self} is not a {wanted} but JSON or nothing; read it with .value")
        message = message_type()
        try:
            fits = self.payload.message.Unpack(message)
        except DecodeError as error:
            raise ResultMismatch(f"the result of {self} is damaged: {error}; ask its service") from error
        if not fits:
            raise ResultMismatch(f"the result of {self} is not a {wanted} but a {self.payload.message.TypeName()}")
        return message

    def __str__(self) -> str:
        return f"{self.participant}.{self.name}"


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction is committed: every branch is, or will be, applied.

    `results` come in the order of the operations. They are empty if they are not at hand any more: after a restart of
    the coordinator, while a participant in `pending` is away. `applied` is True once every branch is; else those in
    `pending` follow by themselves. A participant in `heuristic` ended its branch against the decision: somebody must
    look.
    """

    txid: str
    request_id: str
    attempt: int
    results: tuple[Result, ...]
    applied: bool
    pending: tuple[str, ...]
    heuristic: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A transaction's part at one participant. `state` is the name of `twophase.v1.BranchState` without prefix. Of a
    saga it is one step: its name and its operation."""

    gid: str
    participant: str
    state: str
    step: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a transaction. Positions are the order; `at`, in UTC, is told by the coordinator's
    clock, which may have been set back in between.

    `kind` is the name of `twophase.v1.EventKind` without prefix: BEGUN, VOTED, DECIDED, FINISHED, ENDED, and of sagas
    TURNED, COMPENSATED, DEAD_LETTER, RESOLVED. `vote`, `decision` and `state` are names of the contract's enums, too,
    and empty where they do not concern the kind: `vote` is UNSPECIFIED for a vote that was lost, `state` is ABORTED for
    a step whose compensation found that it was never done. `outcome` is None but for ENDED. `step` is a saga's;
    `actor` and `reason` say who resolved a dead letter, and why.
    """

    position: int
    at: datetime
    kind: str
    gid: str = ""
    participant: str = ""
    vote: str = ""
    decision: str = ""
    state: str = ""
    outcome: Outcome | None = None
    refusals: tuple[Refusal, ...] = ()
    step: str = ""
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What the coordinator knows of a transaction. `decision` is COMMIT, ABORT, DELEGATED, SAGA, or UNSPECIFIED as long
    as there is none.

    `events` are there only if the call asked for them.
    """

    txid: str
    request_id: str
    attempt: int
    outcome: Outcome
    decision: str
    applied: bool
    branches: tuple[Branch, ...]
    refusals: tuple[Refusal, ...]
    events: tuple[Event, ...] = ()
    protocol: Protocol = Protocol.TWO_PHASE


_OUTCOMES = {
    coordinator_pb2.OUTCOME_COMMITTED: Outcome.COMMITTED,
    coordinator_pb2.OUTCOME_ABORTED: Outcome.ABORTED,
    coordinator_pb2.OUTCOME_COMPENSATED: Outcome.COMPENSATED,
    coordinator_pb2.OUTCOME_PENDING: Outcome.PENDING,
    coordinator_pb2.OUTCOME_NOT_SEEN: Outcome.NOT_SEEN,
}


_WITH_STATE = frozenset({"FINISHED", "COMPENSATED"})


def outcome_of(number: coordinator_pb2.Outcome.ValueType) -> Outcome:
    """An outcome from the wire. One that this version does not know is PENDING: never guess that a thing is final."""
    return _OUTCOMES.get(number, Outcome.PENDING)


def refusals_of(
    response: coordinator_pb2.ExecuteResponse | coordinator_pb2.Transaction | coordinator_pb2.TransactionEvent,
) -> tuple[Refusal, ...]:
    """The reasons in an answer, the one that decided first."""
    return tuple(refusal_of(refusal) for refusal in response.refusals)


def refusal_of(message: types_pb2.Refusal) -> Refusal:
    """A reason from the wire."""
    return Refusal(
        kind=name_of(types_pb2.RefusalKind, message.kind, "REFUSAL_KIND_"),
        code=message.code,
        message=message.message,
        retryable=message.retryable,
        participant=message.participant,
        operation=message.operation,
    )


def committed_of(request_id: str, response: coordinator_pb2.ExecuteResponse) -> Committed:
    """The answer of a transaction that is committed."""
    return Committed(
        txid=response.txid,
        request_id=request_id,
        attempt=response.attempt,
        results=tuple(Result(result.participant, result.name, result.result) for result in response.results),
        applied=response.applied,
        pending=tuple(response.pending),
        heuristic=tuple(response.heuristic),
    )


def transaction_of(message: coordinator_pb2.Transaction) -> Transaction:
    """A transaction from the wire."""
    return Transaction(
        txid=message.txid,
        request_id=message.request_id,
        attempt=message.attempt,
        outcome=outcome_of(message.outcome),
        decision=name_of(types_pb2.Decision, message.decision, "DECISION_"),
        applied=message.applied,
        branches=tuple(
            Branch(
                gid=branch.gid,
                participant=branch.participant,
                state=name_of(coordinator_pb2.BranchState, branch.state, "BRANCH_STATE_"),
                step=branch.step,
                operation=branch.operation,
            )
            for branch in message.branches
        ),
        refusals=refusals_of(message),
        events=tuple(_event_of(event) for event in message.events),
        protocol=Protocol.SAGA if message.protocol == coordinator_pb2.PROTOCOL_SAGA else Protocol.TWO_PHASE,
    )


def _event_of(message: coordinator_pb2.TransactionEvent) -> Event:
    kind = name_of(coordinator_pb2.EventKind, message.kind, "EVENT_KIND_")
    return Event(
        position=message.position,
        at=message.at.ToDatetime(tzinfo=UTC),
        kind=kind,
        gid=message.gid,
        participant=message.participant,
        vote=name_of(types_pb2.Vote, message.vote, "VOTE_") if kind == "VOTED" else "",
        decision=name_of(types_pb2.Decision, message.decision, "DECISION_") if kind == "DECIDED" else "",
        state=name_of(coordinator_pb2.BranchState, message.state, "BRANCH_STATE_") if kind in _WITH_STATE else "",
        outcome=outcome_of(message.outcome) if kind == "ENDED" else None,
        refusals=refusals_of(message),
        step=message.step,
        actor=message.actor,
        reason=message.reason,
    )


def name_of(kind: Any, number: int, prefix: str) -> str:
    """An enum's name without its prefix; UNSPECIFIED for a number of a later version."""
    known = dict(zip(kind.values(), kind.keys(), strict=True))
    return str(known.get(number, f"{prefix}UNSPECIFIED")).removeprefix(prefix)
