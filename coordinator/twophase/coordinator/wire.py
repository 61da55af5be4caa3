"""Between the engine's values and the contract's messages.

Lives here: mapping, one function a message, both ways total. Must not live here: checks of what a client sent
(`validation`), gRPC.
"""

from __future__ import annotations

from typing import assert_never

import grpc

from twophase.contract.names import Epoch, Gid, Txid
from twophase.contract.status import Problem
from twophase.coordinator import reasons
from twophase.coordinator.engine.api import Answer, Outcome, Result, View
from twophase.coordinator.journal.events import (
    Begun,
    BranchRef,
    Compensated,
    DeadLettered,
    Decided,
    Ended,
    Finished,
    Happening,
    Reason,
    Resolved,
    TransactionRecord,
    Turned,
    Voted,
)
from twophase.coordinator.protocol.decisions import SAGA, Decision, DecisionKind, Ending, Vote
from twophase.v1 import coordinator_pb2, types_pb2

_OUTCOMES = {
    Outcome.COMMITTED: coordinator_pb2.OUTCOME_COMMITTED,
    Outcome.ABORTED: coordinator_pb2.OUTCOME_ABORTED,
    Outcome.COMPENSATED: coordinator_pb2.OUTCOME_COMPENSATED,
    Outcome.PENDING: coordinator_pb2.OUTCOME_PENDING,
    Outcome.NOT_SEEN: coordinator_pb2.OUTCOME_NOT_SEEN,
}
_REFUSAL_KINDS = {name.removeprefix("REFUSAL_KIND_"): number for name, number in types_pb2.RefusalKind.items()}
_DECISIONS = {
    DecisionKind.COMMIT: types_pb2.DECISION_COMMIT,
    DecisionKind.ABORT: types_pb2.DECISION_ABORT,
    DecisionKind.DELEGATED: types_pb2.DECISION_DELEGATED,
    DecisionKind.SAGA: types_pb2.DECISION_SAGA,
}

_VOTES = {
    Vote.YES: types_pb2.VOTE_YES,
    Vote.READ_ONLY: types_pb2.VOTE_READ_ONLY,
    Vote.NO: types_pb2.VOTE_NO,
    Vote.LOST: types_pb2.VOTE_UNSPECIFIED,
}


def epoch_message(epoch: Epoch) -> types_pb2.Epoch:
    """An epoch, for the wire."""
    return types_pb2.Epoch(number=epoch.number, nonce=epoch.nonce)


def execute_response(answer: Answer, epoch: Epoch) -> coordinator_pb2.ExecuteResponse:
    """The answer to Execute."""
    return coordinator_pb2.ExecuteResponse(
        txid="" if answer.txid is None else str(answer.txid),
        outcome=_OUTCOMES[answer.outcome],
        applied=answer.applied,
        results=[_result(result) for result in answer.results],
        refusals=[refusal(reason) for reason in answer.reasons],
        pending=answer.pending,
        heuristic=answer.heuristic,
        attempt=answer.attempt,
        epoch=epoch_message(epoch),
    )


def get_response(view: View | None, journal_id: str, epoch: Epoch) -> coordinator_pb2.GetResponse:
    """The answer to Get; NOT_SEEN where there is no record."""
    if view is None:
        return coordinator_pb2.GetResponse(outcome=coordinator_pb2.OUTCOME_NOT_SEEN, epoch=epoch_message(epoch))
    return coordinator_pb2.GetResponse(
        transaction=transaction(view, journal_id), outcome=_OUTCOMES[view.outcome], epoch=epoch_message(epoch)
    )


def transaction(view: View, journal_id: str) -> coordinator_pb2.Transaction:
    """What is known of a transaction."""
    record = view.record
    return coordinator_pb2.Transaction(
        txid=str(record.txid),
        request_id="" if record.request is None else record.request.request_id,
        attempt=0 if record.request is None else record.request.attempt,
        protocol=coordinator_pb2.PROTOCOL_SAGA if is_saga(record) else coordinator_pb2.PROTOCOL_TWO_PHASE,
        outcome=_OUTCOMES[view.outcome],
        decision=decision(record.decision),
        applied=view.applied,
        branches=[
            coordinator_pb2.Branch(
                gid=str(Gid(journal_id, record.txid, branch.number)),
                participant=branch.participant,
                state=branch_state(record, branch),
                step=_step(record, branch.number),
                operation=_operation(record, branch.number),
            )
            for branch in sorted(record.branches, key=lambda branch: branch.number)
        ],
        refusals=[refusal(reason) for reason in record.reasons],
        events=[_event(happening, record, journal_id) for happening in view.history],
    )


