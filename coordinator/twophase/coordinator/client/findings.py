"""What a coordinator tells operators, as plain values.

Lives here: branches in doubt, diagnoses, dead letters, and their reading from the contract's messages. Must not live
here: what applications deal with (`values`), errors, calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from google.protobuf.duration_pb2 import Duration

from twophase.coordinator.client.refusal import Refusal
from twophase.coordinator.client.values import name_of, refusal_of
from twophase.v1 import coordinator_pb2, participant_pb2, types_pb2


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that a prepared branch holds: what is locked, and the mode in Postgres' words."""

    target: str
    mode: str


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waits for a prepared branch. `behind` is the one it waits for, itself a waiter; 0 if it waits for
    the branch directly."""

    pid: int
    user: str
    application: str
    waiting_s: float
    query: str
    behind: int


@dataclass(frozen=True, slots=True)
class InDoubtBranch:
    """A branch that is prepared and not finished.

    `observed` is True if its participant says so: then age, owner, locks, waiters and horizon are known. Else its
    participant did not answer, and the journal alone says that it is, or may be, prepared. `decision` is COMMIT, ABORT,
    DELEGATED or UNSPECIFIED (not yet), `doing` is what the coordinator is doing about it, in one line. `horizon_xids`
    are the transaction ids given out since it got its own: no VACUUM can remove what died within them.
    """

    gid: str
    txid: str
    request_id: str
    participant: str
    state: str
    decision: str
    doing: str
    attempts: int
    last_error: str
    observed: bool
    age_s: float | None
    owner: str
    locks: tuple[HeldLock, ...]
    waiters: tuple[Waiter, ...]
    horizon_xids: int | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A participant that did not answer, and why not."""

    participant: str
    error: str


@dataclass(frozen=True, slots=True)
class InDoubt:
    """Everything in doubt, the oldest first, those that nobody saw last. `quarantine` says why the coordinator
    concludes nothing from a missing decision; empty if it is not so."""

    branches: tuple[InDoubtBranch, ...]
    unanswered: tuple[Unanswered, ...] = ()
    quarantine: str = ""


class CheckResult(Enum):
    """What a check found. WARNING: it works, and somebody should look. PROBLEM: transactions fail, or stay in doubt,
    until somebody acts."""

    OK = "OK"
    WARNING = "WARNING"
    PROBLEM = "PROBLEM"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy` is what to type or to change, one thing a line; empty if all is well."""

    subject: str
    result: CheckResult
    finding: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ParticipantDiagnosis:
    """How one participant is; its database as the journal knows it."""

    participant: str
    address: str
    system_identifier: str
    timeline: int
    database: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How the coordinator, its journal and every participant are."""

    journal_id: str
    label: str
    epoch: int
    checks: tuple[Check, ...]
    participants: tuple[ParticipantDiagnosis, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A compensation (`kind` is COMPENSATION), or a step after the pivot (WORK), that failed `attempts` times in a row;
    `refusal` is the last failure. It is tried again all the same. `since` is told by the coordinator's clock, in UTC.
    """

    txid: str
    request_id: str
    step: str
    participant: str
    operation: str
    kind: str
    attempts: int
    refusal: Refusal
    since: datetime
    gid: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of resolving a dead letter. `barred`: its participant bars it now. `done`: it had been done after all,
    before it could be resolved."""

    barred: bool
    done: bool


def in_doubt_of(response: coordinator_pb2.ListInDoubtResponse) -> InDoubt:
    """What is in doubt, from the wire."""
    return InDoubt(
        branches=tuple(_branch_of(branch) for branch in response.branches),
        unanswered=tuple(Unanswered(one.participant, one.error) for one in response.unanswered),
        quarantine=response.quarantine,
    )


def observed_of(seen: participant_pb2.ObservedBranch, *, participant: str, txid: str) -> InDoubtBranch:
    """A branch as its database tells it, without a coordinator: nothing is known of the decision."""
    return _branch_of(
        coordinator_pb2.InDoubtBranch(
            gid=seen.gid,
            txid=txid,
            participant=participant,
            state=coordinator_pb2.BRANCH_STATE_PREPARED,
            observed=True,
            age=seen.age,
            owner=seen.owner,
            locks=seen.locks,
            waiters=seen.waiters,
            horizon_age=seen.horizon_age,
        )
    )


def diagnosis_of(response: coordinator_pb2.CoordinatorDiagnoseResponse) -> Diagnosis:
    """A diagnosis, from the wire."""
    return Diagnosis(
        journal_id=response.journal_id,
        label=response.label,
        epoch=response.epoch.number,
        checks=tuple(_check_of(check) for check in response.checks),
        participants=tuple(
            ParticipantDiagnosis(
                participant=one.participant,
                address=one.address,
                system_identifier=one.identity.system_identifier,
                timeline=one.identity.timeline,
                database=one.identity.database,
                checks=tuple(_check_of(check) for check in one.checks),
            )
            for one in response.participants
        ),
    )


def dead_letter_of(message: coordinator_pb2.DeadLetter) -> DeadLetter:
    """A dead letter, from the wire."""
    return DeadLetter(
        txid=message.txid,
        request_id=message.request_id,
        step=message.step,
        participant=message.participant,
        operation=message.operation,
        kind=name_of(types_pb2.BranchKind, message.kind, "BRANCH_KIND_"),
        attempts=message.attempts,
        refusal=refusal_of(message.refusal),
        since=message.since.ToDatetime(tzinfo=UTC),
        gid=message.gid,
    )


def _branch_of(branch: coordinator_pb2.InDoubtBranch) -> InDoubtBranch:
    return InDoubtBranch(
        gid=branch.gid,
        txid=branch.txid,
        request_id=branch.request_id,
        participant=branch.participant,
        state=name_of(coordinator_pb2.BranchState, branch.state, "BRANCH_STATE_"),
        decision=name_of(types_pb2.Decision, branch.decision, "DECISION_"),
        doing=branch.doing,
        attempts=branch.attempts,
        last_error=branch.last_error,
        observed=branch.observed,
        age_s=_seconds(branch.age) if branch.observed else None,
        owner=branch.owner,
        locks=tuple(HeldLock(lock.target, lock.mode) for lock in branch.locks),
        waiters=tuple(
            Waiter(
                pid=waiter.pid,
                user=waiter.user,
                application=waiter.application,
                waiting_s=_seconds(waiter.waiting),
                query=waiter.query,
                behind=waiter.behind,
            )
            for waiter in branch.waiters
        ),
        horizon_xids=branch.horizon_age if branch.observed else None,
    )


def _check_of(check: types_pb2.Check) -> Check:
    """A check. A result that this version does not know is a problem: nobody says that it is well."""
    known = {types_pb2.CHECK_RESULT_OK: CheckResult.OK, types_pb2.CHECK_RESULT_WARNING: CheckResult.WARNING}
    return Check(check.subject, known.get(check.result, CheckResult.PROBLEM), check.finding, check.remedy)


def _seconds(duration: Duration) -> float:
    return round(duration.ToNanoseconds() / 1e9, 3)
