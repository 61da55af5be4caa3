"""Coordinators and journals with one thing wrong.

Lives here: what is wrong with each. Must not live here: which setting shows it (`bugs`).
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine import messages, peers, supervisor
from twophase.coordinator.engine.api import Answer, Submission
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.running import Running
from twophase.coordinator.engine.supervisor import Supervisor
from twophase.coordinator.engine.underway import Part
from twophase.coordinator.journal import memory_state, rules
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.memory_state import State
from twophase.coordinator.journal.pruning import Candidate
from twophase.coordinator.protocol.decisions import ABORT, Decision, Ending, Vote
from twophase.coordinator.protocol.events import ApplyLost, Event, Finished, Ruled
from twophase.v1 import participant_pb2 as pb

# --- the journal ------------------------------------------------------------------------------------------------------


class AnswersBeforeTheSync(MemoryJournal):
    """A decision is answered before it is on disk."""

    async def _force(self) -> None:
        return


class ActsOnWhatItReads(MemoryJournal):
    """What can be read when it opens counts as durable; the epoch that it gives itself does, too."""

    async def _force(self) -> None:
        if self._disk.holder is self and not self._opened:
            self._opened = True
            return
        await super()._force()

    _opened = False


def fence_is_not_checked() -> AbstractContextManager[Any]:
    """The journal takes a decision from a fenced owner. Nets below it: what is decided is not overwritten, so it shows
    only where an abort that was not forced is lost, and its owner was not dead but stood still."""
    return patch.object(rules, "_check_proposer", lambda *_: None)


class _NobodyJoins(dict[str, Any]):
    """Requests under way of which a copy finds nothing."""

    def get(self, key: str, default: Any = None) -> Any:
        return default

    def __delitem__(self, key: str) -> None:
        self.pop(key, None)


def request_id_is_not_claimed() -> AbstractContextManager[Any]:
    """A commit does not take its request id. The net below it is cut, too: in one process a copy of a request that is
    running joins it, so that two of them never get as far as a commit."""
    begin = Engine.__init__

    def forgetful(self: Engine, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self._admissions = _NobodyJoins()

    stack = ExitStack()
    stack.enter_context(patch.object(rules, "claims_request", lambda _: False))
    stack.enter_context(patch.object(memory_state, "claims_request", lambda _: False))
    stack.enter_context(patch.object(Engine, "__init__", forgetful))
    return stack


def pruning_forgets_heuristics() -> AbstractContextManager[Any]:
    """A mixed outcome is pruned like any other."""
    candidates, forget = State.candidates, State._forget

    def hasty(self: State, epoch: Epoch) -> list[Candidate]:
        return [replace(candidate, kept=False) for candidate in candidates(self, epoch)]

    def forgetting(self: State, txid: Txid) -> None:
        self.contradicted.discard(txid)
        forget(self, txid)

    return patch.multiple(State, candidates=hasty, _forget=forgetting)


# --- the coordinator --------------------------------------------------------------------------------------------------


def lost_is_yes() -> AbstractContextManager[Any]:
    """A vote that was lost counts as yes."""
    vote = Running._vote

    def lenient(self: Running, part: Part, asked: asyncio.Future[pb.PrepareResponse]) -> Vote:
        found = vote(self, part, asked)
        return Vote.YES if found is Vote.LOST else found

    return patch.object(Running, "_vote", lenient)


def abort_is_not_decided() -> AbstractContextManager[Any]:
    """An abort is carried out without a word to the journal."""
    propose = Running._propose

    def hasty(self: Running, decision: Decision) -> None:
        if decision == ABORT:
            self._loop.call_soon(self.feed, Ruled(ABORT))
        else:
            propose(self, decision)

    return patch.object(Running, "_propose", hasty)


def unanswered_delegate_is_refused() -> AbstractContextManager[Any]:
    """A delegate that does not answer is taken to have refused."""
    feed = Running.feed

    def hasty(self: Running, event: Event) -> None:
        feed(self, Finished(event.branch, Ending.ABORTED) if isinstance(event, ApplyLost) else event)

    return patch.object(Running, "feed", hasty)


def no_sweeps() -> AbstractContextManager[Any]:
    """Nobody looks for what was left behind."""
    return patch.object(Supervisor, "watch", lambda *_: None)


def sweeps_believe_everybody() -> AbstractContextManager[Any]:
    """From which database and timeline an answer comes counts for votes, and not in a sweep."""
    return patch.object(supervisor, "_believe", lambda *_: None)


def failover_is_no_alarm() -> AbstractContextManager[Any]:
    """A participant's new timeline is taken note of, and nobody is told."""
    return patch.object(peers, "_alarm_of_another_timeline", lambda *_: None)


