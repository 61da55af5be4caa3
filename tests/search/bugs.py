"""Planted bugs: the protocol with one thing wrong. The search must find every one of them.

Lives here: each bug, and the smallest world in which it shows. Must not live here: the search. A check that cannot fail
is none, and these show what ours would find.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from search import machines
from search.changes import become
from search.moves import Move, Moves
from search.world import OWNER, Column, Journal, Node, World, start
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.coordinator.protocol.events import ApplyLost, Event, Finished


@dataclass(frozen=True, slots=True)
class Bug:
    """A wrong protocol, a world that shows it, and the rule it breaks there."""

    moves: Moves
    world: World
    breaks: str


class CommitIsToldBeforeItsSync(Moves):
    """The journal answers before the disk does."""

    def forced(self, kind: str) -> bool:
        return False


class LostVoteCountsAsYes(Moves):
    """Whoever did not answer is taken to agree."""

    def lost_vote(self) -> Vote:
        return Vote.YES


class NoCountsAsYes(Moves):
    """The command tag of PREPARE TRANSACTION is not looked at: it may say ROLLBACK."""

    def vote_counts(self, vote: str) -> Vote:
        return Vote.YES if vote == "no" else super().vote_counts(vote)


class DeadlineAbortsWithoutDeciding(Moves):
    """At the deadline the branches are rolled back, though a commit may be on its way to the journal."""

    def of_node(self, world: World, who: int, node: Node) -> Iterator[Move]:
        yield from super().of_node(world, who, node)
        if who == OWNER and node.phase == "deciding":
            columns = tuple(
                column._replace(seats=(column.seats[0]._replace(call="late abort"), *column.seats[1:]))
                for column in world.columns
            )
            yield "the deadline passes, and aborts", False, world._replace(columns=columns)


class FenceIsNotChecked(Moves):
    """The journal takes a decision from a fenced owner."""

    def ruling(self, journal: Journal, proposer: int, kind: str, delegate: int | None) -> str | None:
        return super().ruling(journal._replace(fenced=proposer != OWNER), proposer, kind, delegate)


class DecisionIsOverwritten(Moves):
    """The last proposal wins, not the first, and the fence is not checked: either alone would save us here."""

    def ruling(self, journal: Journal, proposer: int, kind: str, delegate: int | None) -> str | None:
        return super().ruling(journal._replace(decision="", fenced=proposer != OWNER), proposer, kind, delegate)


class LiveTransactionsAreReadFirst(Moves):
    """A sweep asks which transactions are live before it looks who is prepared."""

    def at_work(self, node: Node) -> bool:
        return False


class AbsentRowIsTakenForNotApplied(Moves):
    """No row in the ledger: it was not applied, then. No tombstone says so."""

    def abort(self, db: str, tombstone: str = "tombstone") -> tuple[str, str]:
        return ("none", "aborted") if db == "none" else super().abort(db, tombstone)


class UndefinedObjectIsTakenForSuccess(Moves):
    """COMMIT PREPARED finds nothing (42704): it was committed before, then."""

    def commit(self, db: str) -> tuple[str, str]:
        return ("none", "applied") if db == "none" else super().commit(db)


class LedgerRowIsWrittenApart(Moves):
    """The delegated work commits, and its row follows in a transaction of its own, which a crash can prevent."""

    def at_participant(self, world: World, place: int, column: Column) -> Iterator[Move]:
        yield from super().at_participant(world, place, column)
        if column.runs == "apply" and column.db == "none":
            torn = become(column, "applied")._replace(db="none", runs="", work="gone")
            columns = (*world.columns[:place], torn, *world.columns[place + 1 :])
            yield f"participant {place} commits, and dies before the row", True, world._replace(columns=columns)


class UnansweredDelegateIsTakenForRefused(Moves):
    """The delegate did not answer, so the transaction is told aborted; nobody asked its ledger."""

    def feed(self, world: World, who: int, event: Event) -> World:
        if isinstance(event, ApplyLost):
            event = Finished(event.branch, Ending.ABORTED)
        return super().feed(world, who, event)


class PreparedBranchIsRolledBackOnItsAge(Moves):
    """A participant rolls back what has been prepared for long, by itself."""

    def at_participant(self, world: World, place: int, column: Column) -> Iterator[Move]:
        yield from super().at_participant(world, place, column)
        if column.db == "prepared":
            columns = (*world.columns[:place], column._replace(db="none"), *world.columns[place + 1 :])
            yield f"participant {place} rolls back an old branch", False, world._replace(columns=columns)


class HeuristicIsSwallowed(Moves):
    """A branch that is applied although it had to be aborted is reported as aborted."""

    def abort(self, db: str, tombstone: str = "tombstone") -> tuple[str, str]:
        return (db, "aborted") if db == "applied" else super().abort(db, tombstone)


class WhoeverIsInTheQueueIsForgotten(Moves):
    """Branches prepare in turn, and the first one's yes is taken for everybody's."""

    def begin(self, plan: tuple[bool, ...], *, in_turn: bool) -> machines.Outcome:
        phase, standings, decision, effects = super().begin(plan, in_turn=in_turn)
        return phase, tuple(each for each in standings if each[1] not in machines.QUEUED), decision, effects


class SweepsStop(Moves):
    """Recovery looks once, at its start, and never again: a slow backend prepares after that."""

    def sweeps(self, world: World, who: int, place: int) -> Iterator[Move]:
        return iter(())


BUGS = (
    Bug(CommitIsToldBeforeItsSync(), start(2, 0, recoverers=0), "R4"),
    Bug(LostVoteCountsAsYes(), start(2, 0, recoverers=0, losses=1), "R3"),
    Bug(NoCountsAsYes(), start(2, 0, recoverers=0), "R3"),
    Bug(DeadlineAbortsWithoutDeciding(), start(2, 0, recoverers=0), "R3"),
    Bug(FenceIsNotChecked(at_once=True), start(2, 0, recoverers=2, crashes=1), "R6"),
    Bug(DecisionIsOverwritten(at_once=True), start(2, 0, recoverers=1), "R6"),
    Bug(
        LiveTransactionsAreReadFirst(sweep_order=("live", "before", "decision", "after")),
        start(2, 0, recoverers=0),
        "a transaction was presumed aborted",
    ),
    Bug(AbsentRowIsTakenForNotApplied(), start(1, 0, recoverers=0, losses=1), "R6"),
    Bug(UndefinedObjectIsTakenForSuccess(), start(2, 0, recoverers=0, hands=1), "R11"),
    Bug(LedgerRowIsWrittenApart(), start(1, 0, recoverers=0), "R7"),
    Bug(UnansweredDelegateIsTakenForRefused(), start(1, 0, recoverers=0, losses=1), "R6"),
    Bug(PreparedBranchIsRolledBackOnItsAge(), start(2, 0, recoverers=0), "R3"),
    Bug(HeuristicIsSwallowed(), start(2, 0, recoverers=0, hands=1), "R11"),
    Bug(WhoeverIsInTheQueueIsForgotten(), start(2, 0, recoverers=0, in_turn=True), "R3"),
    Bug(SweepsStop(), start(2, 0, recoverers=1, crashes=1), "R9"),
)
