"""The written form of events: a kind and a JSON object, readable with any tool.

Lives here: both directions. Must not live here: where the text is kept.

The kind is the version: a form is never changed, it gets a new name and the old one stays readable. Fields may be
added; a reader ignores those it does not know. The transaction's name is kept beside the text, not in it.
"""

from __future__ import annotations

import json
from typing import Any, Final, assert_never

from twophase.contract.names import Txid
from twophase.coordinator.journal.events import (
    Begun,
    BranchRef,
    Decided,
    Ended,
    Event,
    Finished,
    Reason,
    RequestRef,
    Voted,
)
from twophase.coordinator.journal.port import JournalUnusable
from twophase.coordinator.protocol.decisions import Decision, DecisionKind, Ending, Vote

BEGUN: Final = "begun"
VOTED: Final = "voted"
DECIDED: Final = "decided"
FINISHED: Final = "finished"
ENDED: Final = "ended"

_write = json.JSONEncoder(separators=(",", ":")).encode


def encode(event: Event) -> tuple[str, str]:
    """The event's kind and its JSON text, pure ASCII."""
    match event:
        case Begun():
            return BEGUN, _write({**_request_out(event.request), "branches": _branches_out(event.branches)})
        case Voted():
            return VOTED, _write({"branch": event.branch, "vote": event.vote.value})
        case Decided():
            return DECIDED, _write(
                {
                    "decision": event.decision.kind.value,
                    **({} if event.decision.branch is None else {"branch": event.decision.branch}),
                    **_request_out(event.request),
                    "branches": _branches_out(event.branches),
                    **({"reasons": [_reason_out(reason) for reason in event.reasons]} if event.reasons else {}),
                }
            )
        case Finished():
            return FINISHED, _write({"branch": event.branch, "ending": event.ending.value})
        case Ended():
            return ENDED, _write({"committed": event.committed})
        case _:
            assert_never(event)


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
                tuple(_reason_in(reason) for reason in body.get("reasons", ())),
            )
        case "finished":
            return Finished(txid, int(body["branch"]), Ending(body["ending"]))
        case "ended":
            return Ended(txid, bool(body["committed"]))
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
