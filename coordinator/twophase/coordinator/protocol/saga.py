"""The saga machine: a transaction whose steps commit each for itself, forward to the end or, once it has turned, back.

Everything that decides what a saga does next is in this file and in the shape of its steps (`graph`). Like the
two-phase machine it takes events and gives back the next state and the effects to carry out, without I/O or a clock.

How to use it:

    state, effects = begin(graph([Step(0), Step(1, after=frozenset({0}), pivot=True)]))
    ...carry the effects out, in their order; whatever happens then is an event...
    state, effects = step(state, Ruled(SAGA))

Rules for the caller:

- `Propose(SAGA)` goes to `Journal.decide` with the whole definition; what that returns comes back as `Ruled`. `Turn`
  goes to `Journal.turn`; once it is durable, `Turned` comes back. Nothing else of a saga is forced (R4).
- `SendStep`, `SendAsk` and `SendCompensation` are repeated until they are answered by a row of the participant's ledger
  (R7). A step's or an ask's answer comes back as `Finished`, a compensation's as `Compensated`. A refusal that left no
  row is no answer: the step is tried again, and if it may be tried no more, `GaveUp` comes back. Of a step that must
  succeed only `APPLIED` is an answer.
- Events may come late, twice, and in any order; one that changes nothing is answered with no effects.

Why it turns only on a row: a deadline, a person and a step that was given up all *ask*. The ledger answers whether the
step is applied, and if it is, the saga goes on: else it would be undone here and done there. After the turn every step
of the definition is compensated, whether it is known to have begun or not, and those behind it first. A compensation
claims the key of the work it undoes, so that work which comes late finds a tombstone.

The table at the end is the protocol: a row for each phase and event, the first whose guard holds is taken. The diagram
in docs/protocol.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

from twophase.coordinator.protocol.decisions import ABORT, SAGA, Decision, Ending
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
from twophase.coordinator.protocol.graph import Graph


class Phase(Enum):
    """Where the whole saga stands."""

    STARTING = "starting"
    FORWARD = "forward"
    TURNING = "turning"
    BACKWARD = "backward"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    ABORTED = "aborted"


class Standing(Enum):
    """Where one step stands, as far as the coordinator knows.

    WAITING: not sent, those before it are not done. RUNNING: sent, here or by an earlier coordinator. ASKED: asked how
    it ended. REFUSED and BARRED are rows in the ledger: it is not applied and never will be. COMPENSATED: it is undone,
    or proven to have nothing to undo.
    """

    WAITING = "waiting"
    RUNNING = "running"
    ASKED = "asked"
    APPLIED = "applied"
    REFUSED = "refused"
    BARRED = "barred"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"


_OPEN: Final = frozenset({Standing.WAITING, Standing.RUNNING, Standing.ASKED})
_NEVER: Final = frozenset({Standing.REFUSED, Standing.BARRED})
_SETTLED: Final = frozenset({Standing.REFUSED, Standing.BARRED, Standing.COMPENSATED})
_STANDING_AFTER: Final = MappingProxyType(
    {
        Ending.APPLIED: Standing.APPLIED,
        Ending.REFUSED: Standing.REFUSED,
        Ending.ABORTED: Standing.BARRED,
        Ending.LOST: Standing.BARRED,
    }
)


@dataclass(frozen=True, slots=True)
class State:
    """A saga. `standings` holds (step, standing) in the order of the steps, `unwanted` says that its time is up or its
    end was asked for, `told` that its outcome was told, `unreached` holds the steps whose compensation was not
    answered at the first attempt."""

    phase: Phase
    graph: Graph
    standings: tuple[tuple[int, Standing], ...]
    decision: Decision | None = None
    unwanted: bool = False
    told: bool = False
    unreached: frozenset[int] = frozenset()

    def standing(self, step: int) -> Standing:
        """Where `step` stands. Raises KeyError for a step that is not the saga's."""
        return dict(self.standings)[step]

    def steps(self, *standings: Standing) -> tuple[int, ...]:
        """The steps that stand at any of these."""
        return tuple(number for number, standing in self.standings if standing in standings)

    @property
    def open(self) -> tuple[int, ...]:
        """The steps that somebody must still hear from: to be done, or after the turn to be undone."""
        if self.phase in (Phase.COMPLETED, Phase.COMPENSATED, Phase.ABORTED):
            return ()
        settled = _SETTLED if self.phase in (Phase.TURNING, Phase.BACKWARD) else {Standing.APPLIED}
        return tuple(number for number, standing in self.standings if standing not in settled)

    @property
    def never(self) -> frozenset[int]:
        """The steps that are not applied and never will be: refused, barred, or behind such a one."""
        barred = [number for number, standing in self.standings if standing in _NEVER]
        return frozenset(barred).union(*(self.graph.behind[number] for number in barred))

    @property
    def certain(self) -> bool:
        """Whether it can no longer turn: the pivot is applied, or, without one, every step."""
        needed = self.graph.numbers if self.graph.pivot is None else (self.graph.pivot,)
        return all(self.standing(number) is Standing.APPLIED for number in needed)


