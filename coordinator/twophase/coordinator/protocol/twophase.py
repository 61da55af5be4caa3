"""The two-phase machine: one transaction, from its first message to the last acknowledgement.

Everything that decides what a transaction does next is in this file, and nothing else is. It takes an event (a vote, a
lost answer, a deadline, the journal's ruling) and gives back the next state and the effects to carry out. It does no
I/O and reads no clock, so the same machine runs in the service, in the simulation and in the search.

How to use it:

    state, effects = begin([Branch(0), Branch(1), Branch(2, read_only=True)])
    ...carry the effects out, in their order; whatever happens then is an event...
    state, effects = step(state, Voted(0, Vote.YES))

Rules for the caller:

- `Propose` goes to `Journal.decide`; what that returns comes back as `Ruled`. Nobody is told anything before (R4, R5).
- `SendCommit`, `SendAbort` and `SendSettle` are repeated until they are answered; the answer comes back as `Finished`,
  and the first attempt that stays unanswered as `Unreached`. `SendPrepare` and `SendApply` are sent once; a lost answer
  comes back as `Voted(branch, Vote.LOST)` or `ApplyLost`.
- Events may come late, twice, and in any order; one that changes nothing is answered with no effects.

The table at the end is the protocol: a row for each phase and event, the first whose guard holds is taken. The diagram
in docs/protocol.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

from twophase.coordinator.protocol.decisions import (
    ABORT,
    COMMIT,
    Decision,
    DecisionKind,
    Ending,
    Vote,
    contradicts,
    delegated,
)
from twophase.coordinator.protocol.effects import (
    Alarm,
    Effect,
    End,
    Propose,
    SendAbort,
    SendApply,
    SendCommit,
    SendPrepare,
    SendSettle,
    TellDecided,
    TellUnreached,
)
from twophase.coordinator.protocol.events import (
    ApplyLost,
    DeadlinePassed,
    Event,
    Finished,
    RollbackAsked,
    Ruled,
    Unreached,
    Voted,
)


class Phase(Enum):
    """Where the whole transaction stands."""

    VOTING = "voting"
    DECIDING = "deciding"
    COMMITTING = "committing"
    DELEGATED = "delegated"
    ABORTING = "aborting"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Standing(Enum):
    """Where one branch stands, as far as the coordinator knows.

    HELD_BACK is the one writer before the decision is delegated to it: nothing was sent to it. READING is a branch at
    work that is declared read-only. SILENT is a branch whose vote was lost or does not count: it may be prepared,
    running or gone. REFUSED is over and left nothing.
    """

    HELD_BACK = "held back"
    WORKING = "working"
    READING = "reading"
    PREPARED = "prepared"
    READ_ONLY = "read-only"
    REFUSED = "refused"
    SILENT = "silent"
    APPLIED = "applied"
    ABORTED = "aborted"
    HEURISTIC = "heuristic"

    __hash__ = object.__hash__  # each is one object; Enum's own hash is a call


_OVER: Final = frozenset(
    {Standing.READ_ONLY, Standing.REFUSED, Standing.APPLIED, Standing.ABORTED, Standing.HEURISTIC, Standing.HELD_BACK}
)
_AGREED: Final = frozenset({Standing.PREPARED, Standing.READ_ONLY, Standing.HELD_BACK})


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch to begin with: its number, and whether every operation of it is declared read-only (R12)."""

    number: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """A transaction. `standings` holds (branch number, standing) in the order of the branches, `decision` the journal's
    ruling, `unreached` the branches whose acknowledgement did not come at the first attempt, `queue` those whose turn
    to prepare has not come: they have no standing, and nothing was sent to them."""

    phase: Phase
    standings: tuple[tuple[int, Standing], ...]
    decision: Decision | None = None
    unreached: frozenset[int] = frozenset()
    queue: tuple[Branch, ...] = ()

    def standing(self, branch: int) -> Standing:
        """Where `branch` stands. Raises KeyError for a branch that is not the transaction's, or not yet asked."""
        return dict(self.standings)[branch]

    def branches(self, *standings: Standing) -> tuple[int, ...]:
        """The branches that stand at any of these."""
        return tuple([number for number, standing in self.standings if standing in standings])

    @property
    def open(self) -> tuple[int, ...]:
        """The branches that are not over: someone must still hear from them."""
        return tuple([number for number, standing in self.standings if standing not in _OVER])

    @property
    def heuristic(self) -> tuple[int, ...]:
        """The branches that ended against the decision (R11)."""
        return self.branches(Standing.HEURISTIC)


