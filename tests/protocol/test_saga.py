"""The saga machine, one rule after the other."""

from __future__ import annotations

from itertools import islice, permutations

import pytest

from twophase.coordinator.protocol import saga
from twophase.coordinator.protocol.decisions import ABORT, SAGA, Ending
from twophase.coordinator.protocol.effects import (
    End,
    Propose,
    SagaEffect,
    SendAsk,
    SendCompensation,
    SendStep,
    TellDecided,
    TellUnreached,
    Turn,
)
from twophase.coordinator.protocol.events import (
    Compensated,
    DeadlinePassed,
    Finished,
    GaveUp,
    RollbackAsked,
    Ruled,
    SagaEvent,
    Turned,
    Unreached,
)
from twophase.coordinator.protocol.graph import Graph, Step, graph, line
from twophase.coordinator.protocol.saga import TABLE, Phase, Standing, State, begin, resume, step

ALONE = line(1)
LINE = line(3)
PIVOT = graph([Step(0), Step(1, frozenset({0}), pivot=True), Step(2, frozenset({1}))])
PIVOT_FIRST = graph([Step(0, pivot=True), Step(1, frozenset({0}))])
FORK = graph([Step(0), Step(1), Step(2, frozenset({0, 1}))])

START = Ruled(SAGA)
DONE = TellDecided(committed=True)
UNDONE = TellDecided(committed=False)


def applied(number: int) -> Finished:
    return Finished(number, Ending.APPLIED)


def refused(number: int) -> Finished:
    return Finished(number, Ending.REFUSED)


def barred(number: int) -> Finished:
    return Finished(number, Ending.ABORTED)


def send(*numbers: int, must_succeed: bool = False) -> tuple[SendStep, ...]:
    return tuple(SendStep(number, must_succeed=must_succeed) for number in numbers)


def ask(*numbers: int) -> tuple[SendAsk, ...]:
    return tuple(SendAsk(number) for number in numbers)


def undo(*numbers: int) -> tuple[SendCompensation, ...]:
    return tuple(SendCompensation(number) for number in numbers)


def run(shape: Graph, *events: SagaEvent) -> tuple[State, list[tuple[SagaEffect, ...]]]:
    return play(begin(shape), *events)


def play(start: tuple[State, tuple[SagaEffect, ...]], *events: SagaEvent) -> tuple[State, list[tuple[SagaEffect, ...]]]:
    state, effects = start
    trace = [effects]
    for event in events:
        state, effects = step(state, event)
        trace.append(effects)
    return state, trace


# --- forward ----------------------------------------------------------------------------------------------------------


def test_a_saga_without_failures_goes_step_by_step_to_its_end() -> None:
    state, trace = run(LINE, START, applied(0), applied(1), applied(2))
    assert trace == [(Propose(SAGA),), send(0), send(1), send(2), (DONE, End(committed=True))]
    assert (state.phase, state.open) == (Phase.COMPLETED, ())


def test_r4_nothing_is_sent_before_the_start_is_durable() -> None:
    state, trace = run(LINE, DeadlinePassed(), RollbackAsked())
    assert trace == [(Propose(SAGA),), (), ()]
    assert state.phase is Phase.STARTING


def test_steps_that_wait_for_nobody_run_side_by_side_and_the_next_waits_for_all_of_them() -> None:
    _, trace = run(FORK, START, applied(1), applied(0))
    assert trace[1:] == [send(0, 1), (), send(2)]


def test_steps_past_the_pivot_must_succeed_and_the_others_need_not() -> None:
    _, trace = run(PIVOT, START, applied(0), applied(1))
    assert trace[1:] == [send(0), send(1), (DONE, *send(2, must_succeed=True))]


def test_it_is_told_done_once_the_pivot_is_applied_and_only_once() -> None:
    _, trace = run(PIVOT, START, applied(0), applied(1), applied(1), applied(2))
    assert trace[3:] == [(DONE, *send(2, must_succeed=True)), (), (End(committed=True),)]


def test_r6_without_a_pivot_it_is_told_done_only_with_the_last_step() -> None:
    state, trace = run(LINE, START, applied(0), applied(1))
    assert DONE not in [effect for effects in trace for effect in effects]
    assert not state.certain


