"""The phrases of sagas: their beginning, steps that are given up, compensations that fail, people who know better.

Lives here: those phrases. Must not live here: what every protocol has (`told`), what a phrase leads to (`saga_run`).
"""

from __future__ import annotations

import re

from transcripts.board import Arrow
from transcripts.language import Book, Impossible
from transcripts.saga_run import SagaRun
from transcripts.stage import Stage
from transcripts.told import is_let_in, new_transaction
from twophase.coordinator.journal.events import Definition, SagaStep
from twophase.coordinator.protocol.events import GaveUp

BOOK: Book[Stage] = Book()

_STEP = re.compile(r"(?P<place>\w+)(?: after (?P<after>\w+(?: and \w+)*))?(?P<pivot> as pivot)?")


@BOOK.phrase("{client} begins a saga[ {tx}][ for {request}]: {plan...}")
def begins_a_saga(stage: Stage, client: str, tx: str | None, request: str | None, plan: str) -> None:
    """A client begins a saga, one step a participant: `stock, money after stock as pivot, mail after money`. Away
    participants end it before it begins."""
    definition = _definition(plan)
    at = stage.coordinator(None)
    of = new_transaction(stage, at, client, tx, request, tuple(step.participant for step in definition.steps))
    stage.board.draw(client, Arrow.SENT, at.name, of.titled("saga" + (f" for {request}" if request else "")))
    if not is_let_in(stage, at, of):
        return
    if all(stage.participant(place).up for place in of.places):
        SagaRun.begin(at, of, definition)
    else:
        SagaRun.refuse(at, of, definition)


@BOOK.phrase("{who} gives {place} up[ in {tx}]")
def gives_up(stage: Stage, who: str, place: str, tx: str | None) -> None:
    """The step was refused as often as it may be tried."""
    run, number = _step_of(stage, who, place, tx)
    run.feed(GaveUp(number))


@BOOK.phrase("{place} fails to undo[ {tx}]")
def fails_to_undo(stage: Stage, place: str, tx: str | None) -> None:
    """The compensation arrives, claims the key of the work, and cannot be done now."""
    request = stage.wire.request(place, "undo", tx=tx, sender=None)
    stage.wire.requests.remove(request)
    there = stage.participant(place)
    stage.say(there, request, there.undo(request.of, succeeds=False))
    stage.hear(stage.wire.answer(place, tx=tx, sender=None))


@BOOK.phrase("somebody tells {who} that {place} is done[ in {tx}]")
def somebody_tells(stage: Stage, who: str, place: str, tx: str | None) -> None:
    """A person takes a dead letter for done."""
    run, number = _step_of(stage, who, place, tx)
    run.take_for_done(number)


def _step_of(stage: Stage, who: str, place: str, tx: str | None) -> tuple[SagaRun, int]:
    of = stage.transaction(tx)
    run = stage.coordinator(who).runs.get(of.txid)
    if not isinstance(run, SagaRun):
        raise Impossible(f"{who} has no saga under way")
    return run, of.branch_at(place)


def _definition(plan: str) -> Definition:
    found = [_STEP.fullmatch(part) for part in plan.split(", ")]
    steps = [match.groupdict() for match in found if match is not None]
    places = [step["place"] for step in steps]
    if len(steps) < len(found) or len(set(places)) < len(places):
        raise Impossible("a saga is told as `stock, money after stock as pivot, mail after stock and money`")
    return Definition(
        tuple(
            SagaStep(
                name=step["place"],
                participant=step["place"],
                operation="do",
                payload=b"",
                after=tuple(places.index(each) for each in (step["after"] or "").split(" and ") if each),
                pivot=step["pivot"] is not None,
            )
            for step in steps
        ),
        deadline=0,
    )