Step: TypeAlias = tuple[State, tuple[Effect, ...]]


# --- the ways to start, and the step ----------------------------------------------------------------------------------


def begin(branches: Iterable[Branch], *, in_turn: bool = False) -> Step:
    """Starts a transaction.

    All branches are asked to prepare at once, or `in_turn`: each when those before it have agreed. A single writer is
    held back until the others have voted read-only, then the decision is delegated to it (R12). Raises ValueError if
    there is no branch.
    """
    plan = tuple(branches)
    if not plan:
        raise ValueError("a transaction has at least one branch")
    writers = [branch for branch in plan if not branch.read_only]
    held_back = writers if len(writers) == 1 else []
    standings = tuple([(branch.number, Standing.HELD_BACK) for branch in held_back])
    asked = tuple([branch for branch in plan if branch not in held_back])
    if not asked:
        return _propose_agreement(State(Phase.DECIDING, standings))
    state = State(Phase.VOTING, standings, queue=asked)
    return _send_next(state) if in_turn else _send_prepares(state)


def refuse() -> Step:
    """Starts a transaction that is to end by abort before any branch is told of it: only its record stays."""
    return State(Phase.DECIDING, ()), (Propose(ABORT),)


def resume(decision: Decision, branches: Iterable[int], endings: Mapping[int, Ending] = MappingProxyType({})) -> Step:
    """Takes up a transaction that was decided before, in this process or an earlier one (R8).

    `branches` are those that must hear of the decision; the ones without a known ending are finished again, since a
    participant answers a repetition from its ledger. Alarms that were raised before are not raised again.
    """
    ended = {number: _standing_after(decision, ending) for number, ending in endings.items()}
    standings = tuple((number, ended.get(number, Standing.SILENT)) for number in branches)
    state, effects = step(State(Phase.DECIDING, standings), Ruled(decision))
    if state.phase is not Phase.DELEGATED:
        return state, effects
    branch = decision.branch
    assert branch is not None, "a delegation names its branch"  # noqa: S101
    known = endings.get(branch)
    return step(state, ApplyLost(branch) if known is None else Finished(branch, known))


def step(state: State, event: Event) -> Step:
    """The next state, and what to do, in this order. Raises KeyError for a branch that is not the transaction's."""
    noted, alarms = _note(state, event)
    phase, kind = state.phase, type(event)
    for row in TABLE:
        if row.event is kind and row.phase is phase and row.guard(noted):
            after = State(row.to, noted.standings, noted.decision, noted.unreached, noted.queue)
            effects: list[Effect] = [*alarms]
            for action in row.actions:
                after, more = action(after)
                effects += more
            return after, tuple(effects)
    return noted, alarms


# --- what an event says, whatever the phase ---------------------------------------------------------------------------


