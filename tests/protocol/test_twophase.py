"""The two-phase machine, one rule after the other, and every interleaving of small transactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, DecisionKind, Ending, Vote, delegated
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
from twophase.coordinator.protocol.twophase import Branch, Phase, Standing, State, begin, resume, step

TWO_WRITERS = (Branch(0), Branch(1))
ONE_WRITER = (Branch(0, read_only=True), Branch(1), Branch(2, read_only=True))
READERS = (Branch(0, read_only=True), Branch(1, read_only=True))


def run(branches: tuple[Branch, ...], *events: Event) -> tuple[State, list[tuple[Effect, ...]]]:
    state, effects = begin(branches)
    trace = [effects]
    for event in events:
        state, effects = step(state, event)
        trace.append(effects)
    return state, trace


def test_two_writers_cost_two_rounds() -> None:
    state, trace = run(
        TWO_WRITERS,
        Voted(0, Vote.YES),
        Voted(1, Vote.YES),
        Ruled(COMMIT),
        Finished(0, Ending.APPLIED),
        Finished(1, Ending.APPLIED),
    )
    assert trace == [
        (SendPrepare(0), SendPrepare(1)),
        (),
        (Propose(COMMIT),),
        (TellDecided(committed=True), SendCommit(0), SendCommit(1)),
        (),
        (End(committed=True),),
    ]
    assert state.phase is Phase.COMMITTED


def test_r3_a_missing_vote_holds_the_commit_back() -> None:
    state, trace = run((Branch(0), Branch(1), Branch(2)), Voted(0, Vote.YES), Voted(2, Vote.YES))
    assert trace[1:] == [(), ()]
    assert state.phase is Phase.VOTING


@pytest.mark.parametrize("vote", [Vote.NO, Vote.LOST])
def test_r3_one_no_or_lost_vote_aborts(vote: Vote) -> None:
    _, trace = run(TWO_WRITERS, Voted(0, Vote.YES), Voted(1, vote))
    assert trace[-1] == (Propose(ABORT),)


@pytest.mark.parametrize("event", [DeadlinePassed(), RollbackAsked()])
def test_a_transaction_without_all_votes_aborts_when_asked_or_late(event: Event) -> None:
    _, trace = run(TWO_WRITERS, Voted(0, Vote.YES), event)
    assert trace[-1] == (Propose(ABORT),)


@pytest.mark.parametrize("event", [DeadlinePassed(), RollbackAsked(), Voted(1, Vote.NO)])
def test_r5_once_proposed_only_the_ruling_counts(event: Event) -> None:
    state, trace = run(TWO_WRITERS, Voted(0, Vote.YES), Voted(1, Vote.YES), event)
    assert trace[-1] == ()
    assert state.phase is Phase.DECIDING


def test_r5_a_ruling_against_the_proposal_is_obeyed() -> None:
    state, trace = run(TWO_WRITERS, Voted(0, Vote.YES), Voted(1, Vote.YES), Ruled(ABORT))
    assert trace[-1] == (TellDecided(committed=False), SendAbort(0), SendAbort(1))
    assert state.phase is Phase.ABORTING


def test_an_abort_goes_to_everyone_but_who_refused() -> None:
    _, trace = run((Branch(0), Branch(1), Branch(2)), Voted(0, Vote.YES), Voted(1, Vote.NO), Ruled(ABORT))
    assert trace[-1] == (TellDecided(committed=False), SendAbort(0), SendAbort(2))


def test_a_lost_vote_is_followed_by_an_abort_message() -> None:
    _, trace = run(TWO_WRITERS, Voted(0, Vote.LOST), Ruled(ABORT))
    assert trace[-1] == (TellDecided(committed=False), SendAbort(0), SendAbort(1))


def test_a_late_no_ends_an_abort() -> None:
    state, trace = run(TWO_WRITERS, Voted(0, Vote.NO), Ruled(ABORT), Voted(1, Vote.NO))
    assert trace[-1] == (End(committed=False),)
    assert state.phase is Phase.ABORTED


def test_a_late_yes_does_not_change_an_abort() -> None:
    state, _ = run(TWO_WRITERS, Voted(0, Vote.NO), Ruled(ABORT), Voted(1, Vote.YES))
    assert state.phase is Phase.ABORTING
    assert state.open == (1,)


def test_nobody_waits_for_a_participant_that_is_away_to_hear_of_an_abort() -> None:
    _, trace = run(
        (Branch(0), Branch(1), Branch(2)),
        Voted(0, Vote.YES),
        Voted(1, Vote.LOST),
        Ruled(ABORT),
        Unreached(1),
        Finished(0, Ending.ABORTED),
        Finished(2, Ending.ABORTED),
        Finished(1, Ending.ABORTED),
    )
    assert trace[-4:] == [(), (), (TellUnreached(),), (End(committed=False),)]


def test_r12_readers_vote_first_and_then_the_one_writer_decides() -> None:
    state, trace = run(
        ONE_WRITER,
        Voted(0, Vote.READ_ONLY),
        Voted(2, Vote.READ_ONLY),
        Ruled(delegated(1)),
        Finished(1, Ending.APPLIED),
    )
    assert trace == [
        (SendPrepare(0), SendPrepare(2)),
        (),
        (Propose(delegated(1)),),
        (SendApply(1),),
        (TellDecided(committed=True), End(committed=True)),
    ]
    assert state.phase is Phase.COMMITTED


def test_r12_a_writer_alone_is_delegated_at_once() -> None:
    _, trace = run((Branch(0),))
    assert trace == [(Propose(delegated(0)),)]


def test_r12_a_reader_that_refuses_keeps_the_writer_from_starting() -> None:
    state, trace = run(ONE_WRITER, Voted(0, Vote.NO), Voted(2, Vote.READ_ONLY), Ruled(ABORT))
    assert trace[-1] == (TellDecided(committed=False), End(committed=False))
    assert state.phase is Phase.ABORTED


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.ABORTED])
def test_r12_a_delegate_that_did_not_apply_is_an_abort_and_no_heuristic(ending: Ending) -> None:
    state, trace = run((Branch(0),), Ruled(delegated(0)), ApplyLost(0), Finished(0, ending))
    assert trace[-2:] == [(SendSettle(0),), (TellDecided(committed=False), End(committed=False))]
    assert state.phase is Phase.ABORTED
    assert state.heuristic == ()


def test_r12_readers_take_no_part_in_phase_two() -> None:
    state, trace = run(READERS, Voted(0, Vote.READ_ONLY), Voted(1, Vote.READ_ONLY), Ruled(COMMIT))
    assert trace[-1] == (TellDecided(committed=True), End(committed=True))
    assert state.phase is Phase.COMMITTED


def test_r12_a_read_only_vote_of_a_branch_that_may_write_does_not_count() -> None:
    _, trace = run(TWO_WRITERS, Voted(0, Vote.READ_ONLY))
    assert trace[-1] == (Propose(ABORT),)


def test_r12_a_reader_that_prepared_something_is_not_left_behind_by_a_delegation() -> None:
    _, trace = run(ONE_WRITER, Voted(0, Vote.YES), Ruled(ABORT))
    assert trace[1] == (Propose(ABORT),)
    assert SendAbort(0) in trace[-1]


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.ABORTED])
def test_r11_a_branch_lost_under_a_commit_is_a_heuristic(ending: Ending) -> None:
    state, trace = run(
        TWO_WRITERS,
        Voted(0, Vote.YES),
        Voted(1, Vote.YES),
        Ruled(COMMIT),
        Finished(0, ending),
        Finished(1, Ending.APPLIED),
    )
    assert trace[-2:] == [(Alarm(0, ending),), (End(committed=True),)]
    assert state.heuristic == (0,)


def test_r11_a_branch_applied_under_an_abort_is_a_heuristic() -> None:
    state, trace = run(TWO_WRITERS, Voted(0, Vote.NO), Ruled(ABORT), Finished(1, Ending.APPLIED))
    assert trace[-1] == (Alarm(1, Ending.APPLIED), End(committed=False))
    assert state.heuristic == (1,)


def test_r2_an_ending_told_twice_changes_nothing() -> None:
    state, trace = run(
        TWO_WRITERS,
        Voted(0, Vote.NO),
        Ruled(ABORT),
        Finished(1, Ending.ABORTED),
        Finished(1, Ending.APPLIED),
    )
    assert trace[-1] == ()
    assert state.heuristic == ()


def test_r8_a_decided_transaction_is_taken_up_where_it_stood() -> None:
    state, effects = resume(COMMIT, [0, 1, 2], {1: Ending.APPLIED})
    assert effects == (TellDecided(committed=True), SendCommit(0), SendCommit(2))
    assert state.phase is Phase.COMMITTING


def test_r8_a_decided_transaction_whose_branches_all_ended_only_ends() -> None:
    _, effects = resume(ABORT, [0, 1], {0: Ending.ABORTED, 1: Ending.ABORTED})
    assert effects == (TellDecided(committed=False), End(committed=False))


def test_r8_a_delegated_branch_is_asked_how_it_ended() -> None:
    state, effects = resume(delegated(1), [1])
    assert effects == (SendSettle(1),)
    assert state.phase is Phase.DELEGATED


@pytest.mark.parametrize(("ending", "committed"), [(Ending.APPLIED, True), (Ending.REFUSED, False)])
def test_r8_a_delegated_branch_that_answered_before_the_crash_is_not_asked_again(
    ending: Ending,
    committed: bool,  # noqa: FBT001
) -> None:
    _, effects = resume(delegated(1), [1], {1: ending})
    assert effects == (TellDecided(committed=committed), End(committed=committed))


def test_r11_a_heuristic_of_before_the_crash_is_kept_and_not_raised_again() -> None:
    state, effects = resume(COMMIT, [0, 1], {0: Ending.LOST})
    assert Alarm(0, Ending.LOST) not in effects
    assert state.heuristic == (0,)


def test_a_branch_that_is_not_the_transactions_is_refused() -> None:
    state, _ = begin(TWO_WRITERS)
    for event in (Voted(7, Vote.YES), Finished(7, Ending.APPLIED), Unreached(7)):
        with pytest.raises(KeyError):
            step(state, event)


def test_in_turn_each_branch_is_asked_when_those_before_it_have_agreed() -> None:
    state, effects = begin((Branch(0), Branch(1, read_only=True), Branch(2)), in_turn=True)
    asked = [effects]
    for event in (Voted(0, Vote.YES), Voted(0, Vote.YES), Voted(1, Vote.READ_ONLY), Voted(2, Vote.YES)):
        state, effects = step(state, event)
        asked.append(effects)
    assert asked == [(SendPrepare(0),), (SendPrepare(1),), (), (SendPrepare(2),), (Propose(COMMIT),)]


def test_in_turn_a_single_writer_is_still_told_last() -> None:
    state, effects = begin(ONE_WRITER, in_turn=True)
    asked = [effects]
    for event in (Voted(0, Vote.READ_ONLY), Voted(2, Vote.READ_ONLY), Ruled(delegated(1))):
        state, effects = step(state, event)
        asked.append(effects)
    assert asked == [(SendPrepare(0),), (SendPrepare(2),), (Propose(delegated(1)),), (SendApply(1),)]


@pytest.mark.parametrize("ended", [Voted(0, Vote.NO), Voted(0, Vote.LOST), DeadlinePassed(), RollbackAsked()])
def test_in_turn_an_abort_reaches_only_those_who_were_asked(ended: Event) -> None:
    state, _ = begin((*TWO_WRITERS, Branch(2)), in_turn=True)
    state, effects = step(state, ended)
    assert effects == (Propose(ABORT),)
    _, effects = step(state, Ruled(ABORT))
    assert not {SendAbort(1), SendAbort(2), SendPrepare(1)}.intersection(effects)


def test_a_transaction_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one branch"):
        begin([])


def test_a_decision_names_a_branch_only_if_it_is_delegated() -> None:
    with pytest.raises(ValueError, match="names a branch"):
        Decision(DecisionKind.COMMIT, 1)
    with pytest.raises(ValueError, match="names a branch"):
        Decision(DecisionKind.DELEGATED)


# --- every interleaving -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A state, what is still under way, and what has been done. Messages may arrive in any order, or be lost."""

    state: State
    pending: frozenset[Effect]
    told: bool | None = None
    committed_branches: frozenset[int] = frozenset()


