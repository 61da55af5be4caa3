"""One saga under way: the machine's state, and the messages and writes that the machine asks for.

Lives here: carrying out effects, turning answers into events, and trying again what left no row. Must not live here:
what follows from an event (that is `protocol.saga`), what two-phase commit has in common with it (`underway`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar, assert_never

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Txid
from twophase.coordinator.engine import messages, reasons
from twophase.coordinator.engine.api import Call, Outcome, Result
from twophase.coordinator.engine.barring import bar
from twophase.coordinator.engine.links import LinkFailed, LinkLost
from twophase.coordinator.engine.policies import Policy, policy_of
from twophase.coordinator.engine.trying import NotThisTime, Trying
from twophase.coordinator.engine.underway import (
    ANSWER_MARGIN,
    FINISH_SECONDS,
    UNBOUNDED,
    Part,
    Surroundings,
    Underway,
)
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import Ruling
from twophase.coordinator.protocol import saga
from twophase.coordinator.protocol.decisions import ABORT, Decision, Ending
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
    Ruled,
    SagaEvent,
    Turned,
    Unreached,
)
from twophase.coordinator.protocol.graph import Graph, Step, graph
from twophase.v1 import participant_pb2, types_pb2

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SagaUnderway(Underway):
    """A saga until every step of it is done or undone. Each part is one step, with one call."""

    def __init__(
        self,
        around: Surroundings,
        txid: Txid,
        request: facts.RequestRef | None,
        parts: tuple[Part, ...],
        *,
        deadline: float,
    ) -> None:
        """`deadline` is in seconds, from its start and from every resumption."""
        super().__init__(around, txid, request, parts)
        self._state: saga.State | None = None
        self._graph = graph_of(part.calls[0] for part in parts)
        self._definition = _definition(parts, deadline)
        self._trying: dict[int, Trying] = {}
        self._resolved: frozenset[int] = frozenset()

    @classmethod
    def of(cls, around: Surroundings, record: facts.TransactionRecord) -> SagaUnderway | None:
        """The saga of a record, to be resumed; None if one of its participants is not known."""
        definition = record.definition
        if definition is None:
            raise ValueError(f"the record of {record.txid} does not say what saga it is")
        parts = []
        for number, step in enumerate(definition.steps):
            peer = around.peers.get(step.participant)
            if peer is None:
                _log.critical("saga %s has a step at %s, which is not known", record.txid, step.participant)
                return None
            payload = types_pb2.Payload.FromString(step.payload)
            call = Call(step.participant, step.operation, payload, step.name, step.after, step.pivot)
            parts.append(Part(number, peer, (call,)))
        return cls(around, record.txid, record.request, tuple(parts), deadline=definition.deadline / 1000)

    @property
    def state(self) -> saga.State:
        """The machine's state. Raises RuntimeError before the saga has begun."""
        if self._state is None:
            raise RuntimeError(f"saga {self.txid} has not begun")
        return self._state

    @property
    def open(self) -> tuple[int, ...]:
        return self.state.open

    @property
    def outcome(self) -> Outcome:
        if self.committed:
            return Outcome.COMMITTED
        return Outcome.ABORTED if self.state.decision == ABORT else Outcome.COMPENSATED

    def results(self, calls: Iterable[Call]) -> tuple[Result, ...]:
        found = []
        for number, call in enumerate(calls):
            part = self.parts.get(number)
            if part is None or not part.results:
                return ()
            found.append(Result(call.participant, call.operation, part.results[0]))
        return tuple(found)

    # --- beginning ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """As in `Underway`; nothing is sent before its start is durable."""
        self._start_the_clock(self._definition.deadline / 1000)
        self._take(saga.begin(self._graph))

    def refuse(self, reason: facts.Reason) -> None:
        self.reasons.append(reason)
        self.parts = {}
        self._around.journal.append(facts.Begun(self.txid, self.request, ()))
        self._state = saga.State(saga.Phase.STARTING, self._graph, ())
        self._carry_out(Propose(ABORT))

    def resume(self, record: facts.TransactionRecord) -> None:
        """Takes up a saga that was started before: forward first, unless it has turned (R8)."""
        self.resumed = True
        self.reasons.extend(record.reasons)
        self._start_the_clock(self._definition.deadline / 1000)
        self._resolved = frozenset(record.resolved)
        undone = frozenset(record.compensated)
        self._take(saga.resume(self._graph, record.endings, turned=record.turned, compensated=undone))

    def stop(self, reason: facts.Reason) -> None:
        """Nothing: the next start takes it up where it stands, and nobody waits for it meanwhile."""

    def feed(self, event: SagaEvent) -> None:
        """Something happened."""
        self._take(saga.step(self.state, event))

    @property
    def goes_back(self) -> bool:
        """Whether it has turned: what is under way are compensations."""
        return self.state.phase is saga.Phase.BACKWARD

    def try_again(self, number: int) -> None:
        """Tries a step, or its compensation, again at once if it is waiting for that, and counts its failures anew."""
        trying = self._trying.get(number)
        if trying is not None:
            trying.failures, trying.told = 0, False
            trying.again.set()

    def claims_the_word(self, number: int) -> bool:
        """Whether nobody has said before that the step, or its compensation, is done. From now on somebody has."""
        first, self._resolved = number not in self._resolved, self._resolved | {number}
        return first

    def take_for_done(self, number: int) -> None:
        """A person said that the step, or its compensation, is done; it is tried no more."""
        self._leave(number)
        if self.goes_back:
            self.feed(Compensated(number))
        else:
            self.feed(Finished(number, Ending.APPLIED))

    def _time_is_up(self) -> None:
        if self.state.phase in (saga.Phase.STARTING, saga.Phase.FORWARD) and not self.state.certain:
            names = tuple(dict.fromkeys(self.parts[number].peer.name for number in self.state.open))
            self._give_reason(reasons.saga_deadline(self._seconds, names))
        self.feed(DeadlinePassed())

    # --- carrying out effects -----------------------------------------------------------------------------------------

    def _take(self, step: saga.Step) -> None:
        self._state, effects = step
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: SagaEffect) -> None:
        match effect:
            case Propose(decision):
                self._propose(decision)
            case SendStep(number) | SendCompensation(number) if number in self._resolved:
                self._try(number, "bar", self._take_at_his_word)
            case SendStep(number, must_succeed):
                self._try(number, "step", lambda part: self._step(part, must_succeed=must_succeed))
            case SendAsk(number):
                self._try(number, "ask", self._ask)
            case SendCompensation(number):
                self._try(number, "compensate", self._compensate)
            case Turn():
                self._give_a_reason_at_all()
                self._around.tasks.spawn(self._turn(), name=f"turn {self.txid}")
            case TellDecided(committed):
                self._tell(committed=committed)
                if committed:
                    self._release(held=True)
            case TellUnreached():
                self._settle()
            case End(committed):
                reach(CrashPoint.SAGA_BEFORE_END)
                self._around.journal.append(facts.Ended(self.txid, committed))
                reach(CrashPoint.SAGA_AFTER_END)
                self._release(held=committed)
                self._over()
            case _:
                assert_never(effect)

    def _try(self, number: int, what: str, work: Callable[[Part], Awaitable[None]]) -> None:
        """Begins something about a step; whatever was tried about it before is given up, and is settled by this."""
        self._leave(number)

        async def run() -> None:
            await work(self.parts[number])

        trying = self._trying[number] = Trying()
        trying.task = self._spawn(what, number, run())

    def _leave(self, number: int) -> None:
        trying = self._trying.pop(number, None)
        if trying is not None and trying.task is not None and trying.task is not asyncio.current_task():
            trying.task.cancel()

    def _propose(self, decision: Decision) -> None:
        reach(CrashPoint.SAGA_BEFORE_START)
        self._follow(self._decide(decision, self._branches(), self._definition), self._is_ruled)

    def _is_ruled(self, ruling: asyncio.Future[Ruling]) -> None:
        ruled = self._obey(ruling.result())
        reach(CrashPoint.SAGA_AFTER_START)
        self.feed(Ruled(ruled))

    def _give_a_reason_at_all(self) -> None:
        """The coordinator that heard why may have died before it wrote that down, which it does when it turns."""
        if not self.reasons:
            part = self.parts[self.state.steps(saga.Standing.REFUSED, saga.Standing.BARRED)[0]]
            self._give_reason(reasons.not_written_down(part.peer.name, part.calls[0].operation))

    async def _turn(self) -> None:
        reach(CrashPoint.SAGA_BEFORE_TURN)
        await self._around.journal.turn(facts.Turned(self.txid, tuple(self.reasons)))
        reach(CrashPoint.SAGA_AFTER_TURN)
        self.feed(Turned())

    # --- messages -----------------------------------------------------------------------------------------------------

    async def _step(self, part: Part, *, must_succeed: bool) -> None:
        gid = self.gid(part.number)

        async def attempt() -> Ending:
            longest = self._policy(part).attempt_deadline
            left = longest if must_succeed else min(longest, self._time_left())
            position = self._around.journal.position
            request = messages.step(gid, part.calls, time_left=left, position=position, must_succeed=must_succeed)
            reach(CrashPoint.SAGA_BEFORE_STEP)
            answer = await self._apply(part, request, timeout=left + ANSWER_MARGIN, for_ever=must_succeed)
            reach(CrashPoint.SAGA_AFTER_STEP)
            self._believe(part, answer)
            ending = messages.ending_in(answer)
            if ending is None or (must_succeed and ending is not Ending.APPLIED):
                raise NotThisTime(self._reason(part, answer, ending))
            if answer.HasField("refusal"):
                self._give_reason(self._reason(part, answer, ending))
            part.keep(answer.results)
            return ending

        async def once() -> Ending:
            return await self._until_answered(part, attempt, slots=UNBOUNDED)

        try:
            ending = await self._persist(part, once, for_ever=must_succeed)
        except NotThisTime as last:
            self._give_reason(last.reason)
            self.feed(GaveUp(part.number))
            return
        self._finish(part, ending)

    async def _ask(self, part: Part) -> None:
        request = messages.settle(self.gid(part.number))

        async def attempt() -> Ending:
            reach(CrashPoint.SAGA_BEFORE_ASK)
            answer = await part.peer.link.abort(request, timeout=FINISH_SECONDS)
            reach(CrashPoint.SAGA_AFTER_ASK)
            self._believe(part, answer)
            ending = messages.ending_in(answer)
            if ending is None:
                raise LinkLost(f"participant {part.peer.name!r} answered without an outcome")
            if answer.HasField("refusal"):
                self._give_reason(reasons.from_refusal(answer.refusal, participant=part.peer.name))
            part.keep(answer.results)
            return ending

        self._finish(part, await self._until_answered(part, attempt))

    async def _compensate(self, part: Part) -> None:
        gid = self.gid(part.number)

        async def attempt() -> bool:
            position = self._around.journal.position
            left = self._policy(part).attempt_deadline
            request = messages.compensation(gid, part.calls, time_left=left, position=position)
            reach(CrashPoint.SAGA_BEFORE_COMPENSATE)
            answer = await self._apply(part, request, timeout=left + ANSWER_MARGIN, for_ever=True)
            reach(CrashPoint.SAGA_AFTER_COMPENSATE)
            self._believe(part, answer)
            ending = messages.ending_in(answer)
            if ending not in (Ending.APPLIED, Ending.ABORTED):
                raise NotThisTime(self._reason(part, answer, ending))
            return ending is Ending.ABORTED

        async def once() -> bool:
            # Undoing is work, too: where it waits for a row, it must not keep the commit waiting that frees it (R13).
            return await self._until_answered(part, attempt, slots=UNBOUNDED)

        empty = await self._persist(part, once, for_ever=True)
        self._trying.pop(part.number, None)
        self._around.journal.append(facts.Compensated(self.txid, part.number, empty))
        self.feed(Compensated(part.number))

    async def _take_at_his_word(self, part: Part) -> None:
        """A person took it for done before a crash; whether it was barred then, nobody wrote down."""
        with contextlib.suppress(LinkLost):
            await self._around.peers.greet(part.peer, within=FINISH_SECONDS)
        await bar(part.peer, self.gid(part.number), compensation=self.goes_back)
        self.take_for_done(part.number)

    async def _apply(
        self, part: Part, request: participant_pb2.ApplyRequest, *, timeout: float, for_ever: bool
    ) -> participant_pb2.ApplyResponse:
        """What is repeated for ever counts a status as a failure: somebody must hear of it."""
        try:
            return await part.peer.link.apply(request, timeout=timeout)
        except LinkFailed as error:
            if not for_ever:
                raise
            part.peer.doubted.set()
            self._unanswered(part)
            raise NotThisTime(reasons.failed(part.peer.name, part.calls[0].operation, str(error))) from error

    async def _persist(self, part: Part, once: Callable[[], Awaitable[T]], *, for_ever: bool) -> T:
        """Repeats what left no row, as the policy says. Raises the last `NotThisTime`."""
        trying, policy = self._trying[part.number], partial(self._policy, part)

        def failed(failures: int, error: BaseException) -> None:
            part.attempts, part.last_error = failures, str(error)
            _log.info("%s failed, time %d: %s", self.gid(part.number), failures, error)
            if for_ever and not trying.told and failures >= policy().attempts and isinstance(error, NotThisTime):
                trying.told = True
                self._dead_letter(part, failures, error.reason)

        return await trying.persist(policy, once, failed, for_ever=for_ever)

    def _dead_letter(self, part: Part, failures: int, reason: facts.Reason) -> None:
        what = "compensation of step" if self.goes_back else "step"
        _log.critical(
            "dead letter: %s %r of saga %s has failed %d times at %s (%s: %s); it is tried again. Look at it with:"
            " twophase saga dead show %s %s",
            *(what, part.calls[0].step, self.txid, failures, part.peer.name, reason.code, reason.message),
            *(self.txid, part.calls[0].step),
        )
        self._around.journal.append(facts.DeadLettered(self.txid, part.number, failures, reason))
        self._settle()  # a person is waited for now: no reason to let the client wait, too

    def _unanswered(self, part: Part) -> None:
        self.feed(Unreached(part.number))

    def _finish(self, part: Part, ending: Ending) -> None:
        self._trying.pop(part.number, None)
        self._around.journal.append(facts.Finished(self.txid, part.number, ending))
        self.feed(Finished(part.number, ending))

    def _policy(self, part: Part) -> Policy:
        """As the participant last said; nothing is known of one that has not shaken hands yet."""
        operations = part.peer.operations or {}
        return policy_of(operations.get(part.calls[0].operation))

    def _reason(self, part: Part, answer: participant_pb2.ApplyResponse, ending: Ending | None) -> facts.Reason:
        if answer.HasField("refusal"):
            return reasons.from_refusal(answer.refusal, participant=part.peer.name)
        return reasons.barred(part.peer.name, part.calls[0].operation, ending)


def graph_of(calls: Iterable[Call]) -> Graph:
    """The shape of a saga. Raises `Malformed`."""
    return graph(Step(number, frozenset(call.after), call.pivot) for number, call in enumerate(calls))


def _definition(parts: tuple[Part, ...], deadline: float) -> facts.Definition:
    steps = []
    for part in parts:
        (call,) = part.calls
        payload = call.payload.SerializeToString(deterministic=True)
        steps.append(facts.SagaStep(call.step, call.participant, call.operation, payload, call.after, call.pivot))
    return facts.Definition(tuple(steps), round(deadline * 1000))
