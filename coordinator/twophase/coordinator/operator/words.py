"""A transaction in words, and as JSON.

Lives here: what an outcome, a branch, an event is called. Must not live here: layout (`tx_cli`, `screen`), the words
for sagas (`saga_words`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any, Final

from twophase.coordinator.client import Event, Outcome, Protocol, Transaction
from twophase.coordinator.operator import saga_words

_STATES: Final = {
    "UNSPECIFIED": "nothing was sent to it",
    "WORKING": "at work: its vote is not there",
    "PREPARED": "prepared: in doubt until it hears the decision",
    "READ_ONLY": "only read, and is over",
    "REFUSED": "refused: nothing is left of it",
    "APPLIED": "applied",
    "ABORTED": "rolled back",
    "HEURISTIC": "ENDED AGAINST THE DECISION",
}
_VOTES: Final = {"YES": "voted yes", "READ_ONLY": "voted read-only", "NO": "voted no", "UNSPECIFIED": "no vote came"}
_DECISIONS: Final = {"COMMIT": "decided: commit", "ABORT": "decided: abort", "DELEGATED": "decided: delegated"}
_OPEN: Final = frozenset({"WORKING", "PREPARED"})


def standing(transaction: Transaction) -> str:
    """Where it stands, in a few words: finished, whom it waits for, what went wrong."""
    if transaction.protocol is Protocol.SAGA:
        return saga_words.standing(transaction)
    if wrong := _against(transaction):
        return f"ended against the decision at {wrong}"
    waiting = [branch.participant for branch in transaction.branches if branch.state in _OPEN]
    match transaction.outcome:
        case Outcome.COMMITTED:
            done = "applied everywhere" if transaction.applied else ""
        case Outcome.ABORTED:
            first = transaction.refusals[0] if transaction.refusals else None
            where = f" at {first.participant}" if first is not None and first.participant else ""
            done = f"{first.code}{where}" if first is not None else "no reason is recorded"
        case Outcome.PENDING if transaction.decision == "DELEGATED":
            return f"decided by {', '.join(waiting) or 'one branch'}, which was not heard yet"
        case _:
            return f"not decided; waits for {', '.join(waiting) or 'its decision'}"
    return "; ".join(
        filter(None, (done, "" if transaction.applied else f"waits for {', '.join(waiting) or 'its end'}"))
    )


def explained(transaction: Transaction) -> str:
    """The outcome in a sentence."""
    if transaction.protocol is Protocol.SAGA:
        return saga_words.explained(transaction)
    if wrong := _against(transaction):
        return f"{transaction.outcome.value}, but it ended against that at {wrong}: somebody must look"
    match transaction.outcome:
        case Outcome.COMMITTED if transaction.applied:
            return "committed: every branch is applied"
        case Outcome.COMMITTED:
            return "committed: certain, but not every branch is applied yet"
        case Outcome.ABORTED if transaction.applied:
            return "aborted: nothing of it is applied anywhere"
        case Outcome.ABORTED:
            return "aborted: certain, but not every branch is over yet"
        case Outcome.PENDING if transaction.decision == "DELEGATED":
            return "pending: one branch decides by its own commit, and was not heard yet"
        case Outcome.PENDING:
            return "pending: not decided yet; it becomes committed or aborted by itself"
        case _:
            return str(transaction.outcome.value)


def _against(transaction: Transaction) -> str:
    """Where a branch ended against the decision; empty if none did."""
    return ", ".join(branch.participant for branch in transaction.branches if branch.state == "HEURISTIC")


def state(name: str, transaction: Transaction) -> str:
    """A branch's state."""
    if transaction.protocol is Protocol.SAGA:
        return saga_words.state(name)
    return _STATES.get(name, name.lower().replace("_", " "))


def happened(event: Event, transaction: Transaction) -> tuple[str, str]:
    """What happened, and at whom."""
    if transaction.protocol is Protocol.SAGA:
        return saga_words.happened(event)
    match event.kind:
        case "BEGUN":
            return "work was sent", ", ".join(branch.participant for branch in transaction.branches)
        case "VOTED":
            return _VOTES.get(event.vote, event.vote.lower()), event.participant
        case "DECIDED":
            return _DECISIONS.get(event.decision, event.decision.lower()), event.participant
        case "FINISHED":
            return state(event.state, transaction), event.participant
        case "ENDED":
            return f"over: {event.outcome.value if event.outcome is not None else 'ended'}", ""
        case _:
            return event.kind.lower(), event.participant


def to_json(value: Any) -> str:
    """Values of the client as JSON text: enums by their values, moments in ISO 8601."""
    return json.dumps(value, default=_plain)


def as_dict(transaction: Transaction) -> dict[str, Any]:
    """A transaction for `to_json`."""
    return asdict(transaction)


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case _:
            raise TypeError(f"{value!r} has no JSON form")