def outcomes(world: World) -> Iterator[Event]:
    """Everything that may happen next."""
    yield DeadlinePassed()
    for effect in world.pending:
        match effect:
            case SendPrepare(branch):
                yield from (Voted(branch, vote) for vote in Vote)
            case SendApply(branch):
                yield ApplyLost(branch)
                yield Finished(branch, Ending.APPLIED)
                yield Finished(branch, Ending.REFUSED)
            case SendSettle(branch):
                yield Unreached(branch)
                yield Finished(branch, Ending.APPLIED)
                yield Finished(branch, Ending.ABORTED)
            case SendCommit(branch):
                yield Unreached(branch)
                yield Finished(branch, Ending.APPLIED)
            case SendAbort(branch):
                yield Unreached(branch)
                yield Finished(branch, Ending.ABORTED)
            case Propose(decision):
                yield Ruled(decision)
                yield Ruled(ABORT)
            case _:
                pytest.fail(f"{effect} is nothing to wait for")


def after(world: World, event: Event) -> World:
    state, effects = step(world.state, event)
    pending = set(world.pending)
    match event:
        case Voted(branch, _):
            pending.discard(SendPrepare(branch))
        case ApplyLost(branch):
            pending.discard(SendApply(branch))
        case Finished(branch, ending):
            pending -= {send(branch) for send in (SendApply, SendSettle, SendCommit, SendAbort)}
            if ending is Ending.APPLIED:
                world = replace(world, committed_branches=world.committed_branches | {branch})
        case Ruled():
            pending = {effect for effect in pending if not isinstance(effect, Propose)}
        case _:
            pass
    for effect in effects:
        match effect:
            case TellDecided(committed):
                assert world.told in (None, committed), "R6: told twice, differently"
                world = replace(world, told=committed)
            case End(committed):
                assert world.told is committed, "the end contradicts what was told"
                assert not state.open
            case TellUnreached():
                assert world.told is False
            case Alarm():
                pytest.fail("R11: an alarm without a contradiction")
            case SendCommit() | SendApply():
                agreed = {Standing.PREPARED, Standing.READ_ONLY, Standing.WORKING}  # WORKING: the delegate
                assert {standing for _, standing in state.standings} <= agreed, "R3: commit without every vote"
                assert state.queue == (), "R3: commit, and somebody was not asked"
                pending.add(effect)
            case _:
                pending.add(effect)
    return replace(world, state=state, pending=frozenset(pending))


