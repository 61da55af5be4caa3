"""What can happen in the world of the search: every step anyone can take, and every failure that can strike.

Lives here: the moves. Must not live here: what must hold (`claims`), the order in which worlds are visited (`explore`).

A request that nobody waits for any more is a ghost: it may still arrive, at any later time, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from search import machines
from search.changes import (
    abandoned,
    answered,
    become,
    delegate_of,
    died,
    ended,
    is_survived,
    is_undecided,
    is_unfinished,
    live,
    put_call,
    put_column,
    put_node,
    put_seat,
    surviving,
    unseated,
    without_finds,
)
from search.claims import at_rest, broken, wrong_at_rest
from search.explore import Rules, Violated
from search.participants import Participants
from search.world import OWNER, Column, Journal, Node, Seat, World, fold
from twophase.coordinator.protocol import effects as does
from twophase.coordinator.protocol.decisions import Ending, Vote
from twophase.coordinator.protocol.events import ApplyLost, DeadlinePassed, Event, Finished, Ruled, Voted
from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude
from twophase.coordinator.protocol.resolution import Verdict

Move: TypeAlias = tuple[str, bool, World]
"""What happened, whether that is a failure, and the world afterwards."""

_NAMES = ("owner", "first recoverer", "second recoverer")
_VOTES = {"yes": Vote.YES, "read-only": Vote.READ_ONLY, "no": Vote.NO}
_SIGNS = {
    "applied": Sign.COMMITTED,
    "lost": Sign.COMMITTED,
    "tombstone": Sign.ABORTED,
    "barred": Sign.DELEGATED,
    "refused": Sign.DELEGATED,
}
_ENDINGS = {ending.value: ending for ending in Ending}
_RULES = Rules(fold, at_rest, broken, wrong_at_rest)


@dataclass(frozen=True)
class Moves(Participants):
    """The world's rules as they are built. A planted bug is a subclass that overrides one method."""

    sweep_order: tuple[str, ...] = ("before", "live", "decision", "after")
    at_once: bool = False
    """Whether a sweep reads everything at one moment, that of its last reading. With the order as it is this leaves out
    nothing: what was seen before and is not so then leads to no deed (`_conclude`), and it makes far fewer worlds."""

    @property
    def rules(self) -> Rules[World]:
        """What must hold, whatever happens."""
        return _RULES

    # --- the journal ----------------------------------------------------------------------------------------------

    def ruling(self, journal: Journal, proposer: int, kind: str, delegate: int | None) -> str | None:
        """What is answered to a proposal; None: the proposer is fenced."""
        return machines.ruling(journal, proposer, kind, delegate)

    def forced(self, kind: str) -> bool:
        """Whether a decision is on disk when it is answered."""
        return kind != "abort"

    def begin(self, plan: tuple[bool, ...], *, in_turn: bool) -> machines.Outcome:
        """The owner's machine at its beginning; the plan says of each branch whether it writes."""
        return machines.begin(plan, in_turn=in_turn)

    # --- coordinators -----------------------------------------------------------------------------------------------

    def fences(self) -> bool:
        """Whether who finishes another's transaction fences its epoch first."""
        return True

    def at_work(self, node: Node) -> bool:
        """Whether a coordinator finds, right before it concludes, that it is at work on the transaction itself."""
        return live(node)

    def evidence(self, world: World) -> Conclusion:
        """What the ledgers prove of a transaction that has no decision here."""
        return conclude(sign for column in world.columns if (sign := _SIGNS.get(column.db)) is not None)

    def vote_counts(self, vote: str) -> Vote:
        """What an answer to prepare counts as."""
        return _VOTES[vote]

    def lost_vote(self) -> Vote:
        """What no answer to prepare counts as."""
        return Vote.LOST

    # --- everything that can happen ---------------------------------------------------------------------------------

    def all(self, world: World) -> Iterator[Move]:
        """Every successor of a world."""
        for who, node in enumerate(world.nodes):
            if node.status == "up":
                yield from self.of_node(world, who, node)
                if world.crashes and is_survived(world, who):
                    yield from self._crash(world, who, node)
            elif node.status == "off" and not any(other.status == "off" for other in world.nodes[:who]):
                yield f"{_NAMES[who]} starts", False, self._start(world, who)
        for place, column in enumerate(world.columns):
            yield from self.at_participant(world, place, column)
            if column.work:
                yield from self._work_lost(world, place, column)
            for who, seat in enumerate(column.seats):
                if world.nodes[who].status == "up":
                    yield from self._calls(world, who, place, seat)
                    yield from self.sweeps(world, who, place)
            yield from self._by_hand(world, place, column)

    def of_node(self, world: World, who: int, node: Node) -> Iterator[Move]:
        if who == OWNER and not node.phase and not world.journal.begun:
            begun = world._replace(journal=world.journal._replace(begun=True))
            outcome = self.begin(tuple(column.writes for column in world.columns), in_turn=world.in_turn)
            yield "the owner begins", False, self._take(begun, who, outcome)
        if node.phase == "voting":
            yield "the deadline passes", False, self.feed(world, who, DeadlinePassed())
        if who != OWNER and world.journal.fenced and not node.proposal and not live(node):
            if is_undecided(world.journal):
                yield f"{_NAMES[who]} looks for what was begun", False, self._presume(world, who)
            elif is_unfinished(world.journal):
                yield f"{_NAMES[who]} looks for what was decided", False, self._take_up(world, who)
        if node.proposal:
            ruled = self._rule(world, who, node)
            yield f"the journal rules on {node.proposal} by {_NAMES[who]}: {ruled.journal.decision}", False, ruled

    # --- deciding ---------------------------------------------------------------------------------------------------

    def _rule(self, world: World, who: int, node: Node) -> World:
        written, actual = self._written(world, who, node)
        if actual is None:
            return died(world, who)
        settled = written._replace(nodes=put_node(written.nodes, who, written.nodes[who]._replace(proposal="")))
        if node.proposal != "presume":
            return self.feed(settled, who, Ruled(machines.decision_of(actual, delegate_of(world))))
        found = frozenset(place for place, column in enumerate(world.columns) if column.seats[who].found)
        return self._take_up(without_finds(settled, who), who, extra=found)

    def _written(self, world: World, who: int, node: Node) -> tuple[World, str | None]:
        """The world with the proposal written, if it is taken, and what the journal answers."""
        if node.proposal == "presume" and self.at_work(node):
            return world, world.journal.decision
        actual = self.ruling(world.journal, who, node.proposal, delegate_of(world))
        if actual is None or actual == world.journal.decision:
            return world, actual
        if node.proposal == "presume" and live(world.nodes[OWNER]) and not world.journal.fenced:
            raise Violated("a transaction was presumed aborted while its owner was at work on it")
        journal = world.journal._replace(decision=actual, durable=self.forced(actual))
        columns = tuple(column._replace(hears=self._hears(world, who, node, column)) for column in world.columns)
        return world._replace(journal=journal, columns=columns), actual

    def _hears(self, world: World, who: int, node: Node, column: Column) -> bool:
        seat = column.seats[who]
        if node.proposal == "presume":
            return world.journal.begun or seat.found
        if node.proposal == "delegated":
            return column.writes
        return seat.standing in ("working", "reading", "prepared", "silent")

    def feed(self, world: World, who: int, event: Event) -> World:
        """One event for one machine, and everything it wants done."""
        node = world.nodes[who]
        known = tuple(
            (place, column.seats[who].standing)
            for place, column in enumerate(world.columns)
            if column.seats[who].standing
        )
        return self._take(world, who, machines.step(node.phase, known, node.decision, delegate_of(world), event))

    def _take(self, world: World, who: int, outcome: machines.Outcome) -> World:
        phase, standings, decision, wanted = outcome
        world = world._replace(
            nodes=put_node(world.nodes, who, world.nodes[who]._replace(phase=phase, decision=decision))
        )
        for place, standing in standings:
            seat = world.columns[place].seats[who]
            if seat.standing != standing:
                world = put_seat(world, place, who, seat._replace(standing=standing))
        for effect in wanted:
            world = self._carry_out(world, who, effect)
        return world

    def _carry_out(self, world: World, who: int, effect: does.Effect) -> World:
        match effect:
            case does.SendPrepare(place):
                return put_column(world, place, world.columns[place]._replace(work="prepare"))
            case does.SendApply(place):
                return put_column(world, place, world.columns[place]._replace(work="apply"))
            case does.SendCommit(place):
                return put_call(world, place, who, "commit")
            case does.SendAbort(place):
                return put_call(world, place, who, "abort")
            case does.SendSettle(place):
                return put_call(world, place, who, "settle")
            case does.Propose(decision):
                node = world.nodes[who]._replace(proposal=decision.kind.value)
                return world._replace(nodes=put_node(world.nodes, who, node))
            case does.TellDecided(committed):
                if committed and not world.journal.durable:
                    raise Violated("R4: a commit was told before it was durable")
                return world._replace(told=world.told | {"committed" if committed else "aborted"})
            case does.Alarm():
                if not world.meddled:
                    raise Violated("R11: an alarm, and nobody had meddled")
                return world._replace(alarmed=True)
            case does.End():
                return ended(world._replace(journal=world.journal._replace(ended=True)), who)
            case does.TellUnreached():
                return world

    # --- recovery ---------------------------------------------------------------------------------------------------

    def _start(self, world: World, who: int) -> World:
        journal = world.journal._replace(fenced=world.journal.fenced or self.fences())
        node = world.nodes[who]._replace(status="up")
        started = world._replace(journal=journal, nodes=put_node(world.nodes, who, node))
        if journal.decision:
            return self._take_up(started, who)
        return started

    def _presume(self, world: World, who: int) -> World:
        node = world.nodes[who]
        if self.at_work(node) or node.proposal:
            return without_finds(world, who)
        if any(column.db in ("applied", "lost") for column in world.columns):
            return self._settle(without_finds(world, who), who)
        return world._replace(nodes=put_node(world.nodes, who, node._replace(proposal="presume")))

    def _settle(self, world: World, who: int) -> World:
        """The journal has no decision, and a participant has: nothing is presumed, and the ledgers tell the end."""
        call = {Conclusion.COMMIT: "late commit", Conclusion.ABORT: "late abort"}.get(self.evidence(world), "")
        world = world._replace(alarmed=True)
        for place, column in enumerate(world.columns):
            if call and column.db == "prepared" and not column.seats[who].call:
                world = put_call(world, place, who, call)
        return world

    def _take_up(self, world: World, who: int, extra: frozenset[int] = frozenset()) -> World:
        journal, node = world.journal, world.nodes[who]
        if not journal.decision or journal.ended or live(node):
            return world
        branches = tuple(place for place, column in enumerate(world.columns) if column.hears or place in extra)
        world = unseated(world, who)
        return self._take(world, who, machines.resume(journal.decision, delegate_of(world), branches))

    def sweeps(self, world: World, who: int, place: int) -> Iterator[Move]:
        node, column = world.nodes[who], world.columns[place]
        seat = column.seats[who]
        if self.at_once:
            if column.db == "prepared" and not live(node):
                facts = {"live": "no", "decision": world.journal.decision, "after": "yes"}
                yield f"{_NAMES[who]} sweeps participant {place}", False, self._conclude(world, who, place, facts)
            return
        read = tuple(filter(None, seat.sweep.split(",")))
        todo = self.sweep_order[len(read)]
        if not read and (live(node) or (todo == "before" and column.db != "prepared")):
            return
        match todo:
            case "before" | "after":
                fact = f"{todo}={'yes' if column.db == 'prepared' else 'no'}"
            case "live":
                fact = f"live={'yes' if live(node) else 'no'}"
            case _:
                fact = f"decision={world.journal.decision}"
        facts = dict(each.split("=") for each in (*read, fact))
        label = f"{_NAMES[who]} reads at participant {place}: {fact}"
        if facts.get("before") == "no" or facts.get("live") == "yes" or len(facts) == len(self.sweep_order):
            done = put_seat(world, place, who, seat._replace(sweep=""))
            if len(facts) == len(self.sweep_order):
                done = self._conclude(done, who, place, facts)
            if read or done != world:
                yield label, False, done
            return
        yield label, False, put_seat(world, place, who, seat._replace(sweep=",".join((*read, fact))))

    def _conclude(self, world: World, who: int, place: int, facts: dict[str, str]) -> World:
        found = machines.verdict(
            live=facts["live"] == "yes",
            decision=facts["decision"],
            delegate=delegate_of(world),
            ours=who == OWNER,
            fenced=world.journal.fenced,
            seen_again=facts["after"] == "yes",
        )
        match found:
            case Verdict.LEAVE | Verdict.ASK:
                return world
            case Verdict.PRESUME_ABORT:
                seat = world.columns[place].seats[who]
                return self._presume(put_seat(world, place, who, seat._replace(found=True)), who)
            case Verdict.FINISH_COMMIT | Verdict.FINISH_ABORT:
                if self.at_work(world.nodes[who]):
                    return world
                if world.journal.ended:
                    # The machine that did it is over: this request is nobody's but the sweep's.
                    return put_call(
                        world, place, who, "late commit" if found is Verdict.FINISH_COMMIT else "late abort"
                    )
                return self._take_up(world, who, frozenset({place}))

    # --- at the participants ----------------------------------------------------------------------------------------

    def at_participant(self, world: World, place: int, column: Column) -> Iterator[Move]:
        where = f"participant {place}"
        if column.work in ("prepare", "apply") and not column.runs:
            begun = column._replace(work="running", runs=column.work, heard=True)
            yield f"{where} begins to {column.work}", False, put_column(world, place, begun)
        if column.runs == "prepare":
            for agrees in (True, False):
                db, vote = self.prepare(column, agrees=agrees)
                yield f"{where} ends its work: {vote}", False, put_column(world, place, answered(column, db, vote))
        elif column.runs == "apply":
            for answer in ("applied", "refused", "retry"):
                db, outcome = self.apply(column, answer=answer)
                done = answered(column, db, outcome)
                yield f"{where} ends its work: {outcome}", False, put_column(world, place, done)
        if column.work not in ("", "prepare", "apply", "running"):
            yield self._answer(world, place, column)
        for ghost in column.ghosts:
            left = column._replace(ghosts=column.ghosts - {ghost})
            if ghost in ("prepare", "apply"):
                if not column.runs:
                    arrived = left._replace(runs=ghost, heard=False)
                    yield f"a late copy of {ghost} reaches {where}", False, put_column(world, place, arrived)
            else:
                db, _ = self.finished(column.db, ghost)
                yield f"a late copy of {ghost} reaches {where}", False, put_column(world, place, become(left, db))
        if world.crashes and column.runs:
            died = column._replace(runs="", work="gone" if column.heard and column.work == "running" else column.work)
            yield f"{where} crashes", True, put_column(world._replace(crashes=world.crashes - 1), place, died)

    def _answer(self, world: World, place: int, column: Column) -> Move:
        heard = put_column(world, place, column._replace(work=""))
        label = f"the answer of participant {place} arrives: {column.work}"
        if column.work == "gone":
            return label, False, self._work_unanswered(heard, place)
        if column.work in _VOTES:
            return label, False, self.feed(heard, OWNER, Voted(place, self.vote_counts(column.work)))
        if column.work == "retry":
            return label, False, self.feed(heard, OWNER, ApplyLost(place))
        return label, False, self.feed(heard, OWNER, Finished(place, _ENDINGS[column.work]))

    def _work_unanswered(self, world: World, place: int) -> World:
        delegated = world.nodes[OWNER].decision == "delegated"
        return self.feed(world, OWNER, ApplyLost(place) if delegated else Voted(place, self.lost_vote()))

    def _work_lost(self, world: World, place: int, column: Column) -> Iterator[Move]:
        if column.work in ("prepare", "apply") and world.copies:
            copied = column._replace(ghosts=column.ghosts | {column.work})
            yield f"{column.work} is copied", True, put_column(world._replace(copies=world.copies - 1), place, copied)
        if world.losses and column.work != "gone":
            lost = abandoned(column)
            world = put_column(world._replace(losses=world.losses - 1), place, lost)
            yield f"the answer of participant {place} is lost", True, self._work_unanswered(world, place)

    def _calls(self, world: World, who: int, place: int, seat: Seat) -> Iterator[Move]:
        if not seat.call:
            return
        column = world.columns[place]
        late = seat.call.startswith("late ")
        call = seat.call.removeprefix("late ")
        db, ending = self.finished(column.db, call)
        done = put_column(world, place, become(column, db))
        answered = put_seat(done, place, who, seat._replace(call=""))
        if not late:
            answered = self.feed(answered, who, Finished(place, _ENDINGS[ending]))
        elif (ending == "applied") is not (call == "commit"):
            answered = answered._replace(alarmed=True)
        label = f"{_NAMES[who]} has participant {place} {seat.call}: {ending}"
        yield label, False, answered
        if world.losses:
            lost = done._replace(losses=world.losses - 1)
            yield f"{label}, and does not hear of it", True, lost
        if world.copies and call not in column.ghosts:
            copied = column._replace(ghosts=column.ghosts | {call})
            yield f"{call} is copied", True, put_column(world._replace(copies=world.copies - 1), place, copied)

    # --- failures ---------------------------------------------------------------------------------------------------

    def _crash(self, world: World, who: int, node: Node) -> Iterator[Move]:
        struck = world._replace(crashes=world.crashes - 1)
        worlds = [(f"{_NAMES[who]} crashes", struck)]
        if node.proposal:
            written, actual = self._written(struck, who, node)
            if actual is not None and written != struck:
                worlds.append((f"{_NAMES[who]} crashes while {node.proposal} is written", written))
        for label, each in worlds:
            for left in surviving(each.journal):
                columns = each.columns
                if not left.decision:
                    columns = tuple(column._replace(hears=False) for column in columns)
                yield label, True, died(each._replace(journal=left, columns=columns), who)

    def _by_hand(self, world: World, place: int, column: Column) -> Iterator[Move]:
        if world.hands and column.db == "prepared":
            meddled = world._replace(hands=world.hands - 1, meddled=True)
            for what, db in (("commits", "applied"), ("rolls back", "none")):
                label = f"somebody {what} the branch at participant {place} by hand"
                yield label, True, put_column(meddled, place, become(column, db))
