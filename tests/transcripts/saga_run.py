"""Sagas in a transcript: the real machine, its effects carried out and drawn, answers fed as events.

Lives here: one saga under way. Must not live here: any rule of the protocol, which is `protocol.saga`.

A step is sent as `apply`, as delegated work is; asking how it ended is `settle`; compensating it is `undo`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.participants import NOTHING_TO_UNDO
from transcripts.pending import Pending
from transcripts.wire import Request, Transaction
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import JournalError, Ruling
from twophase.coordinator.protocol import saga
from twophase.coordinator.protocol.decisions import ABORT, Ending
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
    Finished,
    Ruled,
    SagaEvent,
    Turned,
    Unreached,
)
from twophase.coordinator.protocol.graph import Graph, Step, graph

_OVER = (saga.Phase.COMPLETED, saga.Phase.COMPENSATED, saga.Phase.ABORTED)
_ENDINGS = {ending.value: ending for ending in Ending}


@dataclass(eq=False, slots=True)
class SagaRun:
    """A saga under way. `client` is who hears of its outcome."""

    at: Coordinator
    of: Transaction
    client: str
    definition: facts.Definition
    state: saga.State

    @classmethod
    def begin(cls, at: Coordinator, of: Transaction, definition: facts.Definition) -> None:
        """Begins it: nothing is sent before its start is durable."""
        cls._start(at, of, of.client, definition, saga.begin(shape_of(definition)))

    @classmethod
    def refuse(cls, at: Coordinator, of: Transaction, definition: facts.Definition) -> None:
        """Ends it before anybody is told."""
        at.write(facts.Begun(of.txid, of.request, ()), of.titled("begun"))
        state = saga.State(saga.Phase.STARTING, shape_of(definition), ())
        cls._start(at, of, of.client, definition, (state, (Propose(ABORT),)))

    @classmethod
    def resume(cls, at: Coordinator, of: Transaction, record: facts.TransactionRecord) -> None:
        """Takes it up from the journal, where it stands."""
        definition = record.definition
        assert definition is not None
        by_hand = {} if record.turned else dict.fromkeys(record.resolved, Ending.APPLIED)
        undone = {*record.compensated, *(record.resolved if record.turned else ())}
        known = record.endings | by_hand
        step = saga.resume(shape_of(definition), known, turned=record.turned, compensated=undone)
        cls._start(at, of, "clients", definition, step)

    @classmethod
    def _start(
        cls, at: Coordinator, of: Transaction, client: str, definition: facts.Definition, step: saga.Step
    ) -> None:
        run = cls(at, of, client, definition, step[0])
        at.runs[of.txid] = run
        run._take(step)

    @property
    def live(self) -> bool:
        """See `Run`."""
        return self.state.phase not in _OVER

    def feed(self, event: SagaEvent) -> None:
        """Something happened."""
        self._take(saga.step(self.state, event))

    # --- what happens -----------------------------------------------------------------------------------------------

    def answered(self, request: Request, said: str) -> None:
        """See `Waiter`. What left no row is tried again, and so is what must succeed until it does."""
        number = self.of.branch_at(request.to)
        must_succeed = request.what == "apply" and self.state.graph.past_the_pivot(number)
        if said == "retry" or (must_succeed and said != Ending.APPLIED.value):
            self.at.again(request)
        elif request.what == "undo":
            undone = facts.Compensated(self.of.txid, number, said == NOTHING_TO_UNDO)
            self.at.write(undone, self.of.titled(f"{request.to} {said}"))
            self.feed(Compensated(number))
        else:
            self.at.stage.sights.add(_ENDINGS[said])
            finished = facts.Finished(self.of.txid, number, _ENDINGS[said])
            self.at.write(finished, self.of.titled(f"{request.to} {said}"))
            self.feed(Finished(number, _ENDINGS[said]))

    def unanswered(self, request: Request) -> None:
        """See `Waiter`. Everything of a saga is repeated."""
        self.feed(Unreached(self.of.branch_at(request.to)))
        if request.waiter is self:
            self.at.again(request)

    def ruled(self, ruling: Ruling) -> None:
        """See `Ruled`."""
        self.feed(Ruled(ruling.decision))

    def refused(self, error: JournalError) -> None:
        """See `Ruled`: the owner of a saga is refused only when its epoch is fenced, and is dead then."""
        raise AssertionError(f"the owner was refused: {error}")

    def take_for_done(self, number: int) -> None:
        """A person says that a step, or its compensation, is done."""
        self.at.write(
            facts.Resolved(self.of.txid, number, "somebody", "it is done"),
            self.of.titled(f"{self.of.places[number]} taken for done by somebody"),
        )
        self._leave(number)
        self.feed(Compensated(number) if self.state.phase is saga.Phase.BACKWARD else Finished(number, Ending.APPLIED))

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _take(self, step: saga.Step) -> None:
        self.state, effects = step
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: SagaEffect) -> None:
        match effect:
            case Propose(decision):
                branches = tuple(self.of.ref(number) for number in range(len(self.of.places)))
                self.at.propose(self.of, decision, branches, self, definition=self.definition)
            case SendStep(step):
                self._ask(step, "apply")
            case SendAsk(step):
                self._ask(step, "settle")
            case SendCompensation(step):
                self._ask(step, "undo")
            case Turn():
                self.at.hand_over(Turning(self), "turn")
            case TellDecided(committed):
                self.at.draw(Arrow.SENT, self.client, self.of.titled(self._outcome(committed=committed)))
            case TellUnreached():
                away = ", ".join(self.of.places[n] for n in self.state.steps(saga.Standing.COMPENSATING))
                self.at.draw(Arrow.SENT, self.client, self.of.titled(f"{away} is out of reach"))
            case End(committed):
                ended = f"ended, {self._outcome(committed=committed)}"
                self.at.write(facts.Ended(self.of.txid, committed), self.of.titled(ended))
                self.at.abandon(self.of)

    def _ask(self, number: int, what: str) -> None:
        """Asks something of a step; whatever was asked before is waited for no more, and may still arrive."""
        self._leave(number)
        self.at.ask(self.of, number, what, self)

    def _leave(self, number: int) -> None:
        for request in self.at.sent:
            if request.of is self.of and request.to == self.of.places[number]:
                request.waiter = None

    def _outcome(self, *, committed: bool) -> str:
        if committed:
            return "committed"
        return "aborted" if self.state.decision == ABORT else "compensated"


class Turning(Pending):
    """A turn on its way to the journal."""

    def __init__(self, run: SagaRun) -> None:
        super().__init__(run.at, run.of)
        self._run = run

    @property
    def said(self) -> str:
        """See `Pending`."""
        return "turn"

    def judge_and_write(self) -> bool:
        """See `Pending`. A turn is written once, and always forced."""
        turned = facts.Turned(self.of.txid)
        disk = self.at.stage.disk
        disk.judge_turn(turned, self.at.epoch)
        record = disk.state.record(self.of.txid)
        if record is not None and not record.turned:
            disk.write(turned)
        return True

    def go_on(self) -> None:
        """See `Pending`."""
        self._run.feed(Turned())

    def stop(self, error: JournalError) -> None:
        """See `Pending`."""
        raise AssertionError(f"a saga that was taken up cannot turn: {error}")


def shape_of(definition: facts.Definition) -> Graph:
    """The graph of a definition. Raises `Malformed`."""
    return graph(Step(number, frozenset(step.after), step.pivot) for number, step in enumerate(definition.steps))
