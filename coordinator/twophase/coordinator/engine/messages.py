"""The messages of a transaction: building requests to participants, and reading what their answers say.

Lives here: the mapping between the contract's messages and the machine's words. Must not live here: sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from google.protobuf.duration_pb2 import Duration

from twophase.contract.names import Gid
from twophase.coordinator.engine.api import Call
from twophase.coordinator.engine.fingerprints import branch_fingerprint
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.v1 import participant_pb2, types_pb2

_VOTES: Mapping[types_pb2.Vote.ValueType, Vote] = MappingProxyType(
    {types_pb2.VOTE_YES: Vote.YES, types_pb2.VOTE_READ_ONLY: Vote.READ_ONLY, types_pb2.VOTE_NO: Vote.NO}
)
_COMMITTED: Mapping[participant_pb2.CommitOutcome.ValueType, Ending] = MappingProxyType(
    {
        participant_pb2.COMMIT_OUTCOME_COMMITTED: Ending.APPLIED,
        participant_pb2.COMMIT_OUTCOME_LOST: Ending.LOST,
    }
)
_ABORTED: Mapping[participant_pb2.AbortOutcome.ValueType, Ending] = MappingProxyType(
    {
        participant_pb2.ABORT_OUTCOME_ABORTED: Ending.ABORTED,
        participant_pb2.ABORT_OUTCOME_REFUSED: Ending.REFUSED,
        participant_pb2.ABORT_OUTCOME_APPLIED: Ending.APPLIED,
    }
)
_APPLIED: Mapping[participant_pb2.ApplyOutcome.ValueType, Ending] = MappingProxyType(
    {
        participant_pb2.APPLY_OUTCOME_APPLIED: Ending.APPLIED,
        participant_pb2.APPLY_OUTCOME_REFUSED: Ending.REFUSED,
        participant_pb2.APPLY_OUTCOME_TOMBSTONE: Ending.ABORTED,
    }
)


def prepare(gid: Gid, calls: Iterable[Call], *, time_left: float, position: int) -> participant_pb2.PrepareRequest:
    """Work and the request to prepare it. `time_left` is in seconds."""
    calls = tuple(calls)
    return participant_pb2.PrepareRequest(
        gid=str(gid),
        operations=_operations(calls),
        time_left=_duration(time_left),
        journal_position=position,
        fingerprint=branch_fingerprint(calls),
    )


def apply(gid: Gid, calls: Iterable[Call], *, time_left: float, position: int) -> participant_pb2.ApplyRequest:
    """Work to be committed locally. `time_left` is in seconds."""
    calls = tuple(calls)
    return participant_pb2.ApplyRequest(
        gid=str(gid),
        kind=types_pb2.BRANCH_KIND_WORK,
        operations=_operations(calls),
        time_left=_duration(time_left),
        journal_position=position,
        fingerprint=branch_fingerprint(calls),
    )


def step(
    gid: Gid, calls: Iterable[Call], *, time_left: float, position: int, must_succeed: bool
) -> participant_pb2.ApplyRequest:
    """A step of a saga. `must_succeed`: no refusal of it is final. `time_left` is in seconds."""
    request = apply(gid, calls, time_left=time_left, position=position)
    request.must_succeed = must_succeed
    return request


def compensation(gid: Gid, calls: Iterable[Call], *, time_left: float, position: int) -> participant_pb2.ApplyRequest:
    """The order to undo a step, or to bar it. `time_left` is in seconds."""
    request = apply(gid, calls, time_left=time_left, position=position)
    request.kind = types_pb2.BRANCH_KIND_COMPENSATION
    return request


def bar(gid: Gid, kind: types_pb2.BranchKind.ValueType) -> participant_pb2.AbortRequest:
    """The order to bar a deed that a person took for done."""
    return participant_pb2.AbortRequest(gid=str(gid), kind=kind, decision=types_pb2.DECISION_DELEGATED)


def commit(gid: Gid) -> participant_pb2.CommitRequest:
    """The order to commit a prepared branch."""
    return participant_pb2.CommitRequest(gid=str(gid))


def abort(gid: Gid) -> participant_pb2.AbortRequest:
    """The order to roll a branch back, or to bar it."""
    return participant_pb2.AbortRequest(
        gid=str(gid), kind=types_pb2.BRANCH_KIND_WORK, decision=types_pb2.DECISION_ABORT
    )


def settle(gid: Gid) -> participant_pb2.AbortRequest:
    """The question how a delegated branch, or a step, ended; it is barred if it did not."""
    return participant_pb2.AbortRequest(
        gid=str(gid), kind=types_pb2.BRANCH_KIND_WORK, decision=types_pb2.DECISION_DELEGATED
    )


def vote_in(answer: participant_pb2.PrepareResponse) -> Vote:
    """The vote; LOST for one this program does not know."""
    return _VOTES.get(answer.vote, Vote.LOST)


def ending_in(
    answer: participant_pb2.ApplyResponse | participant_pb2.CommitResponse | participant_pb2.AbortResponse,
) -> Ending | None:
    """How the branch ended by this answer; None if the answer does not say that it did."""
    match answer:
        case participant_pb2.ApplyResponse():
            return _APPLIED.get(answer.outcome)
        case participant_pb2.CommitResponse():
            return _COMMITTED.get(answer.outcome)
        case participant_pb2.AbortResponse():
            return _ABORTED.get(answer.outcome)


def _operations(calls: Iterable[Call]) -> list[participant_pb2.BranchOperation]:
    return [participant_pb2.BranchOperation(name=call.operation, payload=call.payload) for call in calls]


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(max(0.0, seconds) * 1e9))
    return duration