@pytest.mark.parametrize("in_turn", [False, True], ids=["at once", "in turn"])
@pytest.mark.parametrize(
    "branches",
    [TWO_WRITERS, ONE_WRITER, READERS, (Branch(0),), (Branch(0), Branch(1, read_only=True), Branch(2))],
    ids=["two writers", "one writer", "readers", "a writer alone", "two writers and a reader"],
)
def test_r1_r3_every_interleaving_ends_the_same_way_everywhere(
    branches: tuple[Branch, ...],
    in_turn: bool,  # noqa: FBT001
) -> None:
    state, effects = begin(branches, in_turn=in_turn)
    start = World(state, frozenset(effects))
    seen, todo, ends = {start}, [start], set[Phase]()
    while todo:
        world = todo.pop()
        if world.state.phase in (Phase.COMMITTED, Phase.ABORTED):
            ends.add(world.state.phase)
            writers = {branch.number for branch in branches if not branch.read_only}
            expected = writers if world.state.phase is Phase.COMMITTED else set()
            assert world.committed_branches == expected, "R1: not everywhere or nowhere"
            continue
        assert world.pending, f"stuck in {world.state}"
        for event in outcomes(world):
            following = after(world, event)
            if following not in seen:
                seen.add(following)
                todo.append(following)
    assert ends == {Phase.COMMITTED, Phase.ABORTED}
