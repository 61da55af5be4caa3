"""Coordinators and journals that get sagas wrong, in one thing each.

Lives here: what is wrong with each. Must not live here: which setting shows it (`bugs`), participants that do
(`wrong_participants`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from twophase.coordinator.engine import messages
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.saga import SagaUnderway
from twophase.coordinator.engine.underway import Part
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal import memory_state
from twophase.coordinator.journal.events import Event, TransactionRecord, Turned
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.memory_state import State
from twophase.coordinator.journal.port import Proposal, Ruling
from twophase.coordinator.protocol import saga
from twophase.coordinator.protocol.decisions import SAGA, Ending
from twophase.coordinator.protocol.effects import SendCompensation, TellDecided
from twophase.coordinator.protocol.events import Compensated, Finished, GaveUp, SagaEvent
from twophase.coordinator.protocol.saga import Phase, Standing
from twophase.v1 import participant_pb2 as pb

# --- the journal ------------------------------------------------------------------------------------------------------


class _Hasty(MemoryJournal):
    """Answers before the disk has it, while `_in_haste`."""

    _in_haste = False

    async def _force(self) -> None:
        if not self._in_haste:
            await super()._force()


class TurnsBeforeTheSync(_Hasty):
    """A turn is answered before it is on disk."""

    async def turn(self, turned: Turned) -> None:
        self._in_haste = True
        try:
            await super().turn(turned)
        finally:
            self._in_haste = False


class StartsBeforeTheSync(_Hasty):
    """The start of a saga is answered before it is on disk."""

    async def decide(self, proposal: Proposal) -> Ruling:
        self._in_haste = proposal.decision == SAGA
        try:
            return await super().decide(proposal)
        finally:
            self._in_haste = False


def request_id_is_released_at_the_turn() -> AbstractContextManager[Any]:
    """A saga gives its request id back once it has turned, before it is undone. The net below it is cut, too: in one
    process a later attempt waits for the one before."""
    apply_event, tell = State._apply_event, SagaUnderway._tell

    def forgetful(self: State, event: Event) -> None:
        apply_event(self, event)
        if isinstance(event, Turned):
            self._release(facts.Ended(event.txid, committed=False))

    def hasty(self: SagaUnderway, *, committed: bool) -> None:
        tell(self, committed=committed)
        self._release(held=committed)

    stack = ExitStack()
    stack.enter_context(patch.object(memory_state.State, "_apply_event", forgetful))
    stack.enter_context(patch.object(SagaUnderway, "_tell", hasty))
    stack.enter_context(patch("twophase.coordinator.engine.engine.holds_its_id", _holds_its_id_until_it_turns))
    return stack


def _holds_its_id_until_it_turns(record: TransactionRecord) -> bool:
    return record.committed is True or (record.decision == SAGA and not record.turned)


# --- what follows from an event ---------------------------------------------------------------------------------------


def _with_actions(
    change: Callable[[tuple[Any, ...]], Iterable[Any]],
) -> AbstractContextManager[Any]:
    """The machine's table with other actions."""
    return patch.object(saga, "TABLE", tuple(replace(row, actions=tuple(change(row.actions))) for row in saga.TABLE))


def told_when_the_last_step_is_sent() -> AbstractContextManager[Any]:
    """The outcome is told once what makes it certain is on its way."""

    def tell(state: saga.State, _: SagaEvent) -> saga.Step:
        needed = state.graph.numbers if state.graph.pivot is None else (state.graph.pivot,)
        if state.told or any(state.standing(number) is Standing.WAITING for number in needed):
            return state, ()
        return replace(state, told=True), (TellDecided(committed=True),)

    def change(actions: tuple[Any, ...]) -> Iterable[Any]:
        return [each for each in actions if each is not saga._tell_done] + (
            [tell] if saga._tell_done in actions else []
        )

    stack = ExitStack()
    stack.enter_context(_with_actions(change))
    stack.enter_context(_told_once())
    return stack


def _told_once() -> AbstractContextManager[Any]:
    """What is told a second time, and otherwise, goes unheard."""
    tell = SagaUnderway._tell

    def quietly(self: SagaUnderway, *, committed: bool) -> None:
        if self.committed is None:
            tell(self, committed=committed)

    return patch.object(SagaUnderway, "_tell", quietly)


def compensations_in_any_order() -> AbstractContextManager[Any]:
    """Everything is undone at once."""

    def compensate(state: saga.State, _: SagaEvent) -> saga.Step:
        due = [number for number in state.open if state.standing(number) is not Standing.COMPENSATING]
        return saga._all_stand(state, due, Standing.COMPENSATING), tuple(SendCompensation(number) for number in due)

    return _with_actions(lambda actions: [compensate if each is saga._compensate else each for each in actions])


