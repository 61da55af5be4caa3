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
    Decided,
    Ended,
    Event,
    Finished,
    Reason,
    RequestRef,
    TransactionRecord,
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
            case Finished():
                endings[event.branch] = event.ending
            case Ended():
                end = event
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
        committed=_committed(decision, endings, end),
        ended=end is not None,
        reasons=reasons,
        votes=votes,
        endings=endings,
    )


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