def heuristic_is_no_alarm() -> AbstractContextManager[Any]:
    """A branch that ended against the decision is written down, and nobody is told."""
    return patch.object(Running, "_raise_alarm", lambda *_: None)


def deadline_aborts_without_deciding() -> AbstractContextManager[Any]:
    """At the deadline the branches are rolled back, though a commit may be on its way to the journal."""
    time_is_up = Running._time_is_up

    def hasty(self: Running) -> None:
        if self.committed is None:
            for part in self.parts.values():
                self._around.tasks.spawn(roll_back(part, messages.abort(self.gid(part.number))), name="roll back")
        time_is_up(self)

    async def roll_back(part: Part, request: pb.AbortRequest) -> None:
        with suppress(LinkLost):
            await part.peer.link.abort(request, timeout=1.0)

    return patch.object(Running, "_time_is_up", hasty)


def live_is_read_first() -> AbstractContextManager[Any]:
    """A sweep reads which transactions are live before it reads what is prepared. The net below it is cut, too: right
    before it presumes an abort it would look again. The money is safe all the same, since the first decision wins."""
    early: ContextVar[frozenset[Txid] | None] = ContextVar("early", default=None)
    sweep, names, contains = Supervisor.sweep, Live.names, Live.__contains__

    async def hasty(self: Supervisor, peer: Peer) -> None:
        read = early.set(self._live.names())
        try:
            await sweep(self, peer)
        finally:
            early.reset(read)

    def names_then(self: Live) -> frozenset[Txid]:
        read = early.get()
        return names(self) if read is None else read

    def contains_then(self: Live, txid: Txid) -> bool:
        read = early.get()
        return contains(self, txid) if read is None else txid in read

    stack = ExitStack()
    stack.enter_context(patch.object(Supervisor, "sweep", hasty))
    stack.enter_context(patch.multiple(Live, names=names_then, __contains__=contains_then))
    return stack


def seen_epoch_is_not_checked() -> AbstractContextManager[Any]:
    """A copy of an attempt from before a restart runs, as if there had been nothing before."""
    execute = Engine.execute

    async def trusting(self: Engine, submission: Submission) -> Answer:
        seen = submission.seen_epoch
        if isinstance(seen, Epoch):
            submission = replace(submission, seen_epoch=None)
        return await execute(self, submission)

    return patch.object(Engine, "execute", trusting)


class _Beginning(str):
    """The name of a journal, of which the first half counts."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self[:8] == other[:8]

    def __hash__(self) -> int:
        return hash(self[:8])


class _MatchesByPrefix(Gid):
    @classmethod
    def parse(cls, text: str) -> Gid:
        gid = Gid.parse(text)
        return Gid(_Beginning(gid.journal), gid.txid, gid.branch)


def gids_are_matched_by_prefix() -> AbstractContextManager[Any]:
    """A GID is taken for ours if its journal's name begins like ours. `ListsByPrefix` is the other half: each filter is
    the other's net. A third one holds even so: an epoch that is strange is not finished without evidence, but the
    coordinator takes its journal for an old copy then, and begins nothing more."""
    return patch.object(supervisor, "Gid", _MatchesByPrefix)
