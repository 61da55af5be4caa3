"""A saga in words.

Lives here: what its outcome, its steps and its events are called. Must not live here: two-phase commit (`words`, which
asks here if it is told a saga), layout.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from twophase.coordinator.client import Event, Outcome, Transaction

_STATES: Final = {
    "WAITING": "not begun",
    "WORKING": "under way, or not heard of",
    "APPLIED": "done",
    "REFUSED": "refused: nothing is left of it",
    "ABORTED": "barred: it never happens",
    "COMPENSATED": "compensated",
    "DEAD_LETTER": "DEAD LETTER: it fails again and again",
    "RESOLVED": "taken for done, by a person's word",
}
_DONE: Final = frozenset({"APPLIED", "RESOLVED"})
_NEVER: Final = frozenset({"REFUSED", "ABORTED"})
_UNDONE: Final = frozenset({"COMPENSATED", "RESOLVED"}) | _NEVER


def standing(saga: Transaction) -> str:
    """Where it stands, in a few words."""
    dead = _in(saga, {"DEAD_LETTER"})
    if dead:
        return f"dead letter at {dead}"
    match saga.outcome:
        case Outcome.COMMITTED:
            return "every step done" if saga.applied else f"certain; still to be done: {to_do(saga) or 'its end'}"
        case Outcome.COMPENSATED:
            first = saga.refusals[0] if saga.refusals else None
            where = f" at {first.participant}" if first is not None and first.participant else ""
            why = "no reason is recorded" if first is None else f"{first.code}{where}"
            return why if saga.applied else f"{why}; still to be undone: {to_undo(saga) or 'its end'}"
        case _:
            never = refused(saga)
            return f"goes back: {never} never happens" if never else f"under way: {to_do(saga) or 'its end'}"


def explained(saga: Transaction) -> str:
    """The outcome in a sentence."""
    match saga.outcome:
        case Outcome.COMMITTED if saga.applied:
            return "committed: every step is done"
        case Outcome.COMMITTED:
            return "committed: certain, but not every step is done yet"
        case Outcome.COMPENSATED if saga.applied:
            return "compensated: what was done of it is undone"
        case Outcome.COMPENSATED:
            return "compensated: it goes back, but not every step is undone yet"
        case Outcome.PENDING:
            return "pending: its steps are under way; it becomes committed or compensated by itself"
        case _:
            return str(saga.outcome.value)


def state(name: str) -> str:
    """A step's state."""
    return _STATES.get(name, name.lower().replace("_", " "))


def happened(event: Event) -> tuple[str, str]:
    """What happened, and at which step."""
    where = f"{event.step} at {event.participant}" if event.step else event.participant
    match event.kind:
        case "DECIDED" if event.decision == "SAGA":
            return "started as a saga", ""
        case "FINISHED" | "COMPENSATED":
            return state(event.state), where
        case "TURNED":
            return "turned: from here it goes back", ""
        case "DEAD_LETTER":
            last = "".join(f": {refusal.code}: {refusal.message}" for refusal in event.refusals[:1])
            return f"became a dead letter{last}", where
        case "RESOLVED":
            return f"taken for done by {event.actor}: {event.reason}", where
        case "ENDED":
            return f"over: {event.outcome.value if event.outcome is not None else 'ended'}", ""
        case _:
            return event.kind.lower(), where


def to_do(saga: Transaction) -> str:
    """The steps that are not done yet, of a saga that goes forward."""
    return _not_in(saga, _DONE)


def to_undo(saga: Transaction) -> str:
    """The steps that are not undone yet, of a saga that has turned."""
    return _not_in(saga, _UNDONE)


def refused(saga: Transaction) -> str:
    """The steps that are known to never happen."""
    return _in(saga, _NEVER)


def _in(saga: Transaction, states: Collection[str]) -> str:
    return ", ".join(branch.step for branch in saga.branches if branch.state in states)


def _not_in(saga: Transaction, states: Collection[str]) -> str:
    return ", ".join(branch.step for branch in saga.branches if branch.state not in states)
