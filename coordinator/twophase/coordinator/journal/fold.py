"""The fold: how a transaction's state is made of its events.

Lives here: one pure function, used by every store, so that a record means the same wherever it is kept. Must not live
here: how events are written (`codec`) or found (the stores).
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import assert_never

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
    TransactionRecord,
    Turned,
    Voted,
)
from twophase.coordinator.protocol.decisions import Decision, DecisionKind, Ending, Vote


def fold(events: Iterable[Event]) -> TransactionRecord:
    """The state after these events of one transaction, in the order in which they were handed over.

    Any of them may be missing but the order holds. Raises ValueError for no events, or events of two transactions.
    """
    txid: Txid | None = None
    request: RequestRef | None = None
    branches: set[BranchRef] = set()
    hearers: frozenset[int] | None = None
    decision: Decision | None = None
    end: Ended | None = None
    reasons: tuple[Reason, ...] = ()
    votes: dict[int, Vote] = {}
    endings: dict[int, Ending] = {}
    definition: Definition | None = None
    turned = False
    compensated: dict[int, bool] = {}
    dead: dict[int, DeadLettered] = {}
    resolved: dict[int, Resolved] = {}
    for event in events:
        if txid is None:
            txid = event.txid
        elif event.txid != txid:
            raise ValueError(f"an event of {event.txid} is among those of {txid}: fold one transaction at a time")
        match event:
            case Begun():
                request = request or event.request
                branches.update(event.branches)
            case Voted():
                votes[event.branch] = event.vote
            case Decided():
                decision = event.decision
                request = event.request or request
                branches.update(event.branches)
                hearers = frozenset(branch.number for branch in event.branches)
                reasons = event.reasons
                definition = event.definition
            case Finished():
                endings[event.branch] = event.ending
                dead.pop(event.branch, None)
            case Ended():
                end = event
                reasons = event.reasons or reasons
            case Turned():
                turned, reasons = True, event.reasons
            case Compensated():
                compensated[event.branch] = event.empty
                dead.pop(event.branch, None)
            case DeadLettered():
                if event.branch not in resolved:  # its last attempt may end when a person's word is written already
                    dead[event.branch] = event
            case Resolved():
                resolved[event.branch] = event
                dead.pop(event.branch, None)
            case _:
                assert_never(event)
    if txid is None:
        raise ValueError("there is no transaction without events")
    return TransactionRecord(
        txid=txid,
        request=request,
        branches=tuple(sorted(branches, key=attrgetter("number"))),
        hearers=hearers,
        decision=decision,
        committed=_certain(definition, endings, turned=turned, end=end)
        if decision is not None and decision.kind is DecisionKind.SAGA
        else _committed(decision, endings, end),
        ended=end is not None,
        reasons=reasons,
        votes=votes,
        endings=endings,
        definition=definition,
        turned=turned,
        compensated=compensated,
        dead=dead,
        resolved=resolved,
    )


def _certain(
    definition: Definition | None, endings: dict[int, Ending], *, turned: bool, end: Ended | None
) -> bool | None:
    """Whether a saga will be done (True) or undone; None while neither is certain."""
    if turned:
        return False
    if end is not None:
        return end.committed
    pivots = [n for n, step in enumerate(definition.steps) if step.pivot] if definition is not None else []
    return True if any(endings.get(pivot) is Ending.APPLIED for pivot in pivots) else None


def _committed(decision: Decision | None, endings: dict[int, Ending], end: Ended | None) -> bool | None:
    """The outcome. What `Ended` said never overrides a decision that is an outcome itself (R2)."""
    outcome = None if end is None else end.committed
    if decision is None:
        return outcome
    match decision.kind:
        case DecisionKind.COMMIT:
            return True
        case DecisionKind.ABORT:
            return False
        case DecisionKind.DELEGATED:
            if outcome is not None or decision.branch is None:
                return outcome
            return _outcome_of_delegate(endings.get(decision.branch))
        case DecisionKind.SAGA:
            return outcome
        case _:
            assert_never(decision.kind)


def _outcome_of_delegate(ending: Ending | None) -> bool | None:
    """What the delegate's own word says of the transaction (R12)."""
    match ending:
        case Ending.APPLIED:
            return True
        case Ending.ABORTED | Ending.REFUSED:
            return False
        case Ending.LOST | None:
            return None
        case _:
            assert_never(ending)
