"""The transcripts: each is what happens, and together they take every way that the protocol has.

`TWOPHASE_REWRITE_TRANSCRIPTS=1` has what happens written below every command, in place: read the difference before you
keep it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from search.bugs import AbsentRowIsTakenForNotApplied, HeuristicIsSwallowed, UndefinedObjectIsTakenForSuccess
from transcripts import coordinator, disk, evidence, participants, two_phase
from transcripts.language import matching
from transcripts.play import BOOKS, check, write_anew
from transcripts.script import Wrong, read, transcripts
from transcripts.stage import Stage
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.quarantine import Quarantine
from twophase.coordinator.journal.port import Basis, BelowHorizon, EpochFenced, NotTheOwner, Proposal, Ruling
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, judge
from twophase.coordinator.protocol import twophase
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.coordinator.protocol.effects import Effect
from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude
from twophase.coordinator.protocol.resolution import Owner, Verdict
from twophase.coordinator.protocol.twophase import Row, State

ALL = transcripts(Path(__file__).parent)
ROWS = [pytest.param(row, id=f"{row.phase.value}: {row.event.__name__}, {row.guard.__doc__}") for row in twophase.TABLE]


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


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_table_is_taken_and_missed_if_it_is_not_there(row: Row) -> None:
    """A transcript that takes a row is wrong without it, so the row is not only visited."""
    path = next((path for path in ALL if row in rows_taken_by(path)), None)
    assert path is not None, "no transcript takes this row: write one"
    without = tuple(each for each in twophase.TABLE if each is not row)
    with patch.object(twophase, "TABLE", without), pytest.raises(Wrong):
        check(path, Stage())


_taken: dict[Path, list[Row]] = {}


def rows_taken_by(path: Path) -> list[Row]:
    if path not in _taken:
        with taking() as taken:
            check(path, Stage())
        _taken[path] = taken
    return _taken[path]


@contextmanager
def taking() -> Iterator[list[Row]]:
    """The rows of the table that are taken meanwhile: each is told by an action of its own."""
    taken: list[Row] = []

    def telling(row: Row) -> Callable[[State], tuple[Effect, ...]]:
        def tell(state: State) -> tuple[Effect, ...]:
            taken.append(row)
            return ()

        return tell

    told = tuple(replace(row, actions=(telling(row), *row.actions)) for row in twophase.TABLE)
    with patch.object(twophase, "TABLE", told):
        yield taken


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


# --- a rule that is broken is seen ------------------------------------------------------------------------------------


def no_fence(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, proposer=EpochView(Standing.OPEN)))


def no_record(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, existing=None, proposer=EpochView(Standing.OPEN)))


def no_claim(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, holder=None))


def no_horizon(proposal: Proposal, situation: Situation) -> Ruling:
    return judge(proposal, replace(situation, owner=replace(situation.owner, horizon=0)))


def majority(signs: Iterable[Sign]) -> Conclusion:
    return conclude(set(signs) & {Sign.COMMITTED} or signs)


PLANTED = (
    ("the fence is not checked", disk, "judge", no_fence, "the_fence_and_the_record"),
    ("the last proposal wins", disk, "judge", no_record, "a_zombie_meets_the_decision"),
    ("a request id is not claimed", disk, "judge", no_claim, "one_request_two_transactions"),
    ("horizons are not looked at", disk, "judge", no_horizon, "below_the_horizon"),
    ("no decision is forced", coordinator, "needs_force", lambda _: False, "the_commit_waits_for_its_sync"),
    ("a lost vote counts as yes", two_phase, "Vote", SimpleNamespace(LOST=Vote.YES), "a_vote_is_lost"),
    ("42704 is success", participants, "_MODEL", UndefinedObjectIsTakenForSuccess(), "rolled_back_by_hand"),
    ("no tombstones", participants, "_MODEL", AbsentRowIsTakenForNotApplied(), "late_prepare_meets_a_tombstone"),
    ("heuristics are swallowed", participants, "_MODEL", HeuristicIsSwallowed(), "committed_by_hand"),
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
