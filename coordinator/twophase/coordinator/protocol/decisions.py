"""What can be decided about a transaction, and how a branch can end.

Lives here: the protocol's values that the machines and the journal share. Must not live here: names, messages, I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class DecisionKind(Enum):
    """The three values of R5, and the start of a saga, which is as write-once as they are: how a saga ends, the ledgers
    of its steps decide."""

    COMMIT = "commit"
    ABORT = "abort"
    DELEGATED = "delegated"
    SAGA = "saga"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, once and for all. `branch` is the one that a delegation went to, else None."""

    kind: DecisionKind
    branch: int | None = None

    def __post_init__(self) -> None:
        if (self.branch is None) is (self.kind is DecisionKind.DELEGATED):
            raise ValueError(f"a decision names a branch if and only if it is delegated, not {self.kind} {self.branch}")

    def __str__(self) -> str:
        return self.kind.value if self.branch is None else f"{self.kind.value}({self.branch})"


COMMIT: Final = Decision(DecisionKind.COMMIT)
ABORT: Final = Decision(DecisionKind.ABORT)
SAGA: Final = Decision(DecisionKind.SAGA)


def delegated(branch: int) -> Decision:
    """The decision to let `branch`, the only one that writes, decide by its own local commit (R12)."""
    return Decision(DecisionKind.DELEGATED, branch)


class Vote(Enum):
    """What a participant answered to prepare; `LOST` is no answer, or one that does not count."""

    YES = "yes"
    READ_ONLY = "read-only"
    NO = "no"
    LOST = "lost"


class Ending(Enum):
    """How a branch ended, by the participant's own word (an answer of its ledger, never an absence).

    APPLIED: it is committed. ABORTED: it is rolled back or barred by a tombstone. REFUSED: its ledger says it refused
    for good.
    LOST: it had to be committed and is not there; a tombstone proves that it never will be.
    """

    APPLIED = "applied"
    ABORTED = "aborted"
    REFUSED = "refused"
    LOST = "lost"


def contradicts(decision: Decision, ending: Ending) -> bool:
    """Whether a branch that ended so is a heuristic outcome under this decision (R11). A delegated one never is, and no
    step of a saga."""
    match decision.kind:
        case DecisionKind.COMMIT:
            return ending is not Ending.APPLIED
        case DecisionKind.ABORT:
            return ending not in (Ending.ABORTED, Ending.REFUSED)
        case DecisionKind.DELEGATED | DecisionKind.SAGA:
            return ending is Ending.LOST