def test_r5_a_start_that_is_ruled_against_ends_it_and_sends_nothing() -> None:
    state, trace = run(LINE, Ruled(ABORT))
    assert trace[-1] == (UNDONE, End(committed=False))
    assert (state.phase, state.open) == (Phase.ABORTED, ())


def test_a_saga_without_steps_is_none() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        begin(graph([]))


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [DeadlinePassed(), RollbackAsked()])
def test_a_deadline_asks_every_step_that_may_refuse_and_turns_nothing(event: SagaEvent) -> None:
    state, trace = run(LINE, START, applied(0), event)
    assert trace[-1] == ask(1, 2)
    assert state.phase is Phase.FORWARD


def test_what_was_asked_and_is_applied_lets_the_saga_go_on_after_its_deadline() -> None:
    _, trace = run(PIVOT, START, applied(0), DeadlinePassed(), applied(1), applied(2))
    assert trace[3:] == [ask(1), (DONE, *send(2, must_succeed=True)), (End(committed=True),)]


def test_what_was_asked_and_is_barred_makes_it_turn() -> None:
    _, trace = run(LINE, START, DeadlinePassed(), applied(0), barred(1))
    assert trace[2:] == [ask(0, 1, 2), (), (Turn(),)]


def test_a_deadline_before_the_start_asks_as_soon_as_it_is_durable() -> None:
    _, trace = run(PIVOT, DeadlinePassed(), START)
    assert trace[-1] == ask(0, 1)


@pytest.mark.parametrize("event", [DeadlinePassed(), RollbackAsked(), GaveUp(2)])
def test_past_the_pivot_nothing_is_asked_any_more(event: SagaEvent) -> None:
    state, trace = run(PIVOT, START, applied(0), applied(1), event)
    assert trace[-1] == ()
    assert state.standing(2) is Standing.RUNNING


@pytest.mark.parametrize("event", [DeadlinePassed(), GaveUp(0)])
def test_nothing_is_asked_twice(event: SagaEvent) -> None:
    _, trace = run(LINE, START, DeadlinePassed(), event)
    assert trace[-1] == ()


def test_a_step_that_was_given_up_is_asked_and_the_others_run_on() -> None:
    state, trace = run(FORK, START, GaveUp(1))
    assert trace[-1] == ask(1)
    assert (state.standing(0), state.standing(1)) == (Standing.RUNNING, Standing.ASKED)


@pytest.mark.parametrize("number", [0, 2])
def test_only_a_step_under_way_can_be_given_up(number: int) -> None:
    state, trace = run(LINE, START, applied(0), GaveUp(number))
    assert trace[-1] == ()
    assert state.phase is Phase.FORWARD


# --- turning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.ABORTED, Ending.LOST])
def test_a_row_that_says_not_applied_makes_it_turn_and_nothing_is_told_before_that_is_durable(ending: Ending) -> None:
    state, trace = run(LINE, START, applied(0), Finished(1, ending))
    assert trace[-1] == (Turn(),)
    assert state.phase is Phase.TURNING


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.ABORTED, Ending.LOST])
def test_past_the_pivot_only_applied_is_an_answer(ending: Ending) -> None:
    state, trace = run(PIVOT, START, applied(0), applied(1), Finished(2, ending))
    assert trace[-1] == ()
    assert (state.phase, state.standing(2)) == (Phase.FORWARD, Standing.RUNNING)


def test_a_refusal_of_the_pivot_makes_it_turn() -> None:
    _, trace = run(PIVOT, START, applied(0), refused(1), Turned(), Compensated(2), Compensated(0))
    assert trace[3:] == [(Turn(),), (UNDONE, *undo(0, 2)), (), (End(committed=False),)]


def test_it_turns_once_whoever_refuses_too() -> None:
    _, trace = run(FORK, START, refused(0), refused(1), DeadlinePassed())
    assert trace[2:] == [(Turn(),), (), ()]


def test_a_deadline_after_the_turn_changes_nothing() -> None:
    _, trace = run(LINE, START, applied(0), refused(1), Turned(), DeadlinePassed(), RollbackAsked())
    assert trace[-2:] == [(), ()]


# --- backward ---------------------------------------------------------------------------------------------------------


