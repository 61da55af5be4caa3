"""What recovery does about the prepared branches it finds at a participant.

Lives here: the verdict on each branch, from what was read in the right order. Must not live here: the reading.

The order of reading is the whole point, because work goes on while one reads:

1. the participant's prepared branches,
2. **then** the transactions that are live in this coordinator,
3. **then** the journal's decisions,
4. the participant's prepared branches again.

A branch in the first reading was prepared before the second step, so if its transaction is not live then and has no
decision after that, nobody is going to decide it but us. Reading live transactions first would catch a branch of one
that began, and prepared, in between, and roll it back under its owner's feet. A branch seen only in the last reading is
such a newcomer: nothing is concluded from it. One seen only in the first has been finished meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar, assert_never

from twophase.coordinator.protocol.decisions import Decision, DecisionKind

T = TypeVar("T")


class Owner(Enum):
    """Who may decide a transaction that is not decided: its epoch's owner, unless the epoch is fenced."""

    OURS = "our own epoch"
    FENCED = "a fenced epoch"
    OTHERS = "another coordinator's epoch"
    FORGOTTEN = "an epoch whose records may be pruned"
    RESTORED = "an epoch whose later decisions may be lost with a newer journal"
    STRANGE = "an epoch this journal never gave out"


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A branch found prepared: its transaction and its number."""

    transaction: T
    branch: int


class Verdict(Enum):
    """What to do about a prepared branch.

    LEAVE: its owner is at work. FINISH_COMMIT, FINISH_ABORT: it is decided. PRESUME_ABORT: nobody will decide it;
    propose abort and obey the answer. ASK: a missing record proves nothing here; settle it by evidence or an operator.
    """

    LEAVE = "leave"
    FINISH_COMMIT = "finish by commit"
    FINISH_ABORT = "finish by abort"
    PRESUME_ABORT = "presume abort"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Finding(Generic[T]):
    """A branch and what to do about it."""

    seen: Seen[T]
    verdict: Verdict


def resolve(
    before: Iterable[Seen[T]],
    live: Set[T],
    decision_of: Callable[[T], Decision | None],
    owner_of: Callable[[T], Owner],
    after: Set[Seen[T]],
) -> tuple[Finding[T], ...]:
    """The verdict on every branch that was seen in both readings, in the order of the first."""
    return tuple(
        Finding(seen, _verdict(seen, live, decision_of(seen.transaction), owner_of(seen.transaction)))
        for seen in before
        if seen in after
    )


def _verdict(seen: Seen[T], live: Set[T], decision: Decision | None, owner: Owner) -> Verdict:
    if seen.transaction in live:
        return Verdict.LEAVE
    if decision is not None:
        match decision.kind:
            case DecisionKind.COMMIT:
                return Verdict.FINISH_COMMIT
            case DecisionKind.ABORT:
                return Verdict.FINISH_ABORT
            case DecisionKind.DELEGATED | DecisionKind.SAGA:
                # Its readers prepared nothing, and the delegate, or a step, commits at once: this should not be here.
                return Verdict.ASK
            case _:
                assert_never(decision.kind)
    match owner:
        case Owner.OURS | Owner.FENCED:
            return Verdict.PRESUME_ABORT
        case Owner.OTHERS:
            return Verdict.LEAVE
        case Owner.FORGOTTEN | Owner.RESTORED | Owner.STRANGE:
            return Verdict.ASK
        case _:
            assert_never(owner)
