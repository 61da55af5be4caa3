"""The searches there are: which worlds are gone through, in `make test` and in `make search`.

Lives here: the worlds, with what may go wrong in each. Must not live here: the search.

Two recoverers, or copies of messages, multiply the worlds; a sweep that reads all at one moment (`Moves.at_once`)
makes the large searches possible, and the small ones show that its separate readings lead nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.moves import Moves
from search.world import World, start


@dataclass(frozen=True, slots=True)
class Course:
    """One search: from where, and by which moves."""

    name: str
    world: World
    moves: Moves
    in_tests: bool = False


_APART = Moves()
_AT_ONCE = Moves(at_once=True)

COURSES = (
    Course("one writer", start(1, 0, recoverers=1, crashes=1, losses=1, copies=1), _APART, in_tests=True),
    Course("two readers", start(0, 2, recoverers=1, crashes=1, losses=1), _APART, in_tests=True),
    Course("a writer and a reader", start(1, 1, recoverers=1, crashes=1, losses=1, copies=1), _APART, in_tests=True),
    Course("two writers, no failure", start(2, 0, recoverers=0), _APART, in_tests=True),
    Course("two writers, a crash", start(2, 0, recoverers=1, crashes=1), _APART, in_tests=True),
    Course(
        "two writers, a crash and somebody's hand",
        start(2, 0, recoverers=1, crashes=1, losses=1, hands=1),
        _AT_ONCE,
        in_tests=True,
    ),
    Course("one writer and somebody's hand", start(1, 0, recoverers=1, crashes=1, losses=1, hands=1), _APART),
    Course(
        "one writer, two recoverers", start(1, 0, recoverers=2, crashes=2, losses=1, copies=1), _AT_ONCE, in_tests=True
    ),
    Course("a writer and a reader, two recoverers", start(1, 1, recoverers=2, crashes=2, losses=1, copies=1), _AT_ONCE),
    Course("three writers, a crash", start(3, 0, recoverers=1, crashes=1), _AT_ONCE, in_tests=True),
    Course("three writers, a crash and a loss", start(3, 0, recoverers=1, crashes=1, losses=1), _AT_ONCE),
    Course("a writer and two readers, a crash", start(1, 2, recoverers=1, crashes=1, losses=1, copies=1), _AT_ONCE),
    Course("two writers and a reader, a crash", start(2, 1, recoverers=1, crashes=1, losses=1), _AT_ONCE),
    Course("two writers in turn, a crash", start(2, 0, recoverers=1, crashes=1, in_turn=True), _APART, in_tests=True),
    Course(
        "a writer and two readers in turn",
        start(1, 2, recoverers=1, crashes=1, in_turn=True),
        _AT_ONCE,
        in_tests=True,
    ),
    Course(
        "two writers in turn, everything once",
        start(2, 0, recoverers=1, crashes=1, losses=1, copies=1, in_turn=True),
        _AT_ONCE,
    ),
    Course(
        "three writers in turn, a crash and a loss",
        start(3, 0, recoverers=1, crashes=1, losses=1, in_turn=True),
        _AT_ONCE,
    ),
    Course("two writers, messages lost and copied", start(2, 0, recoverers=1, crashes=1, losses=1, copies=1), _APART),
    Course("three writers, everything once", start(3, 0, recoverers=1, crashes=1, losses=1, copies=1), _AT_ONCE),
    Course("two writers, two recoverers", start(2, 0, recoverers=2, crashes=2, losses=1), _AT_ONCE),
    Course(
        "two writers, two recoverers, everything", start(2, 0, recoverers=2, crashes=2, losses=1, copies=1), _AT_ONCE
    ),
)
