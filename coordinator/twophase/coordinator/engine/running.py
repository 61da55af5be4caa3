"""One two-phase commit under way: the machine's state, and the messages and writes that the machine asks for.

Lives here: carrying out effects, and turning answers into events. Must not live here: what follows from an event (that
is `protocol.twophase`), what sagas have in common with it (`underway`), request ids, recovery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from typing import assert_never

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Txid
from twophase.coordinator.engine import messages, reasons
from twophase.coordinator.engine.api import Call, Outcome, Result
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.underway import ANSWER_MARGIN, FINISH_SECONDS, Part, Surroundings, Underway
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import Ruling
from twophase.coordinator.protocol import twophase
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote
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
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)


class Running(Underway):
    """A two-phase commit until it has ended."""

    def __init__(
        self,
        around: Surroundings,
        txid: Txid,
        request: facts.RequestRef | None,
        parts: tuple[Part, ...],
        *,
        deadline: float = 0.0,
        in_turn: bool = False,
    ) -> None:
        """`deadline` is in seconds from its beginning; one that is taken up has none. `in_turn`: its branches prepare
        one after the other, in the order of `parts`."""
        super().__init__(around, txid, request, parts)
        self._seconds = deadline
        self._in_turn = in_turn
        self._state: twophase.State | None = None

    @property
    def state(self) -> twophase.State:
        """The machine's state. Raises RuntimeError before the transaction has begun."""
        if self._state is None:
            raise RuntimeError(f"transaction {self.txid} has not begun")
        return self._state

    @property
    def open(self) -> tuple[int, ...]:
        return self.state.open

    @property
    def outcome(self) -> Outcome:
        return Outcome.COMMITTED if self.committed else Outcome.ABORTED

    @property
    def heuristic(self) -> tuple[str, ...]:
        return tuple(self.parts[number].peer.name for number in self.state.heuristic)

    @property
    def _delegate(self) -> int | None:
        """The branch that the decision is delegated to."""
        return None if self.state.decision is None else self.state.decision.branch

    def is_done_with(self, branch: int) -> bool:
        """Whether it is decided by commit or abort, and does nothing more about this branch: that is over, as far as is
        known here, or was never known here."""
        return self.state.decision in (COMMIT, ABORT) and branch not in self.state.open

    def results(self, calls: Iterable[Call]) -> tuple[Result, ...]:
        left = {part.peer.name: list(part.results) for part in self.parts.values()}
        found = []
        for call in calls:
            if not left.get(call.participant):
                return ()
            found.append(Result(call.participant, call.operation, left[call.participant].pop(0)))
        return tuple(found)

    # --- beginning ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._start_the_clock(self._seconds)
        self._around.journal.append(facts.Begun(self.txid, self.request, self._branches()))
        plan = [twophase.Branch(part.number, part.read_only) for part in self.parts.values()]
        self._take(twophase.begin(plan, in_turn=self._in_turn))

    def refuse(self, reason: facts.Reason) -> None:
        self.reasons.append(reason)
        self.parts = {}
        self._around.journal.append(facts.Begun(self.txid, self.request, ()))
        self._take(twophase.refuse())

    def resume(self, decision: Decision, endings: Mapping[int, Ending]) -> None:
        """Takes up a transaction that was decided before."""
        self.resumed = True
        self._take(twophase.resume(decision, self.parts, endings))

    def stop(self, reason: facts.Reason) -> None:
        if self.state.phase is twophase.Phase.VOTING:
            self.reasons.append(reason)
            self.feed(RollbackAsked())

    def feed(self, event: Event) -> None:
        """Something happened."""
        self._take(twophase.step(self.state, event))

    def _time_is_up(self) -> None:
        if self.state.phase is twophase.Phase.VOTING:
            missing = self.state.branches(twophase.Standing.WORKING, twophase.Standing.READING)
            names = tuple(self.parts[number].peer.name for number in missing)
            self.reasons.append(reasons.deadline(self._seconds, names))
        self.feed(DeadlinePassed())

    # --- carrying out effects -----------------------------------------------------------------------------------------

    def _take(self, step: twophase.Step) -> None:
        self._state, effects = step
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendPrepare(branch):
                self._prepare(self.parts[branch])
            case SendApply(branch):
                self._apply(self.parts[branch])
            case SendCommit(branch):
                self._commit(self.parts[branch])
            case SendAbort(branch):
                self._abort(self.parts[branch], messages.abort(self.gid(branch)))
            case SendSettle(branch):
                self._abort(self.parts[branch], messages.settle(self.gid(branch)))
            case Propose(decision):
                self._propose(decision)
            case TellDecided(committed):
                if not committed:
                    self._give_a_reason_at_all()
                self._tell(committed=committed)
                self._release(held=committed)
            case TellUnreached():
                self._settle()
            case Alarm(branch, ending):
                self._raise_alarm(branch, ending)
            case End(committed):
                reach(CrashPoint.COORDINATOR_BEFORE_END)
                self._around.journal.append(
                    facts.Ended(self.txid, committed, self._why_not_applied(committed=committed))
                )
                reach(CrashPoint.COORDINATOR_AFTER_END)
                self._over()
            case _:
                assert_never(effect)

    def _why_not_applied(self, *, committed: bool) -> tuple[facts.Reason, ...]:
        """What the record of the decision could not say yet: the delegate's own reasons."""
        return () if committed or self._delegate is None else tuple(self.reasons)

    def _give_a_reason_at_all(self) -> None:
        """A delegate that was barred has none, and the coordinator that heard of its silence may be gone."""
        if not self.reasons and self._delegate is not None:
            self._give_reason(reasons.delegate_barred(self.parts[self._delegate].peer.name))

    def _raise_alarm(self, branch: int, ending: Ending) -> None:
        where, decision = self.parts[branch].peer.name, self.state.decision
        _log.critical(
            "heuristic outcome: branch %s at %s is %s, decided was %s", self.gid(branch), where, ending.value, decision
        )
        # It stays until a person forgets it (R11): the record must not be lost with the machine.
        self._around.tasks.spawn(self._around.journal.flush(), name=f"keep the alarm of {self.gid(branch)}")

    def _propose(self, decision: Decision) -> None:
        if decision != ABORT and self._has_votes_of_before_a_failover():
            decision = ABORT
        reach(CrashPoint.COORDINATOR_BEFORE_DECIDE)
        self._follow(self._decide(decision, self._hearers(decision)), self._is_ruled)

    def _has_votes_of_before_a_failover(self) -> bool:
        """Whether a participant that has voted answers on another timeline by now: what it had prepared may be lost."""
        stale = [part for part in self.parts.values() if part.timeline not in (None, part.peer.record.timeline)]
        for part in stale:
            self._give_reason(reasons.not_counted(part.peer.name, "its server failed over after it"))
        return bool(stale)

    def _is_ruled(self, ruling: asyncio.Future[Ruling]) -> None:
        ruled = self._obey(ruling.result())
        reach(CrashPoint.COORDINATOR_AFTER_DECIDE)
        self.feed(Ruled(ruled))

    def _hearers(self, decision: Decision) -> tuple[facts.BranchRef, ...]:
        """The branches that recovery must tell of the decision."""
        numbers = {*self.state.open, decision.branch}
        return tuple([branch for branch in self._branches() if branch.number in numbers])

    # --- messages -----------------------------------------------------------------------------------------------------

    def _prepare(self, part: Part) -> None:
        left, position = self._time_left(), self._around.journal.position
        request = messages.prepare(self.gid(part.number), part.calls, time_left=left, position=position)
        reach(CrashPoint.COORDINATOR_BEFORE_PREPARE)
        asked = part.peer.link.prepare(request, timeout=left + ANSWER_MARGIN)
        self._follow(asked, partial(self._is_prepared, part))

    def _is_prepared(self, part: Part, asked: asyncio.Future[participant_pb2.PrepareResponse]) -> None:
        vote = self._vote(part, asked)
        self._around.journal.append(facts.Voted(self.txid, part.number, vote))
        self.feed(Voted(part.number, vote))

    def _vote(self, part: Part, asked: asyncio.Future[participant_pb2.PrepareResponse]) -> Vote:
        try:
            answer = asked.result()
        except LinkLost as error:
            self._give_reason(reasons.unreachable(part.peer.name, str(error)))
            return Vote.LOST
        reach(CrashPoint.COORDINATOR_AFTER_VOTE)
        vote = messages.vote_in(answer)
        if vote is Vote.NO:
            self._give_reason(reasons.from_refusal(answer.refusal, participant=part.peer.name))
            return vote
        if not part.peer.speaks_for(answer.identity):
            self._around.peers.changed(part.peer)
            self._give_reason(reasons.not_counted(part.peer.name, "it comes from another database or timeline"))
            return Vote.LOST
        if vote is not (Vote.READ_ONLY if part.read_only else Vote.YES):
            self._around.peers.changed(part.peer)  # it may have been deployed anew, with another declaration
            declared = "read-only" if part.read_only else "writing"
            self._give_reason(reasons.not_counted(part.peer.name, f"{vote.value!r} is no vote of a {declared} branch"))
            return Vote.LOST
        part.keep(answer.results)
        part.timeline = answer.identity.timeline
        return vote

    def _apply(self, part: Part) -> None:
        left, position = self._time_left(), self._around.journal.position
        request = messages.apply(self.gid(part.number), part.calls, time_left=left, position=position)
        reach(CrashPoint.COORDINATOR_BEFORE_APPLY)
        asked = part.peer.link.apply(request, timeout=left + ANSWER_MARGIN)
        self._follow(asked, partial(self._is_applied, part))

    def _is_applied(self, part: Part, asked: asyncio.Future[participant_pb2.ApplyResponse]) -> None:
        try:
            answer = asked.result()
        except LinkLost as error:
            self._give_reason(reasons.unreachable(part.peer.name, str(error)))
            self.feed(ApplyLost(part.number))
            return
        reach(CrashPoint.COORDINATOR_AFTER_APPLY)
        if answer.HasField("refusal"):
            self._give_reason(reasons.from_refusal(answer.refusal, participant=part.peer.name))
        ending = messages.ending_in(answer)
        if ending is None or not part.peer.speaks_for(answer.identity):
            # A refusal for this time leaves no row, and an answer from elsewhere proves nothing: only a row counts.
            self.feed(ApplyLost(part.number))
            return
        part.keep(answer.results)
        self._finish(part, ending)

    def _commit(self, part: Part) -> None:
        request = messages.commit(self.gid(part.number))

        def send() -> Awaitable[participant_pb2.CommitResponse]:
            reach(CrashPoint.COORDINATOR_BEFORE_COMMIT)
            return part.peer.link.commit(request, timeout=FINISH_SECONDS)

        def read(answer: participant_pb2.CommitResponse) -> Ending:
            reach(CrashPoint.COORDINATOR_AFTER_COMMIT)
            return self._ending(part, answer)

        self._repeat(part, send, read, partial(self._finish, part))

    def _abort(self, part: Part, request: participant_pb2.AbortRequest) -> None:
        settles = request.decision == types_pb2.DECISION_DELEGATED

        def send() -> Awaitable[participant_pb2.AbortResponse]:
            reach(CrashPoint.COORDINATOR_BEFORE_SETTLE if settles else CrashPoint.COORDINATOR_BEFORE_ABORT)
            return part.peer.link.abort(request, timeout=FINISH_SECONDS)

        def read(answer: participant_pb2.AbortResponse) -> Ending:
            reach(CrashPoint.COORDINATOR_AFTER_SETTLE if settles else CrashPoint.COORDINATOR_AFTER_ABORT)
            ending = self._ending(part, answer)
            part.keep(answer.results)
            if answer.HasField("refusal"):
                self._give_reason(reasons.from_refusal(answer.refusal, participant=part.peer.name))
            return ending

        self._repeat(part, send, read, partial(self._finish, part))

    def _ending(self, part: Part, answer: participant_pb2.CommitResponse | participant_pb2.AbortResponse) -> Ending:
        """The ending an answer tells. One that tells none, or comes from another database, is no answer."""
        ending = messages.ending_in(answer)
        if ending is None:
            raise LinkLost(f"participant {part.peer.name!r} answered without an outcome")
        self._believe(part, answer)
        return ending

    def _unanswered(self, part: Part) -> None:
        self.feed(Unreached(part.number))

    def _finish(self, part: Part, ending: Ending) -> None:
        self._around.journal.append(facts.Finished(self.txid, part.number, ending))
        self.feed(Finished(part.number, ending))
