"""Two-phase commit in a transcript: the real machine, its effects carried out and drawn, answers fed as events.

Lives here: one transaction under way. Must not live here: any rule of the protocol, which is `protocol.twophase`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.wire import Request, Transaction
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import JournalError, Ruling
from twophase.coordinator.protocol import twophase
from twophase.coordinator.protocol.decisions import Decision, Ending, Vote
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
from twophase.coordinator.protocol.events import ApplyLost, Event, Finished, Ruled, Unreached, Voted

_OVER = (twophase.Phase.COMMITTED, twophase.Phase.ABORTED)
_VOTES = {vote.value: vote for vote in Vote}
_ENDINGS = {ending.value: ending for ending in Ending}


@dataclass(eq=False, slots=True)
class TwoPhaseRun:
    """A transaction under way. `client` is who hears of its outcome."""

    at: Coordinator
    of: Transaction
    client: str
    state: twophase.State

    @classmethod
    def begin(cls, at: Coordinator, of: Transaction) -> None:
        """Begins it with its work."""
        branches = tuple(of.ref(number) for number in range(len(of.places)))
        at.write(facts.Begun(of.txid, of.request, branches), of.titled("begun"))
        plan = (twophase.Branch(ref.number, read_only=ref.number in of.reads) for ref in branches)
        cls._start(at, of, of.client, twophase.begin(plan, in_turn=of.in_turn))

    @classmethod
    def refuse(cls, at: Coordinator, of: Transaction) -> None:
        """Ends it before anybody is told."""
        at.write(facts.Begun(of.txid, of.request, ()), of.titled("begun"))
        cls._start(at, of, of.client, twophase.refuse())

    @classmethod
    def resume(cls, at: Coordinator, of: Transaction, record: facts.TransactionRecord, extra: frozenset[int]) -> None:
        """Takes it up from the journal; `extra` are branches that were found prepared."""
        assert record.decision is not None
        branches = sorted((record.hearers or frozenset()) | extra)
        endings = {number: ending for number, ending in record.endings.items() if number in branches}
        cls._start(at, of, "clients", twophase.resume(record.decision, branches, endings))

    @classmethod
    def _start(cls, at: Coordinator, of: Transaction, client: str, step: twophase.Step) -> None:
        run = cls(at, of, client, step[0])
        at.runs[of.txid] = run
        run._take(step)

    @property
    def live(self) -> bool:
        """See `Run`."""
        return self.state.phase not in _OVER

    def feed(self, event: Event) -> None:
        """Something happened."""
        self._take(twophase.step(self.state, event))

    # --- what happens -----------------------------------------------------------------------------------------------

    def answered(self, request: Request, said: str) -> None:
        """See `Waiter`."""
        number = self.of.branch_at(request.to)
        if request.what == "prepare":
            self._voted(number, _VOTES[said])
        elif said == "retry":
            self.feed(ApplyLost(number))
        else:
            self.at.stage.sights.add(_ENDINGS[said])
            self.at.write(facts.Finished(self.of.txid, number, _ENDINGS[said]), self.of.titled(f"{request.to} {said}"))
            self.feed(Finished(number, _ENDINGS[said]))

    def unanswered(self, request: Request) -> None:
        """See `Waiter`. What must be answered is repeated."""
        number = self.of.branch_at(request.to)
        match request.what:
            case "prepare":
                self._voted(number, Vote.LOST)
            case "apply":
                self.feed(ApplyLost(number))
            case _:
                self.feed(Unreached(number))
                if self.live:
                    self.at.again(request)

    def ruled(self, ruling: Ruling) -> None:
        """See `Ruled`."""
        self.feed(Ruled(ruling.decision))

    def refused(self, error: JournalError) -> None:
        """See `Ruled`: the owner of a transaction is refused only when its epoch is fenced, and is dead then."""
        raise AssertionError(f"the owner was refused: {error}")

    def _voted(self, number: int, vote: Vote) -> None:
        self.at.stage.sights.add(vote)
        said = f"{self.of.places[number]} {'silent' if vote is Vote.LOST else vote.value}"
        self.at.write(facts.Voted(self.of.txid, number, vote), self.of.titled(said))
        self.feed(Voted(number, vote))

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _take(self, step: twophase.Step) -> None:
        self.state, effects = step
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendPrepare(branch):
                self.at.ask(self.of, branch, "prepare", self)
            case SendApply(branch):
                self.at.ask(self.of, branch, "apply", self)
            case SendCommit(branch):
                self.at.ask(self.of, branch, "commit", self)
            case SendAbort(branch):
                self.at.ask(self.of, branch, "abort", self)
            case SendSettle(branch):
                self.at.ask(self.of, branch, "settle", self)
            case Propose(decision):
                self.at.propose(self.of, decision, self._hearers(decision), self)
            case TellDecided(committed):
                self.at.draw(Arrow.SENT, self.client, self.of.titled(_outcome(committed=committed)))
            case TellUnreached():
                away = ", ".join(self.of.places[number] for number in self.state.open)
                self.at.draw(Arrow.SENT, self.client, self.of.titled(f"{away} is out of reach"))
            case Alarm(branch, ending):
                assert self.state.decision is not None
                decided = self.at.words(self.of, self.state.decision)
                self.at.alarm(self.of.titled(f"{self.of.places[branch]} is {ending.value}, decided was {decided}"))
            case End(committed):
                ended = f"ended, {_outcome(committed=committed)}"
                self.at.write(facts.Ended(self.of.txid, committed), self.of.titled(ended))
                self.at.abandon(self.of)

    def _hearers(self, decision: Decision) -> tuple[facts.BranchRef, ...]:
        """The branches that recovery must tell of the decision."""
        delegate = () if decision.branch is None else (decision.branch,)
        return tuple(self.of.ref(number) for number in sorted({*self.state.open, *delegate}))


def _outcome(*, committed: bool) -> str:
    return "committed" if committed else "aborted"
