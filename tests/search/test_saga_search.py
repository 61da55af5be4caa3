"""The saga, every interleaving of it: the small worlds whole, and the bugs that must be found.

The large worlds are gone through by `make search`.
"""

from __future__ import annotations

import pytest

from search.explore import search
from search.saga_bugs import SAGA_BUGS, SagaBug, TurnIsNotForced
from search.saga_courses import SAGA_COURSES, SagaCourse
from search.saga_moves import SagaMoves
from search.saga_world import OWNER, Journal, World, folding, start


@pytest.mark.parametrize(
    "course", [course for course in SAGA_COURSES if course.in_tests], ids=lambda course: course.name
)
def test_no_interleaving_breaks_a_rule_and_everything_ends(course: SagaCourse) -> None:
    found = search(course.world, course.moves)
    assert found.violation is None, "\n".join((found.violation, *found.path))
    assert found.complete
    assert found.resting > 0


@pytest.mark.parametrize("bug", SAGA_BUGS, ids=lambda bug: type(bug.moves).__name__)
def test_a_planted_bug_is_found(bug: SagaBug) -> None:
    found = search(bug.world, bug.moves)
    assert found.violation is not None
    assert found.violation.startswith(bug.breaks)
    assert found.path


@pytest.mark.parametrize("bug", SAGA_BUGS, ids=lambda bug: type(bug.moves).__name__)
def test_the_world_of_a_planted_bug_is_sound_without_it(bug: SagaBug) -> None:
    """Or the bug would not be what was found."""
    found = search(bug.world, SagaMoves(bug.moves.shape))
    assert found.violation is None, "\n".join((found.violation, *found.path))


def test_a_turn_that_is_lost_is_made_again_while_every_ledger_keeps_its_rows() -> None:
    """Why the turn is forced all the same shows only where a row is lost."""
    world = start("line of two", recoverers=1, crashes=1, calm=True)
    assert search(world, TurnIsNotForced("line of two")).violation is None
    assert search(world._replace(failovers=1), TurnIsNotForced("line of two")).violation is not None


class _TurnIsNotFenced(SagaMoves):
    def checked(self, journal: Journal, who: int) -> Journal:
        return journal._replace(fenced=journal.fenced and not (who == OWNER and journal.decision == "saga"))


def test_a_fenced_owner_that_turns_breaks_nothing_while_every_ledger_keeps_its_rows() -> None:
    """The row that it turns on stands in everybody's way. The fence is checked all the same: rows can be lost."""
    world = start("line of two", recoverers=1, crashes=1)
    found = search(world, _TurnIsNotFenced("line of two"))
    assert found.violation is None
    assert found.worlds > search(world, SagaMoves("line of two")).worlds


@pytest.mark.parametrize("shape", ["one", "line of three", "pivot in the middle", "pivot last", "two, then one"])
def test_every_way_to_end_is_reached(shape: str) -> None:
    """Completed, compensated, and never started: the search sees all three."""
    ends: set[str] = set()

    def note(rest: World) -> None:
        if rest.journal.decision == "abort":
            ends.add("never started")
        elif rest.journal.ended:
            ends.add(rest.journal.ended)

    search(start(shape, recoverers=1), SagaMoves(shape), at_rest=note)
    assert ends == {"completed", "compensated", "never started"}


def test_steps_of_one_place_in_the_graph_are_interchangeable() -> None:
    shape = "two, then one"
    world = start(shape, recoverers=0)
    one, other, last = world.columns
    done = one._replace(work="applied", done=1)
    left, right = (world._replace(columns=columns) for columns in ((done, other, last), (one, done, last)))
    behind = world._replace(columns=(one, other, done))
    fold = folding(shape)
    assert fold(left) == fold(right)
    assert fold(left) != fold(behind)
    assert folding("line of three")(left) != folding("line of three")(right)


def test_recoverers_are_interchangeable() -> None:
    world = start("one", recoverers=2)._replace(journal=Journal(fenced=True))
    owner, idle, _ = world.nodes
    busy = idle._replace(status="up", phase="forward")
    gone = idle._replace(status="dead")
    column = world.columns[0]
    left = world._replace(nodes=(owner, busy, gone), columns=(column._replace(seats=("", "running", "")),))
    right = world._replace(nodes=(owner, gone, busy), columns=(column._replace(seats=("", "", "running")),))
    assert folding("one")(left) == folding("one")(right)
