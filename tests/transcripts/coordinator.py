"""A coordinator of a transcript: its epoch, its runs, its proposals, and whom it believes.

Lives here: what all its protocols share. Must not live here: a protocol (`two_phase`), recovery (`recovery`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from transcripts.board import Arrow
from transcripts.disk import View, at_once
from transcripts.language import Impossible
from transcripts.participants import Participant
from transcripts.pending import Pending, Proposed, Ruled
from transcripts.stage import Stage
from transcripts.wire import Request, Transaction, Waiter
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.engine.links import Links
from twophase.coordinator.engine.peers import Peer, Peers
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.journal.events import BranchRef, Definition, Event
from twophase.coordinator.journal.port import Journal, ParticipantRecord, Proposal
from twophase.coordinator.protocol.decisions import Decision
from twophase.coordinator.protocol.events import DeadlinePassed, RollbackAsked
from twophase.v1 import participant_pb2, types_pb2


class Run(Protocol):
    """A transaction under way in a coordinator, whatever its protocol."""

    @property
    def live(self) -> bool:
        """Whether it is still at work."""
        ...

    def feed(self, event: DeadlinePassed | RollbackAsked) -> None:
        """What can happen to every transaction: its time is up, or its end is asked for."""
        ...


@dataclass(eq=False, slots=True)
class Coordinator:
    """One coordinator, from its start to its death."""

    stage: Stage
    name: str
    epoch: Epoch
    peers: Peers
    status: str = "up"
    runs: dict[Txid, Run] = field(default_factory=dict)
    sent: list[Request] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    readings: dict[str, Any] = field(default_factory=dict)
    unheard: list[Request] = field(default_factory=list)

    @classmethod
    def open(cls, stage: Stage, name: str, *, fence: bool) -> Coordinator:
        """Starts one on the journal, with an epoch of its own."""
        epoch = stage.disk.open(fence=fence)
        peers = Peers(cast(Journal, View(stage.disk, epoch)), cast(Links, None), cast(Tasks, None))
        at_once(peers.quarantine.load())
        for there in stage.participants.values():
            peers._peers[there.name] = Peer(_record(there), cast(Any, None))
        stage.coordinators[name] = cls(stage, name, epoch, peers)
        return stage.coordinators[name]

    @property
    def live(self) -> frozenset[Txid]:
        """The transactions that are under way here."""
        return frozenset(txid for txid, run in self.runs.items() if run.live)

    # --- its journal ------------------------------------------------------------------------------------------------

    def write(self, event: Event, said: str) -> None:
        """Hands over an event that rides along."""
        self.stage.disk.write(event)
        self.draw(Arrow.RIDES, "journal", said)

    def propose(
        self,
        of: Transaction,
        decision: Decision,
        branches: tuple[BranchRef, ...],
        waiter: Ruled,
        *,
        definition: Definition | None = None,
    ) -> None:
        """Hands a decision to the journal."""
        proposal = Proposal(of.txid, decision, self.epoch, of.request, branches, definition=definition)
        self.hand_over(Proposed(self, of, proposal, waiter), self.words(of, decision))

    def hand_over(self, pending: Pending, said: str) -> None:
        """Something is on its way to the journal, which may take it or not."""
        self.draw(Arrow.SENT, "journal", pending.of.titled(f"{said}?"))
        self.pending.append(pending)

    def words(self, of: Transaction, decision: Decision) -> str:
        """A decision in words."""
        return decision.kind.value if decision.branch is None else f"delegated to {of.places[decision.branch]}"

    # --- its participants -------------------------------------------------------------------------------------------

    def ask(self, of: Transaction, branch: int, what: str, waiter: Waiter) -> None:
        """Sends a request about a branch."""
        request = Request(self.name, of.places[branch], what, of, self.stage.disk.state.position, waiter)
        self.sent.append(request)
        self.stage.send(request)

    def again(self, request: Request) -> None:
        """Repeats a request that must be answered, as soon as its participant is there."""
        if self.stage.participant(request.to).up:
            self.stage.send(request)
        else:
            self.stage.wire.held.append(request)

    def believes(self, name: str, timeline: int) -> bool:
        """Whether an answer of that timeline counts; if not, hands are shaken anew before the next one."""
        peer = self.peers.get(name)
        assert peer is not None
        identity = types_pb2.DatabaseIdentity(
            system_identifier=peer.record.system_identifier, timeline=timeline, database=peer.record.database
        )
        if peer.speaks_for(identity):
            return True
        self.stands(f"the answer of {name} does not count: it is of timeline {timeline}, not {peer.record.timeline}")
        self.stage.soon(lambda: self.meet(self.stage.participant(name)))
        return False

    def meet(self, there: Participant) -> None:
        """Shakes hands with a participant, which shows what it remembers of the journal."""
        peer = self.peers.get(there.name)
        assert peer is not None
        if not there.up:
            self.stage.board.draw(there.name, Arrow.LOST, self.name, "no handshake")
            return
        self.stage.board.draw(there.name, Arrow.SENT, self.name, _remembered(there))
        if peer.record.timeline != there.timeline:
            self.alarm(f"{there.name} answers on timeline {there.timeline}: a standby was promoted")
            peer.record = _record(there)
        self.prove(lambda: at_once(self.peers._compare(there.name, _handshake(there))))
        if not self.peers.quarantine.active and (there.epoch is None or there.epoch < self.epoch):
            there.epoch = self.epoch

    def prove(self, compare: Any) -> None:
        """Looks for a proof that the journal is an older copy; an alarm if this is the first one."""
        before = self.peers.quarantine.active
        compare()
        if self.peers.quarantine.active and not before:
            self.quarantined()

    def quarantined(self) -> None:
        """The journal is an older copy, and everybody must know."""
        self.alarm("the journal is older than its participants: quarantine")

    # --- its end ----------------------------------------------------------------------------------------------------

    def abandon(self, of: Transaction | None = None) -> None:
        """Nobody here waits any more for what was asked, of one transaction or of all."""
        for request in self.sent:
            if of is None or request.of is of:
                request.waiter = None

    def wake(self) -> None:
        """It was frozen, and goes on. What broke meanwhile it learns now."""
        if self.status != "frozen":
            raise Impossible(f"{self.name} is {self.status}, not frozen")
        self.status = "up"
        for request in self.unheard:
            self.stage.unanswered(request)
        self.unheard.clear()

    def die(self) -> None:
        """The process ends. What it has sent may still arrive."""
        self.status = "dead"
        self.abandon()
        self.pending.clear()
        self.runs.clear()
        self.readings.clear()
        self.stands("dead")

    # --- drawing ----------------------------------------------------------------------------------------------------

    def draw(self, arrow: Arrow, target: str, what: str) -> None:
        """It sends or writes something."""
        self.stage.board.draw(self.name, arrow, target, what)

    def stands(self, how: str) -> None:
        """How it stands."""
        self.stage.board.stands(self.name, how)

    def alarm(self, what: str) -> None:
        """It raises an alarm."""
        self.stage.board.alarm(self.name, what)


def _record(there: Participant) -> ParticipantRecord:
    return ParticipantRecord(there.name, "", "7", there.timeline, there.name)


def _handshake(there: Participant) -> participant_pb2.HandshakeResponse:
    last = None if there.epoch is None else types_pb2.Epoch(number=there.epoch.number, nonce=there.epoch.nonce)
    return participant_pb2.HandshakeResponse(participant=there.name, last_epoch=last, highest_position=there.position)


def _remembered(there: Participant) -> str:
    seen = "no epoch" if there.epoch is None else f"epoch {there.epoch.number}"
    return f"has seen {seen}, position {there.position}"