Step: TypeAlias = tuple[State, tuple[SagaEffect, ...]]


# --- the ways to start, and the step ----------------------------------------------------------------------------------


def begin(graph: Graph) -> Step:
    """Starts a saga: its start is proposed, and nothing is sent before it is durable. Raises ValueError if there is no
    step."""
    if not graph.steps:
        raise ValueError("a saga has at least one step")
    standings = tuple((number, Standing.WAITING) for number in graph.numbers)
    return State(Phase.STARTING, graph, standings), (Propose(SAGA),)


def resume(
    graph: Graph,
    endings: Mapping[int, Ending] = MappingProxyType({}),
    *,
    turned: bool,
    compensated: Collection[int] = (),
) -> Step:
    """Takes up a saga that was started before, in this process or an earlier one (R8): forward, unless it has turned.

    `endings` and `compensated` are what the journal knows of the steps; what it does not know is done again, since a
    participant answers a repetition from its ledger.
    """
    unknown = Standing.RUNNING if turned else Standing.WAITING
    known = {number: _STANDING_AFTER[ending] for number, ending in endings.items()}
    known |= dict.fromkeys(compensated, Standing.COMPENSATED) if turned else {}
    standings = tuple((number, known.get(number, unknown)) for number in graph.numbers)
    if turned:
        return step(State(Phase.TURNING, graph, standings, SAGA), Turned())
    return step(State(Phase.STARTING, graph, standings), Ruled(SAGA))


def step(state: State, event: SagaEvent) -> Step:
    """The next state, and what to do, in this order. Raises KeyError for a step that is not the saga's."""
    after = _note(state, event)
    effects: tuple[SagaEffect, ...] = ()
    for row in TABLE:
        if row.phase is state.phase and row.event is type(event) and row.guard(after):
            after = replace(after, phase=row.to)
            for action in row.actions:
                after, more = action(after, event)
                effects += more
            break
    return after, effects


# --- what an event says, whatever the phase ---------------------------------------------------------------------------


def _note(state: State, event: SagaEvent) -> State:
    match event:
        case Ruled(decision) if state.phase is Phase.STARTING:
            return replace(state, decision=decision)
        case Finished(number, ending):
            if state.standing(number) not in _OPEN:
                return state
            if ending is not Ending.APPLIED and not state.graph.may_refuse(number):
                return state  # past the pivot nothing but its being done is an answer
            return _stand(state, number, _STANDING_AFTER[ending])
        case GaveUp(number):
            state.standing(number)
            return state
        case DeadlinePassed() | RollbackAsked():
            return replace(state, unwanted=True)
        case Compensated(number):
            if state.standing(number) in _SETTLED or state.phase is not Phase.BACKWARD:
                return state
            return _stand(state, number, Standing.COMPENSATED)
        case Unreached(number):
            state.standing(number)
            if state.phase is not Phase.BACKWARD:
                return state  # nobody is answered sooner because a step, or the question how it ended, is on its way
            return replace(state, unreached=state.unreached | {number})
        case Ruled() | Turned():
            return state


def _stand(state: State, number: int, standing: Standing) -> State:
    return replace(state, standings=tuple((n, standing if n == number else s) for n, s in state.standings))


# --- guards -----------------------------------------------------------------------------------------------------------


def always(state: State) -> bool:  # noqa: ARG001
    """always"""
    return True


def ruled_abort(state: State) -> bool:
    """abort"""
    return state.decision == ABORT


def unwanted(state: State) -> bool:
    """no longer wanted"""
    return state.unwanted


def refused(state: State) -> bool:
    """a refusal or a tombstone"""
    return bool(state.steps(*_NEVER))


def all_applied(state: State) -> bool:
    """the last one"""
    return not state.open


def nothing_to_undo(state: State) -> bool:
    """nothing left to undo"""
    return not state.open


def can_turn(state: State) -> bool:
    """it can still turn"""
    return not state.certain


# --- actions ----------------------------------------------------------------------------------------------------------


def _send_ready(state: State, _: SagaEvent) -> Step:
    """send the steps that are ready"""
    done = set(state.steps(Standing.APPLIED))
    waiting = set(state.steps(Standing.WAITING))
    ready = [each.number for each in state.graph.steps if each.number in waiting and each.after <= done]
    sends = tuple(SendStep(number, must_succeed=state.graph.past_the_pivot(number)) for number in ready)
    return _all_stand(state, ready, Standing.RUNNING), sends


