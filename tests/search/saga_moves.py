"""What can happen to a saga: every step anyone can take, and every failure that can strike.

Lives here: the moves. Must not live here: what must hold (`saga_claims`), the order in which worlds are visited
(`explore`).

The network is as bad as can be, and needs no budget: of every request a copy may arrive at any later time, as often as
it likes, and every answer may be late or lost. What others see of a participant is that it commits a row with what
belongs to it. What it was doing when it crashed is not done, as if the request had not arrived yet; so no move is
needed for that, nor for work that hangs and ends late, nor for a refusal that leaves no row.

What the journal knows of the steps rides along with its forced writes. Whoever takes a saga up is given any part of
what the ledgers say: so every way to lose it is in the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from search import saga_machines as machines
from search.explore import Rules, Violated
from search.saga_claims import NEVER, rules, wrong_at_end
from search.saga_world import OWNER, SHAPES, Column, Journal, Node, World
from twophase.coordinator.protocol import effects as does
from twophase.coordinator.protocol.decisions import ABORT, SAGA
from twophase.coordinator.protocol.events import Compensated, DeadlinePassed, Finished, GaveUp, Ruled, SagaEvent, Turned

Move: TypeAlias = tuple[str, bool, World]
"""What happened, whether that is a failure, and the world afterwards."""

_NAMES = ("owner", "first recoverer", "second recoverer")
_IDLE = ("", "over")
_RULINGS = {"saga": SAGA, "abort": ABORT}


@dataclass(frozen=True)
class SagaMoves:
    """The rules as they are built, for sagas of one shape. A planted bug is a subclass that overrides one method."""

    shape: str

    @property
    def rules(self) -> Rules[World]:
        """What must hold, whatever happens."""
        return rules(self.shape)

    # --- what a bug may change ----------------------------------------------------------------------------------------

    def drawn(self, phase: str) -> str:
        """The shape by which a coordinator goes in this phase."""
        return self.shape

    def forced(self, kind: str) -> bool:
        """Whether a start or a turn is on disk when it is answered."""
        return kind != "abort"

    def checked(self, journal: Journal, who: int) -> Journal:
        """The journal as its rules see it, when this coordinator proposes something."""
        return journal

    def backward(self, journal: Journal) -> bool:
        """Whether a saga that is taken up goes backward."""
        return bool(journal.turned)

    def known(self, column: Column, *, turned: bool) -> tuple[str, ...]:
        """What the journal may know of a step, when its saga is taken up."""
        undone = ("undone",) if turned and self.is_undone(column) else ()
        return ("", column.work, *undone) if column.work else ("",)

    def looks_again(self) -> bool:
        """Whether a coordinator looks, now and then, for what others left, and not only at its start."""
        return True

    def wanted(self, world: World, effects: tuple[does.SagaEffect, ...]) -> tuple[does.SagaEffect, ...]:
        """What a coordinator does of that which its machine wants done."""
        return effects

    def is_undone(self, column: Column) -> bool:
        """Whether a participant answers that there is nothing left to undo."""
        return bool(column.undo) or column.work in NEVER

    def ending(self, column: Column) -> str:
        """What a participant answers to a step, or to the question how it ended; nothing before there is a row."""
        return column.work

    def gave_up(self, place: int) -> SagaEvent:
        """What becomes of a step that may be tried no more."""
        return GaveUp(place)

    # --- everything that can happen -----------------------------------------------------------------------------------

    def all(self, world: World) -> Iterator[Move]:
        """Every successor of a world."""
        for who, node in enumerate(world.nodes):
            if node.status == "up":
                yield from self.of_node(world, who, node)
                if world.crashes and _is_survived(world, who):
                    yield from self._crash(world, who, node)
            elif _may_start(world, who, node):
                yield from self._start(world, who, node)
        for place, column in enumerate(world.columns):
            awaited = self._awaited(world, place, column)
            for request in sorted(awaited if world.calm else awaited | column.sent):
                for label, after in self.at_participant(world, place, column, request):
                    yield label, request not in awaited, _put(world, place, after)
            yield from self._misfortunes(world, place, column)

    def of_node(self, world: World, who: int, node: Node) -> Iterator[Move]:
        name, journal = _NAMES[who], world.journal
        if who == OWNER and not node.phase and not journal.begun:
            begun = world._replace(journal=journal._replace(begun=True))
            yield f"the {name} begins", False, self._take(begun, who, machines.begin(self.drawn("starting")))
        if node.proposal:
            after = self._written(world, who, node)
            yield f"the journal answers the {name}'s {node.proposal}", False, after
        if node.phase in _IDLE:
            if who != OWNER and journal.fenced and not node.proposal and self.looks_again():
                yield from self._look(world, who, node)
            return
        if node.phase in ("starting", "forward") and not node.unwanted:
            yield f"the {name}'s deadline passes", True, self.feed(world, who, DeadlinePassed())
        for place, column in enumerate(world.columns):
            yield from self._hears(world, who, place, column)

    def _hears(self, world: World, who: int, place: int, column: Column) -> Iterator[Move]:
        """The answers that can reach a coordinator. One that it does not wait for any more counts as a failure: it must
        end without that."""
        name, phase, standing = _NAMES[who], world.nodes[who].phase, column.seats[who]
        ending = self.ending(column)
        if standing in ("running", "asked") and ending:
            event = Finished(place, machines.ENDINGS[ending])
            yield f"the {name} hears of step {place}: {ending}", phase != "forward", self.feed(world, who, event)
        if standing == "compensating" and self.is_undone(column):
            yield f"the {name} hears that step {place} is undone", False, self.feed(world, who, Compensated(place))
        if standing == "running" and phase == "forward":
            yield f"the {name} gives up step {place}", True, self.feed(world, who, self.gave_up(place))

    def _awaited(self, world: World, place: int, column: Column) -> frozenset[str]:
        """The requests that somebody repeats until they are answered. After the turn nobody repeats the work."""
        past = SHAPES[self.drawn("forward")].past_the_pivot(place)
        awaited = {"running": "must" if past else "work", "asked": "ask", "compensating": "undo"}
        return frozenset(
            awaited[seat]
            for node, seat in zip(world.nodes, column.seats, strict=True)
            if node.status == "up" and seat in awaited and (seat != "running" or node.phase == "forward")
        )

    # --- the journal --------------------------------------------------------------------------------------------------

    def _written(self, world: World, who: int, node: Node) -> World:
        """A proposal is written, or refused, and the answer arrives."""
        written = self._on_record(world, who, node.proposal)
        if written is None:
            return _died(world, who)
        written = _put_node(written, who, node._replace(proposal=""))
        match node.proposal:
            case "turn":
                return self.feed(written, who, Turned())
            case "presume":
                aborted = written.journal.decision == "abort"
                return written._replace(told=written.told | {"compensated"}) if aborted else written
            case _:
                return self.feed(written, who, Ruled(_RULINGS[written.journal.decision]))

    def _on_record(self, world: World, who: int, proposal: str) -> World | None:
        """The world with the proposal judged; None: the proposer is fenced."""
        journal, seen = world.journal, self.checked(world.journal, who)
        if proposal == "turn":
            if not machines.may_turn(seen, who):
                return None
            turned = "durable" if self.forced("turn") or journal.turned == "durable" else "written"
            return world._replace(journal=journal._replace(turned=turned))
        actual = machines.ruling(seen, who, proposal)
        if actual is None or actual == journal.decision:
            return None if actual is None else world
        return world._replace(journal=journal._replace(decision=actual, durable=self.forced(actual)))

    # --- coordinators -------------------------------------------------------------------------------------------------

    def feed(self, world: World, who: int, event: SagaEvent) -> World:
        """One event for one machine, and everything it wants done."""
        node = world.nodes[who]
        standings = tuple(column.seats[who] for column in world.columns)
        drawn = self.drawn(node.phase)
        return self._take(world, who, machines.step(drawn, node.phase, standings, event, unwanted=node.unwanted))

    def _take(self, world: World, who: int, outcome: machines.Outcome) -> World:
        phase, standings, unwanted, effects = outcome
        world = _put_node(world, who, world.nodes[who]._replace(phase=phase, unwanted=unwanted))
        columns = tuple(
            column._replace(seats=(*column.seats[:who], standing, *column.seats[who + 1 :]))
            for column, standing in zip(world.columns, standings, strict=True)
        )
        world = world._replace(columns=columns)
        for effect in self.wanted(world, effects):
            world = self.carry_out(world, who, effect)
        return world

    def carry_out(self, world: World, who: int, effect: does.SagaEffect) -> World:
        """What a machine wants done. Raises `Violated` if it must not be."""
        journal = world.journal
        match effect:
            case does.Propose():
                return _put_node(world, who, world.nodes[who]._replace(proposal="saga"))
            case does.Turn():
                if not any(c.work in NEVER and SHAPES[self.shape].may_refuse(n) for n, c in enumerate(world.columns)):
                    raise Violated("R1: it turns, and no row of a step that may refuse says that it is not done")
                return _put_node(world, who, world.nodes[who]._replace(proposal="turn"))
            case does.SendStep(place) | does.SendAsk(place) | does.SendCompensation(place):
                kind = _request(effect)
                if journal.decision != "saga":
                    raise Violated(f"R4: {kind} was sent for step {place}, and the start is not on record")
                if kind == "undo" and not journal.turned:
                    raise Violated(f"R4: step {place} is undone, and no turn is on record")
                column = world.columns[place]
                return _put(world, place, column._replace(sent=column.sent | {kind}))
            case does.TellDecided(committed):
                if not committed and journal.decision == "saga" and not journal.turned:
                    raise Violated("R4: a client was told of a turn that is not on record")
                return world._replace(told=world.told | {"completed" if committed else "compensated"})
            case does.TellUnreached():
                return world
            case does.End(committed):
                wrong = wrong_at_end(world, committed=committed)
                if wrong is not None:
                    raise Violated(wrong)
                ended = "completed" if committed else "compensated"
                return _put_node(world._replace(journal=journal._replace(ended=ended)), who, Node("up", "over"))

    def _start(self, world: World, who: int, node: Node) -> Iterator[Move]:
        started = world._replace(journal=world.journal._replace(fenced=True))
        started = _put_node(started, who, node._replace(status="up"))
        yield f"the {_NAMES[who]} starts", False, started
        if not self.looks_again():
            yield from self._look(started, who, started.nodes[who])

    def _look(self, world: World, who: int, node: Node) -> Iterator[Move]:
        """It finishes what another one left."""
        journal, name = world.journal, _NAMES[who]
        if journal.begun and not journal.decision:
            yield f"the {name} presumes an abort", False, _put_node(world, who, node._replace(proposal="presume"))
        if journal.decision == "saga" and not journal.ended:
            turned = self.backward(journal)
            for known in product(*(self.known(column, turned=turned) for column in world.columns)):
                outcome = machines.resume(self.drawn("forward"), known, turned=turned)
                said = ", ".join(f"step {place} {word}" for place, word in enumerate(known) if word) or "nothing"
                label = f"the {name} takes it up {'backward' if turned else 'forward'}, knowing {said}"
                yield label, False, self._take(world, who, outcome)

    # --- at the participants ------------------------------------------------------------------------------------------

    def at_participant(self, world: World, place: int, column: Column, request: str) -> Iterator[tuple[str, Column]]:
        """What a request can do: what is said of it, and the step afterwards. What changes nothing is left out."""
        match request:
            case "work" | "must" if not column.work:
                self.check_order(world, place)
                yield f"step {place} is done", column._replace(work="applied", done=column.done + 1)
                if request == "work":
                    yield f"step {place} is refused for good", column._replace(work="refused")
            case "ask" if not column.work:
                yield f"step {place} is barred by the question", column._replace(work="tombstone")
            case "undo" if not column.work:
                yield f"step {place} is barred by its compensation", column._replace(work="tombstone")
            case "undo" if column.work == "applied" and not column.undo:
                self.check_reverse(world, place)
                yield f"step {place} is undone", column._replace(undo="applied", undone=column.undone + 1)

    def check_order(self, world: World, place: int) -> None:
        """Raises `Violated` if a step is done before, or without, what it builds on."""
        for other in sorted(SHAPES[self.shape].before[place]):
            column = world.columns[other]
            if column.work != "applied" or column.undo:
                said = "undone" if column.undo else "not done"
                raise Violated(f"order: step {place} is done while step {other}, on which it builds, is {said}")

    def check_reverse(self, world: World, place: int) -> None:
        """Raises `Violated` if a step is undone before what builds on it."""
        for other in sorted(SHAPES[self.shape].behind[place]):
            column = world.columns[other]
            if column.work == "applied" and not column.undo:
                raise Violated(f"order: step {place} is undone while step {other}, which builds on it, is done")

    # --- failures -----------------------------------------------------------------------------------------------------

    def _crash(self, world: World, who: int, node: Node) -> Iterator[Move]:
        struck = world._replace(crashes=world.crashes - 1)
        worlds = [(f"the {_NAMES[who]} crashes", struck)]
        if node.proposal:
            written = self._on_record(struck, who, node.proposal)
            if written is not None and written != struck:
                worlds.append((f"the {_NAMES[who]} crashes while its {node.proposal} is written", written))
        for label, each in worlds:
            for left in _surviving(each.journal):
                yield label, True, _died(each._replace(journal=left), who)

    def _misfortunes(self, world: World, place: int, column: Column) -> Iterator[Move]:
        if world.failovers and column.work in NEVER:
            forgot = world._replace(failovers=world.failovers - 1, forgot=True)
            label = f"the participant of step {place} fails over and forgets: {column.work}"
            yield label, True, _put(forgot, place, column._replace(work=""))
        if world.hands and column.work == "applied" and not column.undo and "compensating" in column.seats:
            label = f"somebody takes the compensation of step {place} for done"
            resolved = world._replace(hands=world.hands - 1)
            yield label, True, _put(resolved, place, column._replace(undo="tombstone"))


def _surviving(journal: Journal) -> Iterator[Journal]:
    """What a crash may leave of the journal: the events ride in their order, so that only the last ones can be lost."""
    yield journal
    if journal.ended:
        journal = journal._replace(ended="")
        yield journal
    if journal.turned == "written":
        journal = journal._replace(turned="")
        yield journal
    if journal.turned:
        return
    if journal.decision and not journal.durable:
        journal = journal._replace(decision="")
        yield journal
    if journal.begun and not journal.decision:
        yield journal._replace(begun=False)


def _request(effect: does.SendStep | does.SendAsk | does.SendCompensation) -> str:
    match effect:
        case does.SendStep():
            return "must" if effect.must_succeed else "work"
        case does.SendAsk():
            return "ask"
        case does.SendCompensation():
            return "undo"


def _may_start(world: World, who: int, node: Node) -> bool:
    if world.calm and any(other.status == "up" for other in world.nodes):
        return False
    return node.status == "off" and not any(other.status == "off" for other in world.nodes[:who])


def _is_survived(world: World, who: int) -> bool:
    """Whether a coordinator that may turn it is left, or can be started, when this one dies: it is started again."""
    return any(node.status != "dead" for other, node in enumerate(world.nodes) if other not in (OWNER, who))


def _died(world: World, who: int) -> World:
    columns = (column._replace(seats=(*column.seats[:who], "", *column.seats[who + 1 :])) for column in world.columns)
    return _put_node(world._replace(columns=tuple(columns)), who, Node("dead"))


def _put_node(world: World, who: int, node: Node) -> World:
    return world._replace(nodes=(*world.nodes[:who], node, *world.nodes[who + 1 :]))


def _put(world: World, place: int, column: Column) -> World:
    return world._replace(columns=(*world.columns[:place], column, *world.columns[place + 1 :]))
