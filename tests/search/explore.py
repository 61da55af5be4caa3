"""The search: every world that can be reached, the shortest way to one that breaks a rule, and whether all end.

Lives here: breadth first search and the way back. Must not live here: the protocol.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

W = TypeVar("W", bound=Hashable)


class Violated(Exception):
    """A rule was broken by the very step that was taken. The message names the rule."""


@dataclass(frozen=True, slots=True)
class Rules(Generic[W]):
    """What must hold of a kind of worlds. `fold` gives the representative of all worlds from which the same can happen,
    `broken` the rule that a world breaks, `wrong_at_rest` the one that it breaks if it is at rest."""

    fold: Callable[[W], W]
    at_rest: Callable[[W], bool]
    broken: Callable[[W], str | None]
    wrong_at_rest: Callable[[W], str | None]


class Movable(Protocol[W]):
    """What can happen."""

    @property
    def rules(self) -> Rules[W]:
        """What must hold, whatever does."""

    def all(self, world: W) -> Iterator[tuple[str, bool, W]]:
        """Every successor of a world: what happened, whether that is a failure, and the world afterwards."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the search found. `depth` is the longest shortest way; `path` leads to the violation, if there is one."""

    worlds: int
    moves: int
    depth: int
    resting: int
    violation: str | None = None
    path: tuple[str, ...] = ()
    complete: bool = True


def search(
    start: W, moves: Movable[W], *, limit: int | None = None, at_rest: Callable[[W], object] | None = None
) -> Found:
    """Visits every world that can be reached from `start`, or about `limit` of them; `at_rest` gets those at rest."""
    return _Search(start, moves, limit, at_rest).run()


class _Search(Generic[W]):
    def __init__(self, start: W, moves: Movable[W], limit: int | None, on_rest: Callable[[W], object] | None) -> None:
        self._moves = moves
        self._rules = moves.rules
        self._limit = limit
        self._on_rest = on_rest
        first = self._rules.fold(start)
        self._number = {first: 0}
        self._frontier = [first]
        self._parents = array("l", [-1])
        self._edges_from, self._edges_to = array("l"), array("l")
        self._resting = bytearray([self._rules.at_rest(first)])
        self._count = 0
        self._depth = 0

    def run(self) -> Found:
        while self._frontier:
            following: list[W] = []
            for world in self._frontier:
                found = self._expand(world, following)
                if found is not None:
                    return found
                if self._limit is not None and len(self._number) > self._limit:
                    return self._found(None, None, complete=False)
            self._frontier = following
            self._depth += bool(following)
        return self._endings()

    def _expand(self, world: W, following: list[W]) -> Found | None:
        here, rules = self._number[world], self._rules
        try:
            for _, fault, reached in self._moves.all(world):
                self._count += 1
                after = rules.fold(reached)
                there = self._number.get(after)
                if there is None:
                    there = self._number[after] = len(self._number)
                    self._parents.append(here)
                    resting = rules.at_rest(after)
                    self._resting.append(resting)
                    following.append(after)
                    if resting and self._on_rest is not None:
                        self._on_rest(after)
                    violation = rules.broken(after) or (rules.wrong_at_rest(after) if resting else None)
                    if violation is not None:
                        return self._found(violation, there)
                if not fault:
                    self._edges_from.append(here)
                    self._edges_to.append(there)
        except Violated as error:
            return self._found(str(error), here)
        return None

    def _endings(self) -> Found:
        """Liveness: from everywhere a world at rest can be reached without another failure."""
        count = len(self._number)
        order = sorted(range(len(self._edges_to)), key=self._edges_to.__getitem__)
        first = array("l", [0]) * (count + 1)
        for to in self._edges_to:
            first[to + 1] += 1
        for index in range(count):
            first[index + 1] += first[index]
        ends = bytearray(self._resting)
        waiting = [index for index in range(count) if ends[index]]
        while waiting:
            to = waiting.pop()
            for at in range(first[to], first[to + 1]):
                source = self._edges_from[order[at]]
                if not ends[source]:
                    ends[source] = 1
                    waiting.append(source)
        stuck = ends.find(0)
        if stuck >= 0:
            return self._found("R9: nothing fails any more, and yet it never comes to rest", stuck)
        return self._found(None, None)

    def _found(self, violation: str | None, number: int | None, *, complete: bool = True) -> Found:
        path = () if number is None else self._path(number)
        return Found(
            len(self._number), self._count, self._depth, sum(self._resting), violation, path, complete=complete
        )

    def _path(self, number: int) -> tuple[str, ...]:
        """The steps from the start, found again: only the numbers were kept."""
        way = [number]
        while self._parents[way[-1]] >= 0:
            way.append(self._parents[way[-1]])
        way.reverse()
        wanted = set(way)
        by_number = {number: world for world, number in self._number.items() if number in wanted}
        steps = []
        for here, there in pairwise(way):
            for label, _, reached in self._moves.all(by_number[here]):
                if self._number.get(self._rules.fold(reached)) == there:
                    steps.append(label)
                    break
        try:
            for _ in self._moves.all(by_number[number]):
                pass
        except Violated:
            steps.append("and then the step that breaks it")
        return tuple(steps)
