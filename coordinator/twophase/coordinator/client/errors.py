"""What can come instead of an answer, as classes.

Lives here: the hierarchy, and which status becomes which class. Must not live here: what to do about one (`execution`).

Every error says by `outcome_known` whether it is certain what became of the transaction. Where it is certain and no
class says otherwise, nothing happened.
"""

from __future__ import annotations

import grpc

from twophase.contract.status import Problem
from twophase.coordinator.client.refusal import Refusal


class TwophaseError(Exception):
    """The base of all errors of the client. The message has the fact, the value and the remedy."""

    outcome_known: bool = True


class TransactionAborted(TwophaseError):
    """The transaction was decided against, and nothing of it is or will be applied anywhere, but at participants in
    `heuristic`. See `SagaCompensated` for a saga that had begun.

    `refusals` say why; the first one decided it, and `kind`, `code` and `retryable` are its. If `retryable`, the same
    request may succeed as a new attempt: `execute(..., request_id=error.request_id, attempt=error.attempt + 1)`.

    A participant in `heuristic` has applied its branch all the same, since somebody committed it by hand: somebody must
    look. Then it is not `retryable`, since a new attempt would do that branch's work again.
    """

    def __init__(
        self,
        request_id: str,
        txid: str,
        attempt: int,
        refusals: tuple[Refusal, ...],
        *,
        heuristic: tuple[str, ...] = (),
    ) -> None:
        self.request_id = request_id
        self.txid = txid
        self.attempt = attempt
        self.refusals = refusals
        self.kind = refusals[0].kind if refusals else "INTERNAL"
        self.code = refusals[0].code if refusals else "INTERNAL"
        self.heuristic = heuristic
        self.retryable = bool(refusals) and refusals[0].retryable and not heuristic
        why = str(refusals[0]) if refusals else "the coordinator gave no reason"
        super().__init__(self._said(why))

    def _said(self, why: str) -> str:
        mixed = f"; all the same it is applied at {', '.join(self.heuristic)}: somebody must look"
        return f"request {self.request_id} is aborted: {why}{mixed if self.heuristic else ''}"


class SagaCompensated(TransactionAborted):
    """The saga turned: what its steps did is, or will be, undone by their compensations. Others could see it meanwhile.

    As a `TransactionAborted` it says why, and may be tried again as a new attempt if `retryable`. `pending` are the
    participants where a step is not undone yet: they follow by themselves, and a new attempt waits for them. Also
    raised if it was a payload or an operation's name that a participant refused: unlike such a request in two-phase
    commit, the saga had begun.
    """

    def __init__(
        self, request_id: str, txid: str, attempt: int, refusals: tuple[Refusal, ...], *, pending: tuple[str, ...] = ()
    ) -> None:
        self.pending = pending
        super().__init__(request_id, txid, attempt, refusals)

    def _said(self, why: str) -> str:
        undone = f"is being undone, still at {', '.join(self.pending)}" if self.pending else "is undone"
        return f"request {self.request_id} is compensated: {why}; what was done of it {undone}"


class CallRejected(TwophaseError):
    """The call is wrong as such, and nothing was started by it. Sending it again unchanged will not help.

    `reason` is for programs; `field`, `value` and `remedy` say what is wrong with which field, where one is to blame.

    A call that changes something and is no `execute` is sent again after a lost answer. If it is rejected then,
    `outcome_known` is False: the earlier copy may have been carried out.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.code = problem.code
        self.reason = problem.reason
        self.field = problem.field
        self.value = problem.value
        self.remedy = problem.remedy


class InvalidRequest(CallRejected):
    """A field is malformed, missing or over its limit, or a payload is not of its operation's type."""


class NotFound(CallRejected):
    """There is no such participant, operation or transaction."""


class RequestIdReused(CallRejected):
    """The request id was used before, with other content. Use a new id for new business."""


class CoordinatorUnavailable(TwophaseError):
    """The coordinator could not be reached, or takes nothing new, and this call started nothing. May be called again.

    What earlier calls with the same request id did, if there were any, is another question: `AsyncClient.outcome`.

    Of a call that changes something and is no `execute` (`register`, and those about dead letters) the answer may have
    been lost: then `outcome_known` is False, it may have been done all the same, and may be called again as well.
    """

    def __init__(self, message: str, *, outcome_known: bool = True) -> None:
        super().__init__(message)
        self.outcome_known = outcome_known


class OutcomeUnknown(TwophaseError):
    """The transaction may be running, committed or aborted: its answer was lost and could not be had again in time.

    It becomes one of them by itself. Never run the business again under a new request id: call `outcome(request_id)`,
    or `execute` with the same `request_id`, `attempt` and operations, which does nothing twice.
    """

    outcome_known = False

    def __init__(self, request_id: str, attempt: int, why: str) -> None:
        self.request_id = request_id
        self.attempt = attempt
        super().__init__(
            f"the outcome of request {request_id} is not known: {why};"
            f" ask later with `await client.outcome({request_id!r})`, or execute it again with the same request id"
        )


class ResultMismatch(TwophaseError):
    """A result is not of the type it was asked for as. The transaction is committed all the same."""


def of_problem(problem: Problem) -> CallRejected:
    """The error of a call that was rejected; nothing was started by it."""
    match problem.code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidRequest(problem)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(problem)
        case _:
            return CallRejected(problem)


def invalid(field: str, value: object, fact: str, remedy: str) -> InvalidRequest:
    """The error of something that is wrong before it is sent."""
    return InvalidRequest(
        Problem(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="MALFORMED_FIELD",
            message=f"{field}: {fact}; {remedy}",
            field=field,
            value=str(value),
            remedy=remedy,
        )
    )
