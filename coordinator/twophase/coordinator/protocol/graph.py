"""The shape of a saga: which steps come before which, and which of them is the pivot.

Lives here: the graph, and what makes one malformed. Must not live here: names of steps, and what is done with them
(`saga`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter


class Malformed(ValueError):
    """No saga has this shape. `steps` are the numbers of those at fault."""

    def __init__(self, message: str, *steps: int) -> None:
        super().__init__(message)
        self.steps = steps


class Cycle(Malformed):
    """Each of these steps waits for the next, and the last one for the first."""


class TwoPivots(Malformed):
    """There is at most one step after which a saga only goes forward."""


class BesideThePivot(Malformed):
    """A step could run at the same time as the pivot: whether it had to be undone, nobody could say."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step: its number, those that must be done before it begins, and whether it is the pivot."""

    number: int
    after: frozenset[int] = frozenset()
    pivot: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of a saga in the order of their numbers, and who comes before and behind whom, near or far."""

    steps: tuple[Step, ...]
    before: dict[int, frozenset[int]] = field(compare=False)
    behind: dict[int, frozenset[int]] = field(compare=False)
    pivot: int | None = field(compare=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All steps."""
        return tuple(step.number for step in self.steps)

    def past_the_pivot(self, number: int) -> bool:
        """Whether the step begins only when the saga can no longer turn."""
        return self.pivot is not None and self.pivot in self.before[number]

    def may_refuse(self, number: int) -> bool:
        """Whether a refusal of the step makes the saga turn: it is the pivot, or comes before it, or there is none."""
        return not self.past_the_pivot(number)


def graph(steps: Iterable[Step]) -> Graph:
    """The graph of these steps. Raises `Malformed`, and KeyError for a step that waits for one that is not there."""
    ordered = tuple(sorted(steps, key=lambda step: step.number))
    by_number = {step.number: step for step in ordered}
    sorter = TopologicalSorter({step.number: sorted(step.after) for step in ordered})
    try:
        order = tuple(sorter.static_order())
    except CycleError as error:
        # graphlib names the last step again at the front, and lists who is waited for before who waits.
        circle = tuple(reversed(error.args[1][1:]))
        raise Cycle("these steps wait for each other in a circle", *circle) from error
    before: dict[int, frozenset[int]] = {}
    for number in order:
        after = by_number[number].after
        before[number] = after.union(*(before[each] for each in after))
    behind = {number: frozenset(each for each in before if number in before[each]) for number in before}
    pivots = [step.number for step in ordered if step.pivot]
    if len(pivots) > 1:
        raise TwoPivots("these steps are all the pivot", *pivots)
    pivot = pivots[0] if pivots else None
    if pivot is not None:
        beside = [n for n in by_number if n != pivot and n not in before[pivot] and n not in behind[pivot]]
        if beside:
            raise BesideThePivot("this step is neither before the pivot nor after it", beside[0], pivot)
    return Graph(ordered, before, behind, pivot)


def line(count: int) -> Graph:
    """Steps that run one after the other."""
    return graph(Step(number, frozenset({number - 1} if number else ())) for number in range(count))
