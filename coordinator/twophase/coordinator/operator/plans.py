"""What a coordinator would do that starts on a journal's file, in words.

Lives here: the sentences. Must not live here: the doing (`engine.supervisor`), whose rules these sentences repeat.
"""

from __future__ import annotations

from twophase.coordinator.client import Outcome, Protocol, Transaction
from twophase.coordinator.journal.offline import Inspection
from twophase.coordinator.operator import saga_words

_OVER = frozenset({"APPLIED", "ABORTED", "REFUSED", "READ_ONLY", "HEURISTIC"})


def opening(found: Inspection) -> str:
    """What it does first."""
    last = max((record.epoch.number for record in found.epochs), default=0)
    fences = f", and fence {'epoch 1' if last == 1 else f'all {last} before it'}" if last else ""
    return f"a coordinator would give out epoch {last + 1} or higher{fences}"


def plan(transaction: Transaction, found: Inspection) -> str:
    """What it does about one transaction."""
    saga = transaction.protocol is Protocol.SAGA and not transaction.applied
    left = [branch.participant for branch in transaction.branches if saga or branch.state not in _OVER]
    strangers = sorted(set(left) - {participant.name for participant in found.participants})
    if strangers:
        return f"wait: it does not know {', '.join(strangers)} (register it)"
    where = ", ".join(left)
    match transaction.decision:
        case "COMMIT" | "ABORT" | "DELEGATED" | "SAGA" if transaction.applied:
            return "do nothing: it is over"
        case "SAGA":
            return _plan_of_saga(transaction)
        case "COMMIT":
            return f"commit at {where}" if left else "note that it is over"
        case "ABORT":
            return f"roll back at {where}" if left else "note that it is over"
        case "DELEGATED":
            return f"ask {where or 'its delegate'} how it ended, and bar it there if it did not commit"
        case _ if found.proofs:
            return "conclude nothing while the journal counts as older than its participants: an operator settles it"
        case _:
            return "ask every participant whether it is applied anywhere, and if it is not, abort it"


def _plan_of_saga(saga: Transaction) -> str:
    if saga.outcome is Outcome.COMPENSATED:
        left = saga_words.to_undo(saga)
        return f"undo {left}" if left else "note that it is over"
    if refused := saga_words.refused(saga):
        return f"turn it, since {refused} never happens, and undo the rest"
    left = saga_words.to_do(saga)
    return f"go on with {left}" if left else "note that it is over"