def _note(state: State, event: Event) -> tuple[State, tuple[Alarm, ...]]:
    match event:
        case Voted(branch, vote):
            standing = state.standing(branch)
            if standing not in _AT_WORK or state.phase is Phase.DELEGATED:
                return state, ()
            return _stand(state, branch, _VOTES.get((standing, vote), Standing.SILENT)), ()
        case Ruled(decision) if state.phase is Phase.DECIDING:
            ruled = replace(state, decision=decision)
            if decision.branch is not None and state.standing(decision.branch) in _UNTOLD:
                return _stand(ruled, decision.branch, Standing.WORKING), ()
            return ruled, ()
        case Finished(branch, ending):
            if state.standing(branch) in _OVER or state.decision is None:
                return state, ()
            after = _standing_after(state.decision, ending)
            alarms = (Alarm(branch, ending),) if after is Standing.HEURISTIC else ()
            return _stand(state, branch, after), alarms
        case Unreached(branch):
            state.standing(branch)
            return replace(state, unreached=state.unreached | {branch}), ()
        case Ruled() | DeadlinePassed() | RollbackAsked() | ApplyLost():
            return state, ()


_AT_WORK: Final = frozenset({Standing.WORKING, Standing.READING})
_VOTES: Final = MappingProxyType(
    {
        (Standing.WORKING, Vote.YES): Standing.PREPARED,
        (Standing.WORKING, Vote.NO): Standing.REFUSED,
        (Standing.READING, Vote.READ_ONLY): Standing.READ_ONLY,
        (Standing.READING, Vote.NO): Standing.REFUSED,
    }
)  # no other vote counts: read-only is for what is declared so (R12), and what is declared so prepares nothing
_UNTOLD: Final = frozenset({Standing.HELD_BACK, Standing.SILENT})


def _standing_after(decision: Decision, ending: Ending) -> Standing:
    """What an ending means under a decision: as it should be, or a heuristic (R11)."""
    if contradicts(decision, ending):
        return Standing.HEURISTIC
    return Standing.APPLIED if ending is Ending.APPLIED else Standing.ABORTED


def _stand(state: State, branch: int, standing: Standing) -> State:
    standings = tuple([(n, standing if n == branch else s) for n, s in state.standings])
    return State(state.phase, standings, state.decision, state.unreached, state.queue)


# --- guards -----------------------------------------------------------------------------------------------------------


def always(state: State) -> bool:  # noqa: ARG001
    """always"""
    return True


def no_or_lost(state: State) -> bool:
    """a no or a lost vote"""
    return bool(state.branches(Standing.REFUSED, Standing.SILENT))


def all_agreed(state: State) -> bool:
    """all yes or read-only"""
    return all(standing in _AGREED for _, standing in state.standings)


def next_has_its_turn(state: State) -> bool:
    """all yes or read-only so far, another is in the queue"""
    return bool(state.queue) and all_agreed(state)


def ruled_commit(state: State) -> bool:
    """commit"""
    return state.decision == COMMIT and bool(state.open)


def ruled_commit_of_nothing(state: State) -> bool:
    """commit, all read-only"""
    return state.decision == COMMIT and not state.open


def ruled_delegated(state: State) -> bool:
    """delegated"""
    return state.decision is not None and state.decision.kind is DecisionKind.DELEGATED


def ruled_abort(state: State) -> bool:
    """abort"""
    return state.decision == ABORT and bool(state.open)


def ruled_abort_of_nothing(state: State) -> bool:
    """abort, nothing left anywhere"""
    return state.decision == ABORT and not state.open


def none_open(state: State) -> bool:
    """the last one"""
    return not state.open


def delegate_applied(state: State) -> bool:
    """applied"""
    return not state.open and bool(state.branches(Standing.APPLIED))


def delegate_not_applied(state: State) -> bool:
    """refused or barred"""
    return not state.open and not state.branches(Standing.APPLIED)


def rest_unreached(state: State) -> bool:
    """the rest is out of reach"""
    return state.unreached.issuperset(state.open)


# --- actions ----------------------------------------------------------------------------------------------------------


def _send_prepares(state: State) -> Step:
    """send prepares"""
    return _call(state, len(state.queue))


def _send_next(state: State) -> Step:
    """send the next prepare"""
    return _call(state, 1)


