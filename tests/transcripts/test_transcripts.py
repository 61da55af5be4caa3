"""The transcripts: each is what happens, and together they take every way that the protocol has.

`TWOPHASE_REWRITE_TRANSCRIPTS=1` has what happens written below every command, in place: read the difference before you
keep it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from search.bugs import AbsentRowIsTakenForNotApplied, HeuristicIsSwallowed, UndefinedObjectIsTakenForSuccess
from transcripts import disk, evidence, participants, pending, recovery, two_phase
from transcripts.coordinator import Coordinator
from transcripts.language import matching
from transcripts.participants import NOTHING_TO_UNDO, Participant
from transcripts.play import BOOKS, check, write_anew
from transcripts.saga_run import Turning
from transcripts.script import Wrong, read, transcripts
from transcripts.stage import Stage
from transcripts.wire import Transaction
from twophase.contract.names import Epoch
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.quarantine import Quarantine
from twophase.coordinator.journal.events import Turned
from twophase.coordinator.journal.port import Basis, BelowHorizon, EpochFenced, NotTheOwner, Proposal, Ruling
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, judge, judge_turn
from twophase.coordinator.protocol import saga, twophase
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.coordinator.protocol.events import Finished
from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude
from twophase.coordinator.protocol.resolution import Owner, Verdict, resolve

ALL = transcripts(Path(__file__).parent)
UNREACHABLE = (saga.Phase.BACKWARD, Finished, saga.nothing_to_undo)
"""A step's answer that comes after the turn and ends the saga: by then all that is left is being compensated, and the
answers to that are others. No event leads there in any saga of up to four steps."""

ROWS = [
    pytest.param(machine, number, id=f"{row.phase.value}: {row.event.__name__}, {row.guard.__doc__}")
    for machine in (twophase, saga)
    for number, row in enumerate(machine.TABLE)
    if (row.phase, row.event, row.guard) != UNREACHABLE
]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_happens_as_it_is_written(path: Path) -> None:
    if os.environ.get("TWOPHASE_REWRITE_TRANSCRIPTS"):
        write_anew(path)
    check(path, Stage())


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_each_one_begins_with_its_story(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_one_that_the_docs_show_is_one_of_them() -> None:
    shown = Path(__file__).with_name("an_abort_races_a_prepare.txt").read_text(encoding="utf-8")
    docs = Path(__file__).parents[2] / "docs" / "correctness.md"
    assert f"```\n{shown}```\n" in docs.read_text(encoding="utf-8")


# --- nothing is left out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "number"), ROWS)
def test_every_row_of_the_tables_is_taken_and_missed_if_it_is_not_there(machine: ModuleType, number: int) -> None:
    """A transcript that takes a row is wrong without it, so the row is not only visited."""
    paths = [path for path in ALL if (machine, number) in rows_taken_by(path)]
    assert paths, "no transcript takes this row: write one"
    without = tuple(row for at, row in enumerate(machine.TABLE) if at != number)
    with patch.object(machine, "TABLE", without):
        assert any(is_wrong(path) for path in paths), "those that take this row are right without it"


def is_wrong(path: Path) -> bool:
    try:
        check(path, Stage())
    except (AssertionError, KeyError):  # `Wrong` is one; the others come of a machine that is not as it must be
        return True
    return False


@functools.cache
def rows_taken_by(path: Path) -> frozenset[tuple[ModuleType, int]]:
    """The rows that a transcript takes, each by its machine and its place. An action of its own tells of each."""
    taken: set[tuple[ModuleType, int]] = set()

    def telling(machine: ModuleType, number: int, row: Any) -> Any:
        def tell(state: object, *_: object) -> tuple[object, tuple[()]]:
            taken.add((machine, number))
            return state, ()

        return replace(row, actions=(tell, *row.actions))

    with ExitStack() as patches:
        for machine in (twophase, saga):
            table = tuple(telling(machine, number, row) for number, row in enumerate(machine.TABLE))
            patches.enter_context(patch.object(machine, "TABLE", table))
        check(path, Stage())
    return frozenset(taken)


def test_every_answer_of_resolution_evidence_and_journal_comes_up() -> None:
    """All but one: an epoch that was never given out is a proof, and the quarantine that follows is what decides."""
    sights: set[object] = set()
    for path in ALL:
        stage = Stage()
        check(path, stage)
        sights |= stage.sights
    wanted = {*Verdict, *Owner, *Conclusion, *Basis, *Vote, *Ending, EpochFenced, NotTheOwner, BelowHorizon}
    assert wanted - sights == {Owner.STRANGE}


def test_every_phrase_is_used() -> None:
    commands = [command.text for path in ALL for command in read(path.name, path.read_text(encoding="utf-8"))]
    used = {phrase.words for text in commands for phrase in matching(BOOKS, text)}
    assert {phrase.words for book in BOOKS for phrase in book.phrases} - used == set()


WAITING_FOR_A_PERSON = {
    "a_reader_that_prepares_beside_a_refusal",
    "an_older_copy_and_a_contradiction",
    "an_older_copy_knows_nothing",
}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_r9_a_story_ends_with_nothing_in_doubt_or_with_an_alarm(path: Path) -> None:
    stage = Stage()
    check(path, stage)
    up = [each for each in stage.coordinators.values() if each.status == "up"]
    assert not any(each.live for each in up)
    assert not stage.disk.state.unfinished()
    prepared = [
        there.name for there in stage.participants.values() if any(map(there.prepared, stage.transactions.values()))
    ]
    assert bool(prepared) is (path.stem in WAITING_FOR_A_PERSON)
    assert not prepared or " !!! " in path.read_text(encoding="utf-8")


# --- a rule that is broken is seen ------------------------------------------------------------------------------------


def no_fence(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, proposer=EpochView(Standing.OPEN)))


def no_record(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, existing=None, proposer=EpochView(Standing.OPEN)))


def no_claim(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, holder=None))


def no_horizon(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, owner=replace(situation.owner, horizon=0)))


def no_fence_for_turns(turned: Turned, proposer: Epoch, situation: Situation) -> None:
    judge_turn(turned, proposer, replace(situation, proposer=EpochView(Standing.OPEN)))


def turn_without_force(turning: Turning) -> bool:
    judge_and_write(turning)
    return False


judge_and_write = Turning.judge_and_write


def undo_without_claim(there: Participant, of: Transaction, *, succeeds: bool) -> str:
    return undo(there, of, succeeds=succeeds) if there.branch(of).column.db != "none" else NOTHING_TO_UNDO


undo = Participant.undo


def majority(signs: Iterable[Sign]) -> Conclusion:
    return conclude(set(signs) & {Sign.COMMITTED} or signs)


def nobody(at: Coordinator, of: Transaction) -> tuple[dict[str, Sign], list[str]]:
    return {}, []


def once(before: Iterable[Any], live: Any, decision_of: Any, owner_of: Any, after: Any) -> Any:
    first = tuple(before)
    return resolve(first, live, decision_of, owner_of, set(first))


PLANTED = (
    ("the fence is not checked", disk, "judge", no_fence, "the_fence_and_the_record"),
    ("the last proposal wins", disk, "judge", no_record, "a_zombie_meets_the_decision"),
    ("a request id is not claimed", disk, "judge", no_claim, "one_request_two_transactions"),
    ("horizons are not looked at", disk, "judge", no_horizon, "below_the_horizon"),
    ("no decision is forced", pending, "needs_force", lambda _: False, "the_commit_waits_for_its_sync"),
    ("a lost vote counts as yes", two_phase, "Vote", SimpleNamespace(LOST=Vote.YES), "a_vote_is_lost"),
    ("a fenced saga turns", disk, "judge_turn", no_fence_for_turns, "saga_zombie_cannot_turn"),
    ("no turn is forced", Turning, "judge_and_write", turn_without_force, "saga_a_turn_is_lost"),
    ("no key is claimed", Participant, "undo", undo_without_claim, "saga_undo_comes_first"),
    ("42704 is success", participants, "_MODEL", UndefinedObjectIsTakenForSuccess(), "rolled_back_by_hand"),
    ("no tombstones", participants, "_MODEL", AbsentRowIsTakenForNotApplied(), "late_prepare_meets_a_tombstone"),
    ("heuristics are swallowed", participants, "_MODEL", HeuristicIsSwallowed(), "committed_by_hand"),
    ("nobody is asked", recovery, "ask_everybody", nobody, "an_older_copy_of_the_journal"),
    ("sweeps read once", recovery, "resolve", once, "finished_during_a_sweep"),
    ("evidence overrules evidence", evidence, "conclude", majority, "an_older_copy_and_a_contradiction"),
    ("every timeline is believed", Peer, "speaks_for", lambda *_: True, "a_commit_is_wholly_lost_in_a_failover"),
    ("every epoch is known", Quarantine, "is_strange", lambda *_: False, "an_older_copy_started_twice"),
)


@pytest.mark.parametrize(("where", "name", "wrong", "story"), [pytest.param(*each[1:], id=each[0]) for each in PLANTED])
def test_a_planted_bug_is_seen_in_its_story(where: object, name: str, wrong: object, story: str) -> None:
    path = Path(__file__).with_name(f"{story}.txt")
    check(path, Stage())
    with patch.object(where, name, wrong), pytest.raises(Wrong):
        check(path, Stage())