def _event(happening: Happening, record: TransactionRecord, journal_id: str) -> coordinator_pb2.TransactionEvent:
    message = coordinator_pb2.TransactionEvent(position=happening.position)
    message.at.FromMilliseconds(happening.at)
    match happening.event:
        case Begun():
            message.kind = coordinator_pb2.EVENT_KIND_BEGUN
        case Voted(txid, branch, vote):
            message.kind = coordinator_pb2.EVENT_KIND_VOTED
            message.gid, message.participant = str(Gid(journal_id, txid, branch)), _participant(record, branch)
            message.vote = _VOTES[vote]
        case Decided(txid, made, reasons=why):
            message.kind = coordinator_pb2.EVENT_KIND_DECIDED
            if (delegate := made.branch) is not None:
                message.gid, message.participant = str(Gid(journal_id, txid, delegate)), _participant(record, delegate)
            message.decision = decision(made)
            message.refusals.extend(refusal(reason) for reason in why)
        case Finished(txid, branch, ending):
            message.kind = coordinator_pb2.EVENT_KIND_FINISHED
            message.gid, message.participant = str(Gid(journal_id, txid, branch)), _participant(record, branch)
            message.state = _done_state(ending) if is_saga(record) else _ended_state(ending, record.committed)
        case Ended(_, committed):
            message.kind = coordinator_pb2.EVENT_KIND_ENDED
            undone = Outcome.COMPENSATED if is_saga(record) else Outcome.ABORTED
            message.outcome = _OUTCOMES[Outcome.COMMITTED if committed else undone]
        case Turned(reasons=why):
            message.kind = coordinator_pb2.EVENT_KIND_TURNED
            message.refusals.extend(refusal(reason) for reason in why)
        case Compensated(txid, branch, empty):
            message.kind = coordinator_pb2.EVENT_KIND_COMPENSATED
            message.gid, message.participant = str(Gid(journal_id, txid, branch)), _participant(record, branch)
            message.state = _undone_state(record.endings.get(branch), empty=empty)
        case DeadLettered(txid, branch, _, why):
            message.kind = coordinator_pb2.EVENT_KIND_DEAD_LETTER
            message.gid, message.participant = str(Gid(journal_id, txid, branch)), _participant(record, branch)
            message.refusals.append(refusal(why))
        case Resolved(txid, branch, actor, why):
            message.kind = coordinator_pb2.EVENT_KIND_RESOLVED
            message.gid, message.participant = str(Gid(journal_id, txid, branch)), _participant(record, branch)
            message.actor, message.reason = actor, why
        case _:
            assert_never(happening.event)
    match happening.event:
        case Finished(_, branch) | Compensated(_, branch) | DeadLettered(_, branch) | Resolved(_, branch):
            message.step = _step(record, branch)
        case _:
            pass
    return message


def is_saga(record: TransactionRecord) -> bool:
    """Whether it ran as a saga; an attempt that was aborted before it began did not."""
    return record.decision == SAGA


def _step(record: TransactionRecord, number: int) -> str:
    """The name of a saga's step; empty for a branch of two-phase commit."""
    steps = record.definition.steps if record.definition is not None else ()
    return steps[number].name if number < len(steps) else ""


def _operation(record: TransactionRecord, number: int) -> str:
    steps = record.definition.steps if record.definition is not None else ()
    return steps[number].operation if number < len(steps) else ""


def _participant(record: TransactionRecord, number: int) -> str:
    """Where a branch is; empty if what would tell it was lost."""
    return next((branch.participant for branch in record.branches if branch.number == number), "")


def refusal(reason: Reason) -> types_pb2.Refusal:
    """Why a branch did not happen. A kind this version does not know is told as INTERNAL."""
    return types_pb2.Refusal(
        kind=_REFUSAL_KINDS.get(reason.kind, types_pb2.REFUSAL_KIND_INTERNAL),
        code=reason.code,
        message=reason.message,
        retryable=reason.retryable,
        participant=reason.participant,
        operation=reason.operation,
    )


def problem_of(answer: Answer, request: coordinator_pb2.ExecuteRequest) -> Problem | None:
    """The error that an abort is told as, if the request itself was at fault; None if it is a plain answer.

    Only the reason that decided counts: the others may be consequences. A saga that was compensated is always an
    answer: it was begun, and others may have seen what was done and undone. So is a heuristic outcome: the error would
    say that nothing is left.
    """
    if answer.outcome is not Outcome.ABORTED or not answer.reasons or answer.heuristic:
        return None
    decided = answer.reasons[0]
    at = [
        index
        for index, operation in enumerate(request.operations)
        if (operation.participant, operation.name) == (decided.participant, decided.operation)
    ]
    # Several operations of one name: which one it was only the message can tell.
    path = f"operations[{at[0]}]" if len(at) == 1 else "operations"
    name = f"{decided.participant}.{decided.operation}" if decided.operation else decided.participant
    match decided.kind:
        case "INVALID_PAYLOAD":
            return Problem(
                code=grpc.StatusCode.INVALID_ARGUMENT,
                reason=reasons.PAYLOAD_REFUSED,
                message=f"the payload of {name} is not of the operation's type: {decided.message}",
                field=f"{path}.payload" if len(at) == 1 else path,
                value=name,
                remedy="send a payload of the type the operation declares, under a new request id",
            )
        case "UNKNOWN_OPERATION":
            return Problem(
                code=grpc.StatusCode.NOT_FOUND,
                reason=reasons.OPERATION_REFUSED,
                message=f"participant {decided.participant} does not offer {decided.operation!r}: {decided.message}",
                field=f"{path}.name" if len(at) == 1 else path,
                value=name,
                remedy="name an operation the participant offers, under a new request id",
            )
        case _:
            return None


