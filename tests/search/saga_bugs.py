"""Planted bugs: the saga with one thing wrong. The search must find every one of them.

Lives here: each bug, and the smallest world in which it shows. Must not live here: the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from search.explore import Rules
from search.saga_moves import SagaMoves
from search.saga_world import OWNER, SHAPES, Column, Journal, World, start
from twophase.coordinator.protocol import effects as does
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.events import DeadlinePassed, Finished, SagaEvent


@dataclass(frozen=True, slots=True)
class SagaBug:
    """A wrong protocol, a world that shows it, and the rule it breaks there."""

    moves: SagaMoves
    world: World
    breaks: str


# --- the journal ------------------------------------------------------------------------------------------------------


class StartIsNotForced(SagaMoves):
    """Steps are sent before the disk has the start."""

    def forced(self, kind: str) -> bool:
        return kind == "turn"


class TurnIsNotForced(SagaMoves):
    """Compensations are sent before the disk has the turn. A ledger that keeps its rows would make it turn again."""

    def forced(self, kind: str) -> bool:
        return kind == "saga"


class FencedOwnerStarts(SagaMoves):
    """The journal lets a fenced owner start its saga."""

    def checked(self, journal: Journal, who: int) -> Journal:
        return journal._replace(fenced=journal.fenced and who != OWNER)


# --- forward ----------------------------------------------------------------------------------------------------------


class OrderIsNotKept(SagaMoves):
    """Every step is sent at once."""

    def drawn(self, phase: str) -> str:
        return "two at once"


class RetryIsTakenForRefusal(SagaMoves):
    """A step that was refused for this time only is taken to be refused for good."""

    def gave_up(self, place: int) -> SagaEvent:
        return Finished(place, Ending.REFUSED)


class DeadlineTurns(SagaMoves):
    """At the deadline it turns, and asks nobody how the steps ended."""

    def feed(self, world: World, who: int, event: SagaEvent) -> World:
        if isinstance(event, DeadlinePassed) and world.nodes[who].phase == "forward":
            node = world.nodes[who]._replace(phase="turning", proposal="turn")
            return world._replace(nodes=(*world.nodes[:who], node, *world.nodes[who + 1 :]))
        return super().feed(world, who, event)


class AbsentRowIsTakenForNotDone(SagaMoves):
    """The question how a step ended is answered from an absent row; no tombstone bars it."""

    def ending(self, column: Column) -> str:
        return column.work or ("tombstone" if "asked" in column.seats else "")


class ToldWhenTheLastIsSent(SagaMoves):
    """The client is told that it is done when the last step is under way."""

    def wanted(self, world: World, effects: tuple[does.SagaEffect, ...]) -> tuple[does.SagaEffect, ...]:
        last = len(world.columns) - 1
        early = any(isinstance(effect, does.SendStep) and effect.step == last for effect in effects)
        return (*effects, does.TellDecided(committed=True)) if early else effects


# --- the pivot --------------------------------------------------------------------------------------------------------


class RefusalPastThePivotTurns(SagaMoves):
    """Steps past the pivot are sent like all others, and their refusals count."""

    def drawn(self, phase: str) -> str:
        return "line of two"

    def wanted(self, world: World, effects: tuple[does.SagaEffect, ...]) -> tuple[does.SagaEffect, ...]:
        shape = SHAPES[self.shape]
        return tuple(e for e in effects if not (isinstance(e, does.SendAsk) and shape.past_the_pivot(e.step)))


class StepsPastThePivotAreAsked(SagaMoves):
    """At the deadline a step past the pivot is asked, too, and so barred."""

    def wanted(self, world: World, effects: tuple[does.SagaEffect, ...]) -> tuple[does.SagaEffect, ...]:
        late = (e.step for e in effects if isinstance(e, does.SendStep) and e.must_succeed)
        return (*effects, *(does.SendAsk(place) for place in late))


# --- turning, and backward --------------------------------------------------------------------------------------------


class CompensationDoesNotClaim(SagaMoves):
    """A compensation that finds no row says that there is nothing to undo, and leaves no tombstone."""

    def is_undone(self, column: Column) -> bool:
        return super().is_undone(column) or not column.work

    def at_participant(self, world: World, place: int, column: Column, request: str) -> Iterator[tuple[str, Column]]:
        if request != "undo" or column.work:
            yield from super().at_participant(world, place, column, request)


class UnknownStepsAreSkipped(SagaMoves):
    """Whoever takes up a saga that has turned undoes only what the journal knows to be done."""

    def known(self, column: Column, *, turned: bool) -> tuple[str, ...]:
        known = super().known(column, turned=turned)
        return tuple(word or "undone" for word in known) if turned else known


class OrderIsNotReversed(SagaMoves):
    """Compensations are sent all at once."""

    def drawn(self, phase: str) -> str:
        return "three at once" if phase in ("turning", "backward") else self.shape


class FailedCompensationIsDropped(SagaMoves):
    """A compensation that fails is given up, as if it were done."""

    def is_undone(self, column: Column) -> bool:
        return super().is_undone(column) or "undo" in column.sent


class CompensationsRowIsWrittenApart(SagaMoves):
    """What undoes a step commits, and its row follows in a transaction of its own, which a crash can prevent."""

    def at_participant(self, world: World, place: int, column: Column, request: str) -> Iterator[tuple[str, Column]]:
        for label, after in super().at_participant(world, place, column, request):
            yield label, after
            if after.undo != column.undo:
                yield f"{label}, and the participant dies before the row", after._replace(undo=column.undo)


class _NothingIsForgotten(SagaMoves):
    """Keeps the requests that can change nothing where the participants are right."""

    @property
    def rules(self) -> Rules[World]:
        return replace(super().rules, fold=lambda world: world)


class RefusedStepsAreUndone(_NothingIsForgotten):
    """A compensation runs whatever the row of the work says."""

    def at_participant(self, world: World, place: int, column: Column, request: str) -> Iterator[tuple[str, Column]]:
        if request == "undo" and column.work == "refused" and not column.undo:
            yield f"step {place} is undone", column._replace(undo="applied", undone=column.undone + 1)
        yield from super().at_participant(world, place, column, request)


class TombstonesAreOverlooked(_NothingIsForgotten):
    """The work does not look for a tombstone of its own key: it was never done, so it is done now."""

    def at_participant(self, world: World, place: int, column: Column, request: str) -> Iterator[tuple[str, Column]]:
        if request == "work" and column.work == "tombstone":
            yield f"step {place} is done", column._replace(work="applied", done=column.done + 1)
        yield from super().at_participant(world, place, column, request)


# --- taking up --------------------------------------------------------------------------------------------------------


class ResumesBackward(SagaMoves):
    """Whoever takes up a saga undoes it, though it has not turned."""

    def backward(self, journal: Journal) -> bool:
        return True


class NobodyLooksAgain(SagaMoves):
    """A coordinator looks for what others left at its start, and never again."""

    def looks_again(self) -> bool:
        return False


SAGA_BUGS = (
    SagaBug(StartIsNotForced("line of two"), start("line of two", recoverers=1, crashes=1), "R1"),
    SagaBug(
        TurnIsNotForced("line of two"), start("line of two", recoverers=1, crashes=1, failovers=1, calm=True), "R6"
    ),
    SagaBug(FencedOwnerStarts("one"), start("one", recoverers=2, crashes=1), "R6"),
    SagaBug(OrderIsNotKept("line of two"), start("line of two", recoverers=0), "order"),
    SagaBug(RetryIsTakenForRefusal("line of two"), start("line of two", recoverers=0), "R1"),
    SagaBug(DeadlineTurns("line of two"), start("line of two", recoverers=0), "R6"),
    SagaBug(AbsentRowIsTakenForNotDone("line of two"), start("line of two", recoverers=0), "R1"),
    SagaBug(ToldWhenTheLastIsSent("line of two"), start("line of two", recoverers=0), "R6"),
    SagaBug(RefusalPastThePivotTurns("pivot first"), start("pivot first", recoverers=0), "R1"),
    SagaBug(StepsPastThePivotAreAsked("pivot first"), start("pivot first", recoverers=0), "R6"),
    SagaBug(CompensationDoesNotClaim("two at once"), start("two at once", recoverers=0), "R1"),
    SagaBug(UnknownStepsAreSkipped("line of two"), start("line of two", recoverers=1, crashes=1), "R1"),
    SagaBug(OrderIsNotReversed("line of three"), start("line of three", recoverers=0), "order"),
    SagaBug(FailedCompensationIsDropped("line of two"), start("line of two", recoverers=0), "R1"),
    SagaBug(CompensationsRowIsWrittenApart("line of two"), start("line of two", recoverers=0), "R7"),
    SagaBug(RefusedStepsAreUndone("line of two"), start("line of two", recoverers=1, crashes=1), "R7"),
    SagaBug(TombstonesAreOverlooked("one"), start("one", recoverers=0), "R6"),
    SagaBug(ResumesBackward("line of two"), start("line of two", recoverers=1, crashes=1), "R4"),
    SagaBug(NobodyLooksAgain("line of two"), start("line of two", recoverers=1, crashes=1), "R9"),
)