def resume_goes_back() -> AbstractContextManager[Any]:
    """A saga that is taken up after a crash is undone, whether it had turned or not."""
    resume = saga.resume

    def backward(graph: Any, endings: Any, *, turned: bool, compensated: Any) -> saga.Step:
        return resume(graph, endings, turned=True, compensated=compensated)

    return patch.object(saga, "resume", backward)


def resume_forgets_the_turn() -> AbstractContextManager[Any]:
    """A saga that is taken up after a crash goes forward, also if it had turned."""
    resume = saga.resume

    def forward(graph: Any, endings: Any, *, turned: bool, compensated: Any) -> saga.Step:
        return resume(graph, {}, turned=False)

    stack = ExitStack()
    stack.enter_context(patch.object(saga, "resume", forward))
    stack.enter_context(_told_once())
    return stack


def turns_at_the_deadline() -> AbstractContextManager[Any]:
    """At the deadline it turns, and nobody is asked whether the steps are applied."""
    time_is_up = SagaUnderway._time_is_up

    def hasty(self: SagaUnderway) -> None:
        if self.state.phase is Phase.FORWARD and not self.state.certain:
            self._state = replace(self.state, phase=Phase.TURNING)
            self._around.tasks.spawn(self._turn(), name="turn")
        else:
            time_is_up(self)

    return patch.object(SagaUnderway, "_time_is_up", hasty)


# --- carrying it out --------------------------------------------------------------------------------------------------


def unknown_steps_are_skipped() -> AbstractContextManager[Any]:
    """After the turn only those steps are undone of which the coordinator knows that they are done."""
    compensate, finish = SagaUnderway._compensate, SagaUnderway._finish
    known: set[tuple[Any, int]] = set()

    def noting(self: SagaUnderway, part: Part, ending: Ending) -> None:
        if ending is Ending.APPLIED:
            known.add((self.txid, part.number))
        finish(self, part, ending)

    async def forgetful(self: SagaUnderway, part: Part) -> None:
        if (self.txid, part.number) in known:
            await compensate(self, part)
        else:
            _take_for_undone(self, part)

    return patch.multiple(SagaUnderway, _compensate=forgetful, _finish=noting)


def _take_for_undone(running: SagaUnderway, part: Part) -> None:
    running._trying.pop(part.number, None)
    running._around.journal.append(facts.Compensated(running.txid, part.number, empty=True))
    running.feed(Compensated(part.number))


def dead_letters_are_dropped() -> AbstractContextManager[Any]:
    """What has failed too often is given up."""
    raise_alarm = SagaUnderway._dead_letter

    def hasty(self: SagaUnderway, part: Part, failures: int, reason: facts.Reason) -> None:
        raise_alarm(self, part, failures, reason)
        self._around.tasks.spawn(drop(self, part), name="drop")

    async def drop(self: SagaUnderway, part: Part) -> None:
        if part.number in self.state.open:
            self.take_for_done(part.number)

    return patch.object(SagaUnderway, "_dead_letter", hasty)


def retry_is_final() -> AbstractContextManager[Any]:
    """A refusal that left no row is taken for one that did."""
    ending_in = messages.ending_in

    def hasty(answer: Any) -> Ending | None:
        if isinstance(answer, pb.ApplyResponse) and answer.outcome == pb.APPLY_OUTCOME_RETRY:
            return Ending.REFUSED
        return ending_in(answer)

    return patch.object(messages, "ending_in", hasty)


def unanswered_is_refused() -> AbstractContextManager[Any]:
    """A step that is not answered is taken to have refused."""
    step, persist = SagaUnderway._step, SagaUnderway._until_answered

    async def once(self: SagaUnderway, part: Part, attempt: Callable[[], Awaitable[Any]], **named: Any) -> Any:
        try:
            return await attempt()
        except LinkLost:
            if self.state.phase is Phase.FORWARD and self.state.graph.may_refuse(part.number):
                return Ending.REFUSED
            return await persist(self, part, attempt, **named)

    async def hasty(self: SagaUnderway, part: Part, *, must_succeed: bool) -> None:
        with patch.object(self, "_until_answered", lambda *a, **k: once(self, *a, **k)):
            await step(self, part, must_succeed=must_succeed)

    return patch.object(SagaUnderway, "_step", hasty)


def a_given_up_step_is_refused() -> AbstractContextManager[Any]:
    """A step that has been tried often enough counts as refused, and nobody asks whether a lost copy of it is done."""
    feed = SagaUnderway.feed

    def hasty(self: SagaUnderway, event: SagaEvent) -> None:
        feed(self, Finished(event.step, Ending.REFUSED) if isinstance(event, GaveUp) else event)

    return patch.object(SagaUnderway, "feed", hasty)
