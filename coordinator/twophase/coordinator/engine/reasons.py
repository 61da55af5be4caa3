"""Why a transaction is aborted: the reasons the engine itself gives, and those it takes from participants.

Lives here: their wording, in one place. Must not live here: when they apply.
"""

from __future__ import annotations

from twophase.coordinator.journal.events import Reason
from twophase.coordinator.protocol.decisions import Ending
from twophase.v1 import types_pb2

_PREFIX = "REFUSAL_KIND_"


def from_refusal(refusal: types_pb2.Refusal, *, participant: str) -> Reason:
    """A participant's own words; an unknown or missing kind counts as INTERNAL."""
    try:
        name = types_pb2.RefusalKind.Name(refusal.kind).removeprefix(_PREFIX)
    except ValueError:
        name = "UNSPECIFIED"
    return Reason(
        kind="INTERNAL" if name == "UNSPECIFIED" else name,
        code=refusal.code or name,
        message=refusal.message or "the participant gave no reason",
        retryable=refusal.retryable,
        participant=participant,
        operation=refusal.operation,
    )


def unreachable(participant: str, why: str) -> Reason:
    """The participant did not answer before it voted."""
    return Reason(
        kind="UNREACHABLE",
        code="UNREACHABLE",
        message=f"participant {participant!r} did not answer: {why}; nothing of this transaction stays there",
        retryable=True,
        participant=participant,
    )


def not_counted(participant: str, why: str) -> Reason:
    """The participant answered with something that is no vote."""
    return Reason(
        kind="INTERNAL",
        code="INVALID_VOTE",
        message=f"the vote of participant {participant!r} does not count: {why}",
        retryable=True,
        participant=participant,
    )


def deadline(seconds: float, waiting_for: tuple[str, ...]) -> Reason:
    """The time was up before every vote was there."""
    return Reason(
        kind="DEADLINE",
        code="DEADLINE",
        message=f"not every participant had voted after {seconds:g} s; missing: {', '.join(waiting_for) or 'none'}",
        retryable=True,
    )


def saga_deadline(seconds: float, waiting_for: tuple[str, ...]) -> Reason:
    """The time was up before it was certain that the saga would be done."""
    return Reason(
        kind="DEADLINE",
        code="DEADLINE",
        message=f"not every step was done after {seconds:g} s; missing at: {', '.join(waiting_for) or 'none'}",
        retryable=True,
    )


def barred(participant: str, operation: str, ending: Ending | None) -> Reason:
    """The step, or its compensation, was answered with something that is no end of it."""
    why = "no outcome at all" if ending is None else f"{ending.value!r}, which is no end of it"
    return Reason(
        kind="ABORTED" if ending is Ending.ABORTED else "INTERNAL",
        code="BARRED" if ending is Ending.ABORTED else "INVALID_ANSWER",
        message=f"participant {participant!r} answered with {why}",
        retryable=False,
        participant=participant,
        operation=operation,
    )


def failed(participant: str, operation: str, why: str) -> Reason:
    """The step, or its compensation, was answered with a status instead of an outcome."""
    return Reason(
        kind="INTERNAL",
        code="CALL_FAILED",
        message=f"participant {participant!r} answered with no outcome, but with a status: {why}",
        retryable=True,
        participant=participant,
        operation=operation,
    )


def not_written_down(participant: str, operation: str) -> Reason:
    """A step is known not to be applied, and the coordinator that knew why is gone. A new attempt hears it again."""
    return Reason(
        kind="ABORTED",
        code="REASON_LOST",
        message=f"participant {participant!r} refused {operation!r}, or barred it when it was asked, and the"
        " coordinator that heard why ended before that was written down",
        retryable=True,
        participant=participant,
        operation=operation,
    )


def delegate_barred(participant: str) -> Reason:
    """The only writer was asked how it ended, and nobody here knows more than that it is not applied."""
    return Reason(
        kind="ABORTED",
        code="BARRED",
        message=f"participant {participant!r} had not applied the transaction when it was asked, and never will",
        retryable=True,
        participant=participant,
    )


def stopping() -> Reason:
    """The coordinator stops and does not wait for the votes."""
    return Reason(kind="ABORTED", code="STOPPING", message="the coordinator is stopping; send it again", retryable=True)


def quarantined() -> Reason:
    """The journal was found to be an older copy while the transaction was running."""
    return Reason(
        kind="ABORTED",
        code="QUARANTINE",
        message="the coordinator's journal is older than its participants, and nothing new is committed;"
        " put the newest journal back, or, if it is lost, start the coordinator with --after-restore",
        retryable=True,
    )


def presumed() -> Reason:
    """Recovery found the transaction without a decision."""
    return Reason(
        kind="ABORTED",
        code="PRESUMED_ABORT",
        message="the coordinator that began this transaction ended before it decided",
        retryable=True,
    )
