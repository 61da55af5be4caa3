"""The searches of the saga there are: which worlds are gone through, in `make test` and in `make search`.

Lives here: the worlds, with what may go wrong in each. Must not live here: the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.saga_moves import SagaMoves
from search.saga_world import World, start


@dataclass(frozen=True, slots=True)
class SagaCourse:
    """One search: from where, and by which moves."""

    name: str
    world: World
    moves: SagaMoves
    in_tests: bool = False


def _course(shape: str, recoverers: int, *, in_tests: bool = False) -> SagaCourse:
    """Every coordinator but one may crash, and somebody may take a compensation for done."""
    name = f"saga: {shape}, {'a recoverer' if recoverers == 1 else 'two recoverers'}"
    return SagaCourse(
        name, start(shape, recoverers=recoverers, crashes=recoverers, hands=1), SagaMoves(shape), in_tests
    )


SAGA_COURSES = (
    _course("one", 2, in_tests=True),
    _course("line of two", 2, in_tests=True),
    _course("pivot first", 2, in_tests=True),
    _course("pivot last", 2),
    _course("two at once", 2),
    _course("line of three", 1, in_tests=True),
    _course("pivot in the middle", 1, in_tests=True),
    _course("two, then one", 1, in_tests=True),
    _course("one, then two", 1),
    _course("three at once", 1),
    _course("pivot in the middle", 2),
    _course("two, then the pivot", 2),
    _course("two, then one", 2),
    _course("one, then two", 2),
    _course("line of three", 2),
    SagaCourse(
        "saga: line of two, a lost row, all calm",
        start("line of two", recoverers=2, crashes=2, failovers=1, calm=True),
        SagaMoves("line of two"),
        in_tests=True,
    ),
)