def page_token(txid: Txid) -> str:
    """The token of the page that follows after a transaction."""
    return str(txid)


def _result(result: Result) -> types_pb2.OperationResult:
    return types_pb2.OperationResult(participant=result.participant, name=result.operation, result=result.payload)


def decision(made: Decision | None) -> types_pb2.Decision.ValueType:
    """The decision, if it is made."""
    return types_pb2.DECISION_UNSPECIFIED if made is None else _DECISIONS[made.kind]


def branch_state(record: TransactionRecord, branch: BranchRef) -> coordinator_pb2.BranchState.ValueType:
    """Where a branch stands, as the journal knows it."""
    if is_saga(record):
        return _saga_state(record, branch.number)
    ending = record.endings.get(branch.number)
    if ending is not None:
        return _ended_state(ending, record.committed)
    vote = record.votes.get(branch.number)
    if vote is None and record.hearers is not None and branch.number not in record.hearers:
        # Votes are written down before the decision. It does not concern this branch, so nothing was sent to it.
        return coordinator_pb2.BRANCH_STATE_UNSPECIFIED
    return _voted_state(vote)


def _ended_state(ending: Ending, committed: bool | None) -> coordinator_pb2.BranchState.ValueType:  # noqa: FBT001
    match ending:
        case Ending.LOST:
            return coordinator_pb2.BRANCH_STATE_HEURISTIC
        case Ending.APPLIED:
            against = committed is False
            return coordinator_pb2.BRANCH_STATE_HEURISTIC if against else coordinator_pb2.BRANCH_STATE_APPLIED
        case Ending.ABORTED:
            against = committed is True
            return coordinator_pb2.BRANCH_STATE_HEURISTIC if against else coordinator_pb2.BRANCH_STATE_ABORTED
        case Ending.REFUSED:
            against = committed is True
            return coordinator_pb2.BRANCH_STATE_HEURISTIC if against else coordinator_pb2.BRANCH_STATE_REFUSED
        case _:
            assert_never(ending)


def _voted_state(vote: Vote | None) -> coordinator_pb2.BranchState.ValueType:
    match vote:
        case Vote.YES:
            return coordinator_pb2.BRANCH_STATE_PREPARED
        case Vote.READ_ONLY:
            return coordinator_pb2.BRANCH_STATE_READ_ONLY
        case Vote.NO:
            return coordinator_pb2.BRANCH_STATE_REFUSED
        case Vote.LOST | None:
            return coordinator_pb2.BRANCH_STATE_WORKING


def _saga_state(record: TransactionRecord, number: int) -> coordinator_pb2.BranchState.ValueType:
    """Where a step of a saga stands. What a person has to know comes first, then what the ledgers proved."""
    ending = record.endings.get(number)
    if number in record.dead:
        return coordinator_pb2.BRANCH_STATE_DEAD_LETTER
    if number in record.resolved:
        return coordinator_pb2.BRANCH_STATE_RESOLVED
    if ending is not None and ending is not Ending.APPLIED:
        return _done_state(ending)
    if number in record.compensated or (record.ended and not record.committed):
        return _undone_state(ending, empty=record.compensated.get(number, False))
    if ending is Ending.APPLIED or record.ended:
        return coordinator_pb2.BRANCH_STATE_APPLIED
    after = record.definition.steps[number].after if record.definition is not None else ()
    done = all(record.endings.get(each) is Ending.APPLIED or each in record.resolved for each in after)
    return coordinator_pb2.BRANCH_STATE_WORKING if done else coordinator_pb2.BRANCH_STATE_WAITING


def _undone_state(ending: Ending | None, *, empty: bool) -> coordinator_pb2.BranchState.ValueType:
    """How a step stands after its compensation; nothing to undo of one that is not known to be done: it never was."""
    never = empty and ending is not Ending.APPLIED
    return coordinator_pb2.BRANCH_STATE_ABORTED if never else coordinator_pb2.BRANCH_STATE_COMPENSATED


def _done_state(ending: Ending) -> coordinator_pb2.BranchState.ValueType:
    """How the work of a saga's step ended; it cannot end against a decision, since how it ends is what decides."""
    match ending:
        case Ending.APPLIED:
            return coordinator_pb2.BRANCH_STATE_APPLIED
        case Ending.REFUSED:
            return coordinator_pb2.BRANCH_STATE_REFUSED
        case Ending.ABORTED | Ending.LOST:
            return coordinator_pb2.BRANCH_STATE_ABORTED
        case _:
            assert_never(ending)
