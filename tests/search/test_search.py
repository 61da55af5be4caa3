"""The protocol, every interleaving of it: the small worlds whole, and the bugs that must be found.

The large worlds are gone through by `make search`.
"""

from __future__ import annotations

import pytest

from search.bugs import BUGS, Bug
from search.courses import COURSES, Course
from search.explore import search
from search.moves import Moves
from search.world import Column, Seat, World, fold, start


@pytest.mark.parametrize("course", [course for course in COURSES if course.in_tests], ids=lambda course: course.name)
def test_no_interleaving_breaks_a_rule_and_everything_ends(course: Course) -> None:
    found = search(course.world, course.moves)
    assert found.violation is None, "\n".join((found.violation, *found.path))
    assert found.complete
    assert found.resting > 0


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug.moves).__name__)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = search(bug.world, bug.moves)
    assert found.violation is not None
    assert found.violation.startswith(bug.breaks)
    assert found.path


@pytest.mark.parametrize("limit", [20_000, pytest.param(60_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug.moves).__name__)
def test_the_world_of_a_planted_bug_is_sound_without_it(bug: Bug, limit: int) -> None:
    """Or the bug would not be what was found."""
    right = Moves(at_once=bug.moves.at_once)
    found = search(bug.world, right, limit=limit)
    assert found.violation is None, "\n".join((found.violation, *found.path))


def test_readings_apart_lead_to_the_same_ends_as_a_sweep_at_once() -> None:
    """What clients were told and databases hold at rest is the same, whichever way a sweep reads."""
    world = start(2, 0, recoverers=1, crashes=1)
    apart, at_once = (ends(world, Moves(at_once=way)) for way in (False, True))
    assert apart == at_once


def ends(world: World, moves: Moves) -> set[tuple[frozenset[str], tuple[str, ...]]]:
    reached: set[tuple[frozenset[str], tuple[str, ...]]] = set()
    search(
        world, moves, at_rest=lambda rest: reached.add((rest.told, tuple(sorted(column.db for column in rest.columns))))
    )
    return reached


def test_branches_of_one_role_are_interchangeable() -> None:
    world = start(2, 1, recoverers=1)
    one, other, reader = world.columns
    prepared = one._replace(db="prepared")
    left, right = (world._replace(columns=columns) for columns in ((prepared, other, reader), (one, prepared, reader)))
    assert fold(left) == fold(right)
    assert fold(left) != fold(world)


def test_recoverers_are_interchangeable() -> None:
    world = start(1, 0, recoverers=2)
    owner, idle, _ = world.nodes
    busy = idle._replace(status="up", phase="aborting")
    calling = Seat(standing="silent", call="abort")
    left = world._replace(nodes=(owner, busy, idle._replace(status="dead")), columns=(column(Seat(), calling, Seat()),))
    right = world._replace(
        nodes=(owner, idle._replace(status="dead"), busy), columns=(column(Seat(), Seat(), calling),)
    )
    assert fold(left) == fold(right)


def column(*seats: Seat) -> Column:
    return Column(writes=True, seats=seats)