def test_compensations_run_in_reverse_and_the_end_follows_the_last() -> None:
    _, trace = run(LINE, START, applied(0), applied(1), refused(2), Turned(), Compensated(1), Compensated(0))
    assert trace[4:] == [(Turn(),), (UNDONE, *undo(1)), undo(0), (End(committed=False),)]


def test_every_step_is_compensated_also_one_that_never_began() -> None:
    _, trace = run(LINE, START, refused(0), Turned())
    assert trace[-1] == (UNDONE, *undo(1, 2))


def test_a_refused_step_alone_needs_no_compensation() -> None:
    state, trace = run(ALONE, START, refused(0), Turned())
    assert trace[-2:] == [(Turn(),), (UNDONE, End(committed=False))]
    assert (state.phase, state.open) == (Phase.COMPENSATED, ())


def test_a_step_of_which_nothing_is_known_is_compensated_before_those_it_builds_on() -> None:
    state, trace = play(resume(LINE, turned=True), Compensated(2), Compensated(1), Compensated(0))
    assert trace == [(UNDONE, *undo(2)), undo(1), undo(0), (End(committed=False),)]
    assert state.phase is Phase.COMPENSATED


def test_what_runs_beside_a_refused_step_is_compensated_though_it_has_not_answered() -> None:
    state, trace = run(FORK, START, refused(0), Turned(), Compensated(1), Compensated(2))
    assert trace[3:] == [(UNDONE, *undo(1, 2)), (), (End(committed=False),)]
    assert state.phase is Phase.COMPENSATED


def test_side_by_side_they_are_undone_side_by_side() -> None:
    _, trace = run(FORK, START, applied(0), applied(1), refused(2), Turned())
    assert trace[-1] == (UNDONE, *undo(0, 1))


@pytest.mark.parametrize("order", list(permutations([0, 1])))
def test_the_end_waits_for_the_slowest(order: tuple[int, int]) -> None:
    first, last = order
    _, trace = run(FORK, START, applied(0), applied(1), refused(2), Turned(), Compensated(first), Compensated(last))
    assert trace[-2:] == [(), (End(committed=False),)]


def test_a_late_refusal_lets_those_be_undone_that_waited_for_it() -> None:
    """What is behind a refused step never began."""
    state, trace = play(resume(LINE, turned=True), refused(1), Compensated(0), Compensated(2))
    assert trace == [(UNDONE, *undo(2)), undo(0), (), (End(committed=False),)]
    assert state.standing(1) is Standing.REFUSED


def test_a_late_refusal_is_never_the_end_for_what_builds_on_it_is_still_under_way() -> None:
    both = resume(line(2), turned=True)
    _, trace = play(both, refused(0), Compensated(1))
    assert trace == [(UNDONE, *undo(1)), (), (End(committed=False),)]


def test_nothing_is_compensated_twice_and_not_before_the_turn_is_durable() -> None:
    state, trace = run(LINE, START, applied(0), refused(1), Compensated(0))
    assert trace[-1] == ()
    assert state.standing(0) is Standing.APPLIED
    _, trace = play((state, ()), Turned(), Turned(), Compensated(2), Compensated(2), Compensated(0), Compensated(0))
    assert trace[1:] == [(UNDONE, *undo(0, 2)), (), (), (), (End(committed=False),), ()]


# --- who is away ------------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_participant_that_is_away_to_hear_of_the_turn() -> None:
    _, trace = run(FORK, START, applied(0), applied(1), refused(2), Turned(), Unreached(1), Compensated(0))
    assert trace[-2:] == [(), (TellUnreached(),)]


def test_a_compensation_that_can_still_be_reached_is_waited_for() -> None:
    _, trace = run(
        LINE, START, applied(0), applied(1), refused(2), Turned(), Unreached(1), Compensated(1), Unreached(0)
    )
    assert trace[-3:] == [(TellUnreached(),), undo(0), (TellUnreached(),)]


def test_a_step_that_was_out_of_reach_says_nothing_about_its_compensation() -> None:
    state, trace = run(LINE, START, applied(0), Unreached(1), refused(1), Turned())
    assert TellUnreached() not in [effect for effects in trace for effect in effects]
    assert state.unreached == frozenset()


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_r8_it_resumes_forward_and_does_again_what_the_journal_does_not_know() -> None:
    _, trace = play(resume(LINE, {0: Ending.APPLIED}, turned=False), applied(1), applied(2))
    assert trace == [send(1), send(2), (DONE, End(committed=True))]
    assert resume(LINE, turned=False)[1] == send(0)