def _ask_all(state: State, _: SagaEvent) -> Step:
    """ask every step that may refuse"""
    asked = [n for n in state.steps(Standing.WAITING, Standing.RUNNING) if state.graph.may_refuse(n)]
    return _all_stand(state, asked, Standing.ASKED), tuple(SendAsk(number) for number in asked)


def _ask_it(state: State, event: SagaEvent) -> Step:
    """ask it unless it must succeed"""
    given_up = {event.step} if isinstance(event, GaveUp) else set()
    asked = [n for n in state.steps(Standing.RUNNING) if n in given_up and state.graph.may_refuse(n)]
    return _all_stand(state, asked, Standing.ASKED), tuple(SendAsk(number) for number in asked)


def _turn(state: State, _: SagaEvent) -> Step:
    """record the turn"""
    return state, (Turn(),)


def _compensate(state: State, _: SagaEvent) -> Step:
    """send the compensations that are due"""
    never, behind = state.never, state.graph.behind
    over = never.union(state.steps(*_SETTLED))
    left = [n for n in state.open if state.standing(n) is not Standing.COMPENSATING]
    due = [number for number in left if number in never or behind[number] <= over]
    return _all_stand(state, due, Standing.COMPENSATING), tuple(SendCompensation(number) for number in due)


def _tell_done(state: State, _: SagaEvent) -> Step:
    """tell the outcome if it is certain"""
    if state.told or not state.certain:
        return state, ()
    return replace(state, told=True), (TellDecided(committed=True),)


def _tell_undone(state: State, _: SagaEvent) -> Step:
    """tell the outcome"""
    return replace(state, told=True), (TellDecided(committed=False),)


def _tell_unreached(state: State, _: SagaEvent) -> Step:
    """tell who is away if nobody else is under way"""
    away = state.unreached.issuperset(state.steps(Standing.COMPENSATING))
    return state, (TellUnreached(),) if away else ()


def _end(state: State, _: SagaEvent) -> Step:
    """end"""
    return state, (End(committed=state.phase is Phase.COMPLETED),)


def _all_stand(state: State, numbers: Collection[int], standing: Standing) -> State:
    return replace(state, standings=tuple((n, standing if n in numbers else s) for n, s in state.standings))


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """In `phase`, on `event`, if `guard` holds of the state with the event noted: go to `to` and do `actions`."""

    phase: Phase
    event: type[SagaEvent]
    guard: Callable[[State], bool]
    to: Phase
    actions: tuple[Callable[[State, SagaEvent], Step], ...]


TABLE: Final = (
    Row(Phase.STARTING, Ruled, ruled_abort, Phase.ABORTED, (_tell_undone, _end)),
    Row(Phase.STARTING, Ruled, refused, Phase.TURNING, (_turn,)),
    Row(Phase.STARTING, Ruled, all_applied, Phase.COMPLETED, (_tell_done, _end)),
    Row(Phase.STARTING, Ruled, unwanted, Phase.FORWARD, (_ask_all,)),
    Row(Phase.STARTING, Ruled, always, Phase.FORWARD, (_tell_done, _send_ready)),
    Row(Phase.FORWARD, Finished, refused, Phase.TURNING, (_turn,)),
    Row(Phase.FORWARD, Finished, all_applied, Phase.COMPLETED, (_tell_done, _end)),
    Row(Phase.FORWARD, Finished, always, Phase.FORWARD, (_tell_done, _send_ready)),
    Row(Phase.FORWARD, GaveUp, always, Phase.FORWARD, (_ask_it,)),
    Row(Phase.FORWARD, DeadlinePassed, can_turn, Phase.FORWARD, (_ask_all,)),
    Row(Phase.FORWARD, RollbackAsked, can_turn, Phase.FORWARD, (_ask_all,)),
    Row(Phase.TURNING, Turned, nothing_to_undo, Phase.COMPENSATED, (_tell_undone, _end)),
    Row(Phase.TURNING, Turned, always, Phase.BACKWARD, (_tell_undone, _compensate)),
    Row(Phase.BACKWARD, Compensated, nothing_to_undo, Phase.COMPENSATED, (_end,)),
    Row(Phase.BACKWARD, Compensated, always, Phase.BACKWARD, (_compensate, _tell_unreached)),
    Row(Phase.BACKWARD, Finished, always, Phase.BACKWARD, (_compensate, _tell_unreached)),
    Row(Phase.BACKWARD, Unreached, always, Phase.BACKWARD, (_tell_unreached,)),
)