def _call(state: State, count: int) -> Step:
    """The turn of the first `count` in the queue has come."""
    called, queue = state.queue[:count], state.queue[count:]
    begun = tuple([(each.number, Standing.READING if each.read_only else Standing.WORKING) for each in called])
    after = State(state.phase, state.standings + begun, state.decision, state.unreached, queue)
    return after, tuple([SendPrepare(each.number) for each in called])


def _propose_agreement(state: State) -> Step:
    """propose commit, or delegate"""
    held_back = state.branches(Standing.HELD_BACK)
    return state, (Propose(delegated(held_back[0]) if held_back else COMMIT),)


def _propose_abort(state: State) -> Step:
    """propose abort"""
    return state, (Propose(ABORT),)


def _send_commits(state: State) -> Step:
    """send commits"""
    return state, tuple([SendCommit(branch) for branch in state.open])


def _send_aborts(state: State) -> Step:
    """send aborts"""
    return state, tuple([SendAbort(branch) for branch in state.open])


def _send_apply(state: State) -> Step:
    """send apply"""
    return state, tuple([SendApply(branch) for branch in state.open])


def _send_settle(state: State) -> Step:
    """send settle"""
    return state, tuple([SendSettle(branch) for branch in state.open])


def _tell_decided(state: State) -> Step:
    """tell the outcome"""
    return state, (TellDecided(committed=state.phase in (Phase.COMMITTING, Phase.COMMITTED)),)


def _tell_unreached(state: State) -> Step:
    """tell who is away"""
    return state, (TellUnreached(),)


def _end(state: State) -> Step:
    """end"""
    return state, (End(committed=state.phase is Phase.COMMITTED),)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """In `phase`, on `event`, if `guard` holds of the state with the event noted: go to `to` and do `actions`."""

    phase: Phase
    event: type[Event]
    guard: Callable[[State], bool]
    to: Phase
    actions: tuple[Callable[[State], Step], ...]


TABLE: Final = (
    Row(Phase.VOTING, Voted, no_or_lost, Phase.DECIDING, (_propose_abort,)),
    Row(Phase.VOTING, Voted, next_has_its_turn, Phase.VOTING, (_send_next,)),
    Row(Phase.VOTING, Voted, all_agreed, Phase.DECIDING, (_propose_agreement,)),
    Row(Phase.VOTING, DeadlinePassed, always, Phase.DECIDING, (_propose_abort,)),
    Row(Phase.VOTING, RollbackAsked, always, Phase.DECIDING, (_propose_abort,)),
    Row(Phase.DECIDING, Ruled, ruled_commit, Phase.COMMITTING, (_tell_decided, _send_commits)),
    Row(Phase.DECIDING, Ruled, ruled_commit_of_nothing, Phase.COMMITTED, (_tell_decided, _end)),
    Row(Phase.DECIDING, Ruled, ruled_delegated, Phase.DELEGATED, (_send_apply,)),
    Row(Phase.DECIDING, Ruled, ruled_abort, Phase.ABORTING, (_tell_decided, _send_aborts)),
    Row(Phase.DECIDING, Ruled, ruled_abort_of_nothing, Phase.ABORTED, (_tell_decided, _end)),
    Row(Phase.COMMITTING, Finished, none_open, Phase.COMMITTED, (_end,)),
    Row(Phase.DELEGATED, ApplyLost, always, Phase.DELEGATED, (_send_settle,)),
    Row(Phase.DELEGATED, Finished, delegate_applied, Phase.COMMITTED, (_tell_decided, _end)),
    Row(Phase.DELEGATED, Finished, delegate_not_applied, Phase.ABORTED, (_tell_decided, _end)),
    Row(Phase.ABORTING, Finished, none_open, Phase.ABORTED, (_end,)),
    Row(Phase.ABORTING, Finished, rest_unreached, Phase.ABORTING, (_tell_unreached,)),
    Row(Phase.ABORTING, Voted, none_open, Phase.ABORTED, (_end,)),
    Row(Phase.ABORTING, Unreached, rest_unreached, Phase.ABORTING, (_tell_unreached,)),
)