def test_r8_it_resumes_backward_only_if_the_turn_is_recorded() -> None:
    state, effects = resume(LINE, {0: Ending.APPLIED, 1: Ending.APPLIED}, turned=True, compensated=[2])
    assert effects == (UNDONE, *undo(1))
    assert state.phase is Phase.BACKWARD


def test_a_refusal_on_record_without_a_turn_records_the_turn_first() -> None:
    state, effects = resume(LINE, {0: Ending.APPLIED, 1: Ending.REFUSED}, turned=False)
    assert effects == (Turn(),)
    assert state.phase is Phase.TURNING


def test_what_was_compensated_without_a_turn_on_record_is_not_believed() -> None:
    state, effects = resume(LINE, turned=False, compensated=[2])
    assert (state.standing(2), effects) == (Standing.WAITING, send(0))


def test_a_pivot_on_record_is_told_at_once() -> None:
    _, effects = resume(PIVOT, {0: Ending.APPLIED, 1: Ending.APPLIED}, turned=False)
    assert effects == (DONE, *send(2, must_succeed=True))


@pytest.mark.parametrize("turned", [False, True])
def test_all_that_is_over_is_ended_at_once(turned: bool) -> None:  # noqa: FBT001 - a parameter of the test
    endings = dict.fromkeys(LINE.numbers, Ending.APPLIED)
    _, effects = resume(LINE, endings, turned=turned, compensated=LINE.numbers)
    assert effects == (TellDecided(committed=not turned), End(committed=not turned))


# --- order and repetition ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", [applied(9), GaveUp(9), Compensated(9), Unreached(9)], ids=lambda event: type(event).__name__
)
def test_a_step_that_is_not_the_saga_s_is_a_key_error(event: SagaEvent) -> None:
    state, _ = run(LINE, START)
    with pytest.raises(KeyError):
        step(state, event)


@pytest.mark.parametrize(
    "events",
    [
        [START, applied(0), applied(1), applied(2)],
        [START, applied(0), applied(1), refused(2), Turned(), Compensated(1), Compensated(0)],
    ],
)
def test_events_that_come_again_later_are_answered_with_nothing(events: list[SagaEvent]) -> None:
    for length in range(1, len(events) + 1):
        state, _ = run(LINE, *events[:length])
        for event in events[:length]:
            again, effects = step(state, event)
            assert (again, effects) == (state, ())


def test_after_the_end_nothing_happens_any_more() -> None:
    for end in (run(ALONE, START, applied(0)), run(ALONE, START, refused(0), Turned()), run(ALONE, Ruled(ABORT))):
        for event in events_of(end[0]):
            after, effects = step(end[0], event)
            assert (after.phase, after.open, effects) == (end[0].phase, (), ())


def test_every_row_of_the_table_is_taken() -> None:
    """A row that no event can reach would say something about the protocol that is not so."""
    states = [begin(shape)[0] for shape in (ALONE, PIVOT_FIRST, FORK)]
    states += [State(Phase.STARTING, ALONE, ((0, known),)) for known in (Standing.APPLIED, Standing.REFUSED)]
    seen = set(states)
    taken: set[int] = set()
    while states:
        state = states.pop()
        for event in events_of(state):
            noted = saga._note(state, event)
            rows = (row for row in TABLE if row.phase is state.phase and row.event is type(event) and row.guard(noted))
            taken.update(TABLE.index(row) for row in islice(rows, 1))
            after, _ = step(state, event)
            if after not in seen:
                seen.add(after)
                states.append(after)
    assert taken == set(range(len(TABLE)))


def events_of(state: State) -> list[SagaEvent]:
    """Whatever can happen to it."""
    events: list[SagaEvent] = [START, Ruled(ABORT), Turned(), DeadlinePassed(), RollbackAsked()]
    for number in state.graph.numbers:
        events += [applied(number), refused(number), GaveUp(number), Compensated(number), Unreached(number)]
    return events
