"""The written form of events: a kind and a JSON object, readable with any tool.

Lives here: both directions. Must not live here: where the text is kept.

The kind is the version: a form is never changed, it gets a new name and the old one stays readable. Fields may be
added; a reader ignores those it does not know. The transaction's name is kept beside the text, not in it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import Any, Final, assert_never

from twophase.contract.names import Txid
from twophase.coordinator.journal.events import (
    Begun,
    BranchRef,
    Compensated,
    DeadLettered,
    Decided,
    Definition,
    Ended,
    Event,
    Finished,
    Reason,
    RequestRef,
    Resolved,
    SagaStep,
    Turned,
    Voted,
)
from twophase.coordinator.journal.port import JournalUnusable
from twophase.coordinator.protocol.decisions import Decision, DecisionKind, Ending, Vote

BEGUN: Final = "begun"
VOTED: Final = "voted"
DECIDED: Final = "decided"
FINISHED: Final = "finished"
ENDED: Final = "ended"
TURNED: Final = "turned"
COMPENSATED: Final = "compensated"
DEAD_LETTERED: Final = "dead-lettered"
RESOLVED: Final = "resolved"

_write = json.JSONEncoder(separators=(",", ":")).encode


def encode(event: Event) -> tuple[str, str]:
    """The event's kind and its JSON text, pure ASCII."""
    match event:
        case Begun():
            return BEGUN, _write({**_request_out(event.request), "branches": _branches_out(event.branches)})
        case Voted():
            return VOTED, _voted_out(event.branch, event.vote)
        case Decided():
            return DECIDED, _write(
                {
                    "decision": event.decision.kind.value,
                    **({} if event.decision.branch is None else {"branch": event.decision.branch}),
                    **_request_out(event.request),
                    "branches": _branches_out(event.branches),
                    **_reasons_out(event.reasons),
                    **({} if event.definition is None else {"saga": _definition_out(event.definition)}),
                }
            )
        case Finished():
            return FINISHED, _finished_out(event.branch, event.ending)
        case Ended():
            if event.reasons:
                return ENDED, _write({"committed": event.committed, **_reasons_out(event.reasons)})
            return ENDED, _ended_out(event.committed)
        case Turned():
            return TURNED, _write(_reasons_out(event.reasons))
        case Compensated():
            return COMPENSATED, _write({"branch": event.branch, "empty": event.empty})
        case DeadLettered():
            fields = {"branch": event.branch, "attempts": event.attempts, "reason": _reason_out(event.reason)}
            return DEAD_LETTERED, _write(fields)
        case Resolved():
            return RESOLVED, _write({"branch": event.branch, "actor": event.actor, "reason": event.reason})
        case _:
            assert_never(event)


# The same few texts in every transaction.


@lru_cache(maxsize=1024)
def _voted_out(branch: int, vote: Vote) -> str:
    return _write({"branch": branch, "vote": vote.value})


@lru_cache(maxsize=1024)
def _finished_out(branch: int, ending: Ending) -> str:
    return _write({"branch": branch, "ending": ending.value})


@lru_cache(maxsize=2)
def _ended_out(committed: bool) -> str:  # noqa: FBT001
    return _write({"committed": committed})


def decode(txid: Txid, kind: str, text: str) -> Event:
    """The event that was written. Raises `JournalUnusable` for what `encode` did not write; not retryable."""
    try:
        return _decode(txid, kind, json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalUnusable(
            f"the journal holds an event {kind!r} of transaction {txid} that cannot be read ({error!r});"
            " run the twophase that wrote it, or restore the journal"
        ) from error


def _decode(txid: Txid, kind: str, body: dict[str, Any]) -> Event:
    match kind:
        case "begun":
            return Begun(txid, _request_in(body), _branches_in(body))
        case "voted":
            return Voted(txid, int(body["branch"]), Vote(body["vote"]))
        case "decided":
            return Decided(
                txid,
                Decision(DecisionKind(body["decision"]), body.get("branch")),
                _request_in(body),
                _branches_in(body),
                _reasons_in(body),
                _definition_in(body),
            )
        case "finished":
            return Finished(txid, int(body["branch"]), Ending(body["ending"]))
        case "ended":
            return Ended(txid, bool(body["committed"]), _reasons_in(body))
        case "turned":
            return Turned(txid, _reasons_in(body))
        case "compensated":
            return Compensated(txid, int(body["branch"]), bool(body["empty"]))
        case "dead-lettered":
            return DeadLettered(txid, int(body["branch"]), int(body["attempts"]), _reason_in(body["reason"]))
        case "resolved":
            return Resolved(txid, int(body["branch"]), str(body["actor"]), str(body["reason"]))
        case _:
            raise ValueError(f"unknown kind {kind!r}")


def _request_out(request: RequestRef | None) -> dict[str, object]:
    if request is None:
        return {}
    fields = {"id": request.request_id, "attempt": request.attempt, "fingerprint": request.fingerprint.hex()}
    return {"request": fields}


def _request_in(body: dict[str, Any]) -> RequestRef | None:
    fields = body.get("request")
    if fields is None:
        return None
    return RequestRef(fields["id"], fields["attempt"], bytes.fromhex(fields["fingerprint"]))


def _branches_out(branches: tuple[BranchRef, ...]) -> list[dict[str, object]]:
    return [{"number": branch.number, "participant": branch.participant} for branch in branches]


def _branches_in(body: dict[str, Any]) -> tuple[BranchRef, ...]:
    return tuple(BranchRef(fields["number"], fields["participant"]) for fields in body["branches"])


def _definition_out(definition: Definition) -> dict[str, object]:
    steps = [
        {
            "name": step.name,
            "participant": step.participant,
            "operation": step.operation,
            "payload": b64encode(step.payload).decode(),
            "after": list(step.after),
            "pivot": step.pivot,
        }
        for step in definition.steps
    ]
    return {"steps": steps, "deadline": definition.deadline}


def _definition_in(body: dict[str, Any]) -> Definition | None:
    fields = body.get("saga")
    if fields is None:
        return None
    steps = tuple(
        SagaStep(
            step["name"],
            step["participant"],
            step["operation"],
            b64decode(step["payload"], validate=True),
            tuple(step["after"]),
            step["pivot"],
        )
        for step in fields["steps"]
    )
    return Definition(steps, int(fields["deadline"]))


def _reasons_out(reasons: tuple[Reason, ...]) -> dict[str, object]:
    return {"reasons": [_reason_out(reason) for reason in reasons]} if reasons else {}


def _reasons_in(body: dict[str, Any]) -> tuple[Reason, ...]:
    return tuple(_reason_in(reason) for reason in body.get("reasons", ()))


def _reason_out(reason: Reason) -> dict[str, object]:
    return {
        "kind": reason.kind,
        "code": reason.code,
        "message": reason.message,
        "retryable": reason.retryable,
        "participant": reason.participant,
        "operation": reason.operation,
    }


def _reason_in(fields: dict[str, Any]) -> Reason:
    return Reason(
        fields["kind"],
        fields["code"],
        fields["message"],
        fields["retryable"],
        fields["participant"],
        fields["operation"],
    )
