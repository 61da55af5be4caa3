"""The rule of pruning, pure, in one place for every store: how far a horizon may rise, and what goes below it.

Lives here: that rule. Must not live here: how candidates are found and deleted (the stores), when (`engine.pruning`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from twophase.coordinator.journal.port import Pruning

# Sequences count from here: below it nothing can be missing, and a horizon that stops at it has not moved.
_FIRST: Final = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recorded transaction of the epoch.

    `ended_at` is when its last `Ended` was written, None without one; `position` is that of its last event. `kept`: it
    has a branch that ended against the decision, and its record stays until a person forgets it (R11). `newest`: the
    journal's newest event is its, which holds the place of the highest position.
    """

    sequence: int
    ended_at: int | None
    position: int
    kept: bool
    newest: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The horizon as it will be, and the sequences whose records go."""

    horizon: int
    gone: tuple[int, ...]


def plan(pruning: Pruning, horizon: int, candidates: Iterable[Candidate], *, all_there: bool) -> Plan:
    """What may be forgotten. The candidates come in the order of their sequences, from the epoch's first on;
    `all_there` says that there are no more below `pruning.below`.

    The horizon stops at the first sequence that is not over, or, unless the epoch is `settled`, of which there is no
    record. It never goes back. What was recorded below it later goes once it is over, too.
    """
    reached = horizon
    gone: list[int] = []
    for candidate in candidates:
        if candidate.sequence >= pruning.below:
            break
        over = _is_over(candidate, pruning)
        if candidate.sequence >= horizon:
            if not pruning.settled and candidate.sequence > max(reached, _FIRST):
                return Plan(reached, tuple(gone))
            if not over:
                return Plan(candidate.sequence if candidate.sequence > _FIRST else horizon, tuple(gone))
            reached = candidate.sequence + 1
        if over and not candidate.kept:
            gone.append(candidate.sequence)
    if all_there and pruning.settled and pruning.below > _FIRST:
        reached = max(reached, pruning.below)
    return Plan(reached, tuple(gone))


def _is_over(candidate: Candidate, pruning: Pruning) -> bool:
    return (
        candidate.ended_at is not None
        and candidate.ended_at < pruning.ended_before
        and candidate.position <= pruning.up_to
        and not candidate.newest
    )
